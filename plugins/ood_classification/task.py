"""The supervised tasks around a network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ood_classification.augmentation import Mix
from ood_classification.covariance import EmbeddingCovariance
from ood_core.interfaces import Batch, Network, Task


class ClassificationTask(Task):
    """Cross-entropy with targets (1 - a) y + a / C, mixed or not; its floor is their entropy, not 0.

    Args:
        network: With a classifier for the classes.
        label_smoothing: a, the share of the target spread over all classes.
        mix: Mixes the images of a batch, and their labels.
    """

    def __init__(self, network: Network, label_smoothing: float, mix: Mix) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing = label_smoothing
        self.mix = mix

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and the accuracy; in a mixture the label with the larger share counts."""
        (images,) = batch.views
        images, targets = self.mix(images, batch.labels) if self.training else (images, batch.labels)
        logits = self.logits(images)
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        return {
            "loss": cross_entropy(logits, targets, label_smoothing=self.label_smoothing),
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }

    def logits(self, images: Tensor) -> Tensor:
        """Return [B, C]."""
        logits: Tensor = self.network(images)
        return logits


class OneClassTask(ClassificationTask):
    """The same loss; the embeddings are watched, because nothing in it keeps them from collapsing."""

    def __init__(self, network: Network, label_smoothing: float, mix: Mix) -> None:
        super().__init__(network, label_smoothing, mix)
        self.spread = EmbeddingCovariance(network.num_features)

    def logits(self, images: Tensor) -> Tensor:
        features = self.network.forward_features(images)
        if self.training:
            with torch.no_grad():
                self.spread.add(self.network.forward_head(features, pre_logits=True))
        return self.network.forward_head(features)

    def after_epoch(self) -> dict[str, float]:
        return self.spread.close()

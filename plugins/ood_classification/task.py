"""The supervised tasks around a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ood_classification.augmentation import Mix
from ood_classification.spread import Spread
from ood_core.interfaces import Batch, Network, Task


@dataclass(frozen=True)
class Supervision:
    """What the network is asked, and how its answer is judged.

    Attributes:
        label_smoothing: a, the share of the target spread over all classes.
        mix: Mixes the images of a batch, and their labels.
    """

    label_smoothing: float
    mix: Mix

    def question(self, batch: Batch, training: bool) -> tuple[Tensor, Tensor]:
        """Return images and targets, int64 [B] or, where labels were mixed, float32 [B, C]."""
        (images,) = batch.views
        return self.mix(images, batch.labels) if training else (images, batch.labels)

    def judgement(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the loss, and the accuracy on what was shown: of the label with the larger share in a mixture."""
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        return {
            "loss": cross_entropy(logits, targets, label_smoothing=self.label_smoothing),
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }


class ClassificationTask(Task):
    """Cross-entropy with targets (1 - a) y + a / C, mixed or not; its floor is their entropy, not 0."""

    def __init__(self, network: Network, supervision: Supervision) -> None:
        super().__init__()
        self.network = network
        self.supervision = supervision

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, and the accuracy on the augmented images."""
        images, targets = self.supervision.question(batch, self.training)
        return self.supervision.judgement(self.network(images), targets)


class OneClassTask(Task):
    """The same loss; the embeddings are watched, because nothing in it keeps them from collapsing."""

    def __init__(self, network: Network, supervision: Supervision) -> None:
        super().__init__()
        self.network = network
        self.supervision = supervision
        self.spread = Spread(network.num_features)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, and the accuracy on the augmented images."""
        images, targets = self.supervision.question(batch, self.training)
        features = self.network.forward_features(images)
        if self.training:
            with torch.no_grad():
                self.spread.add(self.network.forward_head(features, pre_logits=True))
        return self.supervision.judgement(self.network.forward_head(features), targets)

    def after_epoch(self) -> dict[str, float]:
        """Return effective rank and trace of the covariance of the epoch's embeddings, taken while it trained."""
        return self.spread.close()

"""The pretext task `classification`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.nn.functional import cross_entropy

from ood_classification.augmentation import Augmentation
from ood_core.data import random_crop
from ood_core.interfaces import Batch, Network, NonNegativeInt, PretextTask, Task, TrainingData, Views


class ClassificationTask(Task):
    """Cross-entropy with targets (1 - a) * onehot + a / C; its floor is their entropy, not 0."""

    def __init__(self, network: Network, label_smoothing: float) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, and the accuracy on the augmented images."""
        (images,) = batch.views
        logits = self.network(images)
        accuracy = (logits.argmax(1) == batch.labels).float().mean()
        return {
            "loss": cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing),
            "accuracy": accuracy,
        }


@dataclass(frozen=True, kw_only=True)
class Classification(PretextTask):
    """Supervised training with a fresh linear classifier; MOOD's fine-tuning stage (Li et al., 2023).

    For 32 x 32 images the paper's crop is `crop_scale: 1, crop_padding: 4`; digits and letters need `flip: false`.

    Attributes:
        label_smoothing: a, the share of the target spread over all classes; 0.1 in the paper.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.08 in the paper, 1 crops nothing.
        crop_padding: Black pixels put around the view before it is cut out at random again; 4 in the paper up to 32
            pixels.
        flip: Whether half of the images are mirrored.
    """

    name = "classification"
    trains_head: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2  # the softmax of one output is constant: nothing would be learnt

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    crop_padding: NonNegativeInt = 0
    flip: bool = True

    def views(self, image_size: int) -> Views:
        """Return the augmentation, one view."""
        return Augmentation(image_size, random_crop(image_size, self.crop_scale), self.crop_padding, self.flip)

    def build(self, network: Network, data: TrainingData) -> ClassificationTask:
        """Return the task, the network's classifier made fresh."""
        network.reset_classifier(data.classes)
        return ClassificationTask(network, self.label_smoothing)

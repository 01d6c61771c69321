"""The pretext tasks `outlier-exposure` and `energy-exposure`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, TypeAlias

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ood_core.data.transforms import Compose, MultiView, Transform, padded_crop, random_crop, random_flip
from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PretextTask, Task, TrainingData, Views
from ood_core.interfaces.plugin import NonNegativeFloat, NonNegativeInt, PositiveInt

Penalty: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From the logits of ID images [B, C] and of outliers [B', C] to a scalar."""


def penalize_confidence(inside: Tensor, outside: Tensor) -> Tensor:
    """Return the outliers' cross-entropy to uniform, less the constant part log C: mean logsumexp(z) - mean_j z_j."""
    return (outside.logsumexp(1) - outside.mean(1)).mean()


def penalize_energies(inside: Tensor, outside: Tensor, margin_id: float, margin_ood: float) -> Tensor:
    """Return the squared hinges of energies -logsumexp(z) above `margin_id` for ID images, below `margin_ood` else."""
    too_high = (-inside.logsumexp(1) - margin_id).relu()
    too_low = (margin_ood + outside.logsumexp(1)).relu()
    return too_high.square().mean() + too_low.square().mean()


class ExposureTask(Task):
    """Cross-entropy of the ID images, plus a weighted penalty."""

    def __init__(self, network: Network, label_smoothing: float, penalty: Penalty, weight: float) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing, self.penalty, self.weight = label_smoothing, penalty, weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, the unweighted penalty, and the accuracy on the augmented ID images."""
        assert batch.outliers is not None, "the pretext has `auxiliary_images`"
        (images,) = batch.views
        # one pass, as in the papers: batch normalisation sees both
        inside, outside = self.network(torch.cat((images, batch.outliers))).float().tensor_split([len(images)])
        penalty = self.penalty(inside, outside)
        classification = cross_entropy(inside, batch.labels, label_smoothing=self.label_smoothing)
        return {
            "loss": classification + self.weight * penalty,
            "penalty": penalty,
            "accuracy": (inside.argmax(1) == batch.labels).float().mean(),
        }


# A recipe writes options flat, so that both tasks must have them as fields: inherited, they are declared once.
@dataclass(frozen=True, kw_only=True)
class Exposure(PretextTask):
    """Training on labelled ID images, with images of the auxiliary set in every batch.

    A classifier of these classes from an earlier training stage is fine-tuned, as in the papers.

    Attributes:
        auxiliary_batch_size: Outliers per optimizer step, over all processes; 256 in the papers, twice the ID images.
        label_smoothing: Share of an ID image's target that is spread over all classes; 0 in the papers.
        crop_scale: Smallest share of an image's area that a random crop keeps; 1, as in the papers, crops nothing.
        crop_padding: Black border of the view before a random crop to its size; 4 in the papers, for 32 pixels.
        flip: Whether half of the images are mirrored.
    """

    trains_head: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2  # the softmax of one output is always uniform

    auxiliary_batch_size: PositiveInt = 256
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    crop_scale: Annotated[float, Gt(0), Le(1)] = 1.0
    crop_padding: NonNegativeInt = 4
    flip: bool = True

    def auxiliary_images(self) -> int:
        return self.auxiliary_batch_size

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        changes: list[Transform] = [random_crop(image_size, self.crop_scale)]
        changes += [partial(padded_crop, padding=self.crop_padding)] if self.crop_padding else []
        changes += [random_flip] if self.flip else []
        return MultiView((Compose(tuple(changes)),))

    def task(self, network: Network, data: TrainingData, penalty: Penalty, weight: float) -> ExposureTask:
        """Return the task; a classifier without an output for each class is replaced."""
        classifier = network.get_classifier()
        if not isinstance(classifier, (nn.Linear, nn.Conv2d)) or len(classifier.weight) != data.classes:
            network.reset_classifier(data.classes)
        return ExposureTask(network, self.label_smoothing, penalty, weight)


@dataclass(frozen=True, kw_only=True)
class OutlierExposure(Exposure):
    """Classify ID images and predict uniformly for outliers (Hendrycks et al., 2019).

    loss = cross-entropy of the ID images + weight * mean over outliers of logsumexp(z) - mean_j z_j.

    Attributes:
        weight: Weight of the outliers' term; 0.5 in the paper.
    """

    name = "outlier-exposure"
    weight: NonNegativeFloat = 0.5

    def build(self, network: Network, data: TrainingData) -> ExposureTask:
        return self.task(network, data, penalize_confidence, self.weight)


@dataclass(frozen=True, kw_only=True)
class EnergyExposure(Exposure):
    """Classify ID images, and separate energies of ID images and outliers by two margins (Liu et al., 2020).

    loss = cross-entropy of the ID images + weight * (mean over ID images of max(0, E - margin_id)^2 + mean over
    outliers of max(0, margin_ood - E)^2), E = -logsumexp(z). Meant to fine-tune a trained classifier.

    Attributes:
        weight: Weight of the energies' term; 0.1 in the paper.
        margin_id: Upper margin of ID images' energy; -23 in the paper for CIFAR-10, -27 for CIFAR-100.
        margin_ood: Lower margin of outliers' energy; -5 in the paper.
    """

    name = "energy-exposure"
    weight: NonNegativeFloat = 0.1
    margin_id: float = -23.0
    margin_ood: float = -5.0

    def check(self) -> None:
        if self.margin_id >= self.margin_ood:
            raise OODError(
                f"pretext '{self.name}': 'margin_id' {self.margin_id:g} has to be below 'margin_ood' "
                f"{self.margin_ood:g}: ID images are those with little energy"
            )

    def build(self, network: Network, data: TrainingData) -> ExposureTask:
        penalty = partial(penalize_energies, margin_id=self.margin_id, margin_ood=self.margin_ood)
        return self.task(network, data, penalty, self.weight)

"""The pretext tasks `outlier-exposure` and `energy-exposure`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, Lt
from torch import nn

from ood_core.data.transforms import Compose, MultiView, Transform, padded_crop, random_crop, random_flip
from ood_core.errors import OODError
from ood_core.interfaces import Network, NonNegativeFloat, NonNegativeInt, PositiveInt, PretextTask, TrainingData, Views
from ood_outliers.task import ExposureTask, Penalty, penalize_confidence, penalize_energies


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

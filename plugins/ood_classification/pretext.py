"""The pretext tasks `classification` and `one-class`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, TypeVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ood_classification.augmentation import POLICIES, Mix, erasing, mixing, recoloured
from ood_core.data.transforms import Compose, MultiView, Transform, padded_crop, random_crop, random_flip
from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PretextTask, Task, TrainingData, Views
from ood_core.interfaces.plugin import NonNegativeFloat, NonNegativeInt, PositiveFloat
from ood_core.runtime import distributed


class EmbeddingCovariance(nn.Module):
    """Sums over the embeddings of an epoch, of all processes, from which their covariance follows.

    The sums are buffers: an epoch that was interrupted goes on with them. Embeddings are counted from the mean of the
    first batch, since the difference of two large sums would have few digits.
    """

    count: Tensor
    origin: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("origin", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("first", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(width, width, dtype=torch.float64))

    @torch.no_grad()
    def add(self, embeddings: Tensor) -> None:
        """Count the embeddings [B, D] of this step."""
        # gathered, so that the sums are the same in every process: a checkpoint keeps those of the first
        rows = distributed.all_gather(embeddings).double()
        self.origin.copy_(torch.where(self.count == 0, rows.mean(0), self.origin))  # no `if`: a GPU would be waited for
        rows = rows - self.origin
        self.count += len(rows)
        self.first += rows.sum(0)
        self.second += rows.T @ rows

    def close(self) -> dict[str, float]:
        """Return effective rank and trace of the covariance, and begin a new epoch."""
        mean = self.first / self.count
        covariance = self.second / self.count - mean.outer(mean)
        for sums in (self.count, self.first, self.second):
            sums.zero_()
        return {"effective_rank": effective_rank(covariance), "feature_trace": covariance.trace().item()}


def effective_rank(covariance: Tensor) -> float:
    """Return exp of the entropy of the eigenvalues' shares (Roy & Vetterli, 2007): 1 to D, and 0 for no variance."""
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=0)
    total = eigenvalues.sum()
    return torch.special.entr(eigenvalues / total).sum().exp().item() if total > 0 else 0.0


class ClassificationTask(Task):
    """Cross-entropy with targets (1 - a) y + a / C, mixed or not; its floor is their entropy, not 0."""

    def __init__(self, network: Network, label_smoothing: float, mix: Mix) -> None:
        super().__init__()
        self.network, self.label_smoothing, self.mix = network, label_smoothing, mix

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


T = TypeVar("T", bound=ClassificationTask)


# A recipe writes options flat, so both tasks must have them as their own fields: inherited, they are declared once.
@dataclass(frozen=True, kw_only=True)
class Supervised(PretextTask):
    """Options of both tasks.

    Attributes:
        label_smoothing: a, the share of the target spread over all classes; 0.1 in the paper.
        head_scale: Factor on the weights of the fresh classifier; 0.001 in BEiT.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.08 in the paper, 1 crops nothing.
        crop_padding: Black border of the view before a random crop to its size; 4 in the paper up to 32 pixels.
        flip: Whether half of the images are mirrored.
        auto_augment: A policy of timm, drawn for each image; "rand-m9-mstd0.5-inc1" in the paper, none changes nothing.
        color_jitter: Strength for brightness, contrast and saturation; 0 in the paper. Only the 3-Augment policies,
            whose part it is, go with it.
        random_erasing: Share of images with a rectangle of noise in them; 0.25 in the paper. The noise is not clipped,
            so pixels of it may lie outside of [0, 1], as BEiT's do.
        mixup: Parameter of the Beta distribution of shares in which two images are laid over each other; 0 in the
            paper, which is off, 0.8 in BEiT's training from MIM alone.
        cutmix: The same for a rectangle that one image gets from another; 0 in the paper, 1.0 there. With both, each
            batch gets one of them by chance.
    """

    trains_head: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    head_scale: PositiveFloat = 1.0
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    crop_padding: NonNegativeInt = 0
    flip: bool = True
    auto_augment: str | None = None
    color_jitter: NonNegativeFloat = 0.0
    random_erasing: Annotated[float, Ge(0), Le(1)] = 0.0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0

    def check(self) -> None:
        policy = self.auto_augment
        if policy is None:
            return
        if not POLICIES.fullmatch(policy):
            raise OODError(
                f"option 'auto_augment' of pretext '{self.name}': timm knows no policy '{policy}'; it knows those like "
                "'rand-m9-mstd0.5-inc1', 'augmix-m3-w3', 'original-mstd0.5' and '3a'"
            )
        if self.color_jitter and "3a" not in policy:
            raise OODError(
                f"pretext '{self.name}': 'color_jitter' does nothing beside the policy '{policy}', which changes "
                "colours itself; leave one of the two out"
            )

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation, one view, in timm's order; what is switched off costs nothing."""
        changes: list[Transform] = [random_crop(image_size, self.crop_scale)]
        if self.crop_padding:
            changes.append(partial(padded_crop, padding=self.crop_padding))
        if self.flip:
            changes.append(random_flip)
        if self.auto_augment or self.color_jitter:
            changes.append(recoloured(image_size, self.auto_augment, self.color_jitter))
        if self.random_erasing:
            changes.append(erasing(self.random_erasing))
        return MultiView((Compose(tuple(changes)),))

    def task(self, kind: type[T], network: Network, classes: int) -> T:
        """Return the task for so many classes, with a fresh classifier."""
        network.reset_classifier(classes)
        with torch.no_grad():
            for parameter in network.get_classifier().parameters():
                parameter.mul_(self.head_scale)
        return kind(network, self.label_smoothing, mixing(self.mixup, self.cutmix, classes))


@dataclass(frozen=True, kw_only=True)
class Classification(Supervised):
    """Supervised training with a fresh linear classifier; MOOD's fine-tuning stage (Li et al., 2023).

    For 32 x 32 images the paper's crop is `crop_scale: 1, crop_padding: 4`; digits and letters need `flip: false`.
    """

    name = "classification"
    least_classes: ClassVar[int] = 2  # the softmax of one output is constant: nothing would be learnt

    def build(self, network: Network, data: TrainingData) -> ClassificationTask:
        return self.task(ClassificationTask, network, data.classes)


@dataclass(frozen=True, kw_only=True)
class OneClass(Supervised):
    """MOOD's fine-tuning on one class of a data set of many: the classifier keeps an output for each of them.

    Which output stands for the class does not matter, because a fresh classifier prefers none. The loss is as small as
    it gets once the bias alone says the class; embeddings may collapse on the way, which `effective_rank` shows: train
    little, with a small learning rate. As in `classification`, `crop_scale: 1, crop_padding: 4` is the paper's crop of
    32 x 32 images.
    """

    name = "one-class"

    def build(self, network: Network, data: TrainingData) -> OneClassTask:
        if data.all_classes < 2:
            raise OODError(
                f"pretext '{self.name}' needs a data set of at least 2 classes, of which one is selected; "
                "this one has 1, and a classifier with one output learns nothing"
            )
        return self.task(OneClassTask, network, data.all_classes)

"""The options of a detector, and the parts of a fitted one, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from ood_core.errors import OODError, suggest
from ood_core.evaluation import TPR
from ood_core.evaluation.calibration import Calibration
from ood_core.interfaces import Backbone, EvaluationView, Head, Network, PretextTask, Score, Scorer, Task
from ood_core.pipeline import networks
from ood_core.runtime import memory, torch_state


def device_of(network: Network) -> torch.device:
    """Return the device of a network; the CPU for one without weights."""
    found = next(network.parameters(), next(network.buffers(), None))
    return torch.device("cpu") if found is None else found.device


def head_of(network: Network) -> Head | None:
    """Return the linear classifier on the CPU, like the outputs; None if there is none."""
    head = networks.head_of(network)
    return None if head is None else Head(head.weight.float().cpu(), head.bias.float().cpu())


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the network's input: RGB, resized, the central square, in [0, 1]."""

    image_size: int  # S, in pixels
    view: EvaluationView = field(default_factory=EvaluationView)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel of images in [0, 1]; one number each for a module of grey images."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
        """Raise OODError unless there are three numbers of each, or one, and deviations are positive."""
        try:
            mean, std = tuple(map(float, mean)), tuple(map(float, std))
        except (TypeError, ValueError):
            raise OODError(f"mean and std are sequences of numbers, not {mean!r} and {std!r}") from None
        if len(mean) not in (1, 3) or len(std) != len(mean) or min(std) <= 0:
            raise OODError(
                "mean and std are three numbers each, or one each for a module of one channel, and std is positive; "
                f"not {mean} and {std}"
            )
        return cls(mean, std)


@dataclass(kw_only=True, eq=False, repr=False)
class DetectorOptions:
    """The options of `Detector`, which documents them; `fit` reads them."""

    image_size: int | None = None
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    embeddings: str | int | None = None
    logits: str | int | bool | None = None
    crop_fraction: float = 1.0
    interpolation: str = "bicubic"
    squash: bool = False
    holdout: float = 0.2
    tpr: float = TPR
    per_class: bool = False
    examples: bool = True
    seed: int = 0
    name: str = "detector"

    def __post_init__(self) -> None:
        if self.image_size is not None and (not isinstance(self.image_size, int) or self.image_size < 1):
            raise OODError(f"image_size must be a whole number of pixels, not {self.image_size!r}")
        for option, share in (("holdout", self.holdout), ("tpr", self.tpr)):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise OODError(f"{option} must lie between 0 and 1, not {share!r}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise OODError(f"interpolation must be 'bilinear' or 'bicubic', not {self.interpolation!r}")
        if not isinstance(self.crop_fraction, (int, float)) or not 0 < self.crop_fraction <= 1:
            raise OODError(f"crop_fraction must be above 0 and at most 1, not {self.crop_fraction!r}")
        if not isinstance(self.squash, bool):
            raise OODError(f"squash must be True or False, not {self.squash!r}")

    @property
    def preprocessing(self) -> Preprocessing:
        """Resizing and cropping of images; raises OODError without an image_size."""
        if self.image_size is None:
            raise OODError("say which image_size the module wants: Detector(image_size=224)")
        view = {"crop_fraction": self.crop_fraction, "interpolation": self.interpolation, "squash": self.squash}
        return Preprocessing(self.image_size, EvaluationView(**view))  # type: ignore[arg-type]


@dataclass(frozen=True)
class FittedScorer:
    """A fitted scorer with its calibration."""

    name: str
    scorer: Scorer  # the plugin, with its options
    score: Score
    calibration: Calibration  # scores of the held-out ID images


@dataclass(frozen=True)
class Examples:
    """ID training images, of which the nearest are shown beside a new image."""

    embeddings: Tensor  # float32 [K, D]
    labels: Tensor  # int64 [K]
    pictures: tuple[bytes, ...]  # each as WebP, at most `THUMBNAIL` pixels wide and high

    def nearest(self, embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return Euclidean distances [N, k] and rows [N, k] of the nearest examples, the nearest first."""
        distances = torch.cdist(embeddings.double(), self.embeddings.double())
        found = distances.topk(min(count, len(self.labels)), dim=1, largest=False)
        return found.values, found.indices


@dataclass(frozen=True)
class TrainedTask:
    """A pretext task of the network's training, for error maps."""

    pretext: PretextTask  # the plugin, with its options
    outputs: int | None  # number of outputs of its network's classifier
    weights: Mapping[str, Tensor]  # state dict of its network
    state: Mapping[str, Tensor]  # state dict of the task without its network
    task: Task

    @torch_state.computing()
    @torch.no_grad()
    def patch_errors(self, images: Tensor) -> Tensor:
        """Return the prediction error of each patch, [B, h, w], for images [B, 3, S, S] in [0, 1]."""
        with memory.exhaustion_explained("making error maps: request fewer images at once, or none"):
            found = self.task.patch_errors(images)
        assert found is not None, "only tasks with errors are saved"
        return found


@dataclass(frozen=True)
class Origin:
    """The provenance of a detector."""

    name: str  # of the run, or the user's
    recipe: Mapping[str, Any] = field(default_factory=dict)  # the resolved recipe, in plain values; {} without one
    variant: str = ""
    case: str = ""
    seed: int = 0
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))  # ISO 8601


@dataclass(frozen=True)
class DetectorState:
    """All that a detector has learned."""

    network: Network  # frozen, in evaluation mode, on its device
    backbone: Backbone | None  # the plugin that builds such a network; None for the user's own module
    classifier: bool  # whether logits distinguish the ID classes
    head: Head | None  # the linear layer that makes these logits of embeddings, if there is one
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    scorers: tuple[FittedScorer, ...]  # at least one; the first decides by default
    origin: Origin
    reference_images: Tensor  # uint8 [W, 3, S, S], to notice a changed network
    reference_embeddings: Tensor  # float32 [W, D]
    independent: bool = True  # whether no scorer was fitted to the calibration images
    id_accuracy: float | None = None  # on the calibration images; None without logits or labels
    holdout: float = 0.2  # share of the images that was held out to calibrate on
    tpr: float = TPR  # default share of ID images to accept
    per_class: bool = False  # whether each predicted class has a threshold of its own by default
    examples: Examples | None = None  # for explanations, if they are kept
    trained_task: TrainedTask | None = None  # for explanations, if a training stage was masked image modelling

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return device_of(self.network)

    def scorer(self, name: str | None = None) -> FittedScorer:
        """Return the scorer of this name; default: the first one."""
        by_name = {of.name: of for of in self.scorers}
        if name is None:
            return self.scorers[0]
        if name not in by_name:
            raise OODError(f"the detector has no scorer '{name}'.{suggest(name, by_name)}")
        return by_name[name]

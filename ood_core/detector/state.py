"""The parts of a fitted detector, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """From an image to the network's input: RGB, resized, the central square, in [0, 1].

    Attributes:
        image_size: S, in pixels.
        view: Resizing and cropping.
    """

    image_size: int
    view: EvaluationView = field(default_factory=EvaluationView)


@dataclass(frozen=True)
class FittedScorer:
    """A fitted scorer with its calibration.

    Attributes:
        name: In results.
        scorer: The plugin, with its options.
        score: Its fitted score.
        calibration: The scores of the held-out ID images.
    """

    name: str
    scorer: Scorer
    score: Score
    calibration: Calibration


@dataclass(frozen=True)
class Examples:
    """ID training images, of which the nearest are shown beside a new image.

    Attributes:
        embeddings: float32 [K, D].
        labels: int64 [K].
        pictures: Each as WebP, at most `THUMBNAIL` pixels wide and high.
    """

    embeddings: Tensor
    labels: Tensor
    pictures: tuple[bytes, ...]

    def nearest(self, embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return Euclidean distances [N, k] and rows [N, k] of the nearest examples, the nearest first."""
        distances = torch.cdist(embeddings.double(), self.embeddings.double())
        found = distances.topk(min(count, len(self.labels)), dim=1, largest=False)
        return found.values, found.indices


@dataclass(frozen=True)
class TrainedTask:
    """A pretext task of the network's training, for error maps.

    Attributes:
        pretext: The plugin, with its options.
        outputs: Number of outputs of its network's classifier.
        weights: State dict of its network.
        state: State dict of the task without its network.
        task: The live task.
    """

    pretext: PretextTask
    outputs: int | None
    weights: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
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
    """The provenance of a detector.

    Attributes:
        name: Of the run, or the user's.
        recipe: The resolved recipe, in plain values; {} without one.
        variant: Of the recipe.
        case: Of the protocol.
        seed: Of the training.
        created: ISO 8601, UTC.
    """

    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    case: str = ""
    seed: int = 0
    created: str = ""


@dataclass(frozen=True)
class DetectorState:
    """All that a detector has learned.

    Attributes:
        network: Frozen, in evaluation mode, on its device.
        backbone: The plugin that builds such a network; None for the user's own module.
        classifier: Whether logits distinguish the ID classes.
        head: The linear layer that makes these logits of embeddings, if there is one.
        classes: Names of the ID classes.
        preprocessing: Of images.
        scorers: At least one; the first decides by default.
        origin: Provenance.
        reference_images: uint8 [W, 3, S, S], to notice a changed network.
        reference_embeddings: float32 [W, D].
        independent: Whether no scorer was fitted to the calibration images.
        id_accuracy: On the calibration images; None without logits or labels.
        holdout: Share of the images that was held out to calibrate on.
        tpr: Default share of ID images to accept.
        per_class: Whether each predicted class has a threshold of its own by default.
        examples: For explanations, if they are kept.
        trained_task: For explanations, if a training stage was masked image modelling.
    """

    network: Network
    backbone: Backbone | None
    classifier: bool
    head: Head | None
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    scorers: tuple[FittedScorer, ...]
    origin: Origin
    reference_images: Tensor
    reference_embeddings: Tensor
    independent: bool = True
    id_accuracy: float | None = None
    holdout: float = 0.2
    tpr: float = TPR
    per_class: bool = False
    examples: Examples | None = None
    trained_task: TrainedTask | None = None

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return device_of(self.network)

    def scorer(self, name: str | None = None) -> FittedScorer:
        """Return the scorer of this name; default: the first one.

        Raises:
            OODError: There is no such scorer.
        """
        by_name = {of.name: of for of in self.scorers}
        if name is None:
            return self.scorers[0]
        if name not in by_name:
            raise OODError(f"the detector has no scorer '{name}'.{suggest(name, by_name)}")
        return by_name[name]

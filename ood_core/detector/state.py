"""What a fitted detector is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ood_core.errors import OODError, suggest
from ood_core.evaluation.calibration import TPR, Calibration
from ood_core.interfaces import Backbone, EvaluationView, Head, Network, PretextTask, Score, Scorer, Task
from ood_core.pipeline import networks
from ood_core.runtime import memory, torch_state


def device_of(network: Network) -> torch.device:
    """Return where a network runs; the CPU for one without weights."""
    found = next(network.parameters(), next(network.buffers(), None))
    return torch.device("cpu") if found is None else found.device


def head_of(network: Network) -> Head | None:
    """Return the classifier on the CPU, where scorers see the outputs; None where the network has no linear one."""
    head = networks.head_of(network)
    return None if head is None else Head(head.weight.float().cpu(), head.bias.float().cpu())


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what the network is given: RGB, resized, the central square, in [0, 1].

    Attributes:
        image_size: S, in pixels.
        view: How an image of any size becomes a square of this size.
    """

    image_size: int
    view: EvaluationView = field(default_factory=EvaluationView)


@dataclass(frozen=True)
class FittedScorer:
    """One way of ranking images.

    Attributes:
        name: What results call it.
        scorer: The plugin, with its options.
        score: What it has fitted.
        calibration: The scores of the held-out ID images.
    """

    name: str
    scorer: Scorer
    score: Score
    calibration: Calibration


@dataclass(frozen=True)
class Examples:
    """Some ID training images that are shown beside a new image because they are nearest to it.

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
    """The pretext task that the network was trained on, for maps of what it cannot predict.

    Attributes:
        pretext: The plugin, with its options.
        outputs: Number of outputs of its network's classifier.
        weights: State dict of its network.
        state: State dict of the task without that of the network.
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
        """Return how badly each patch is predicted from the others, [B, h, w], of images [B, 3, S, S] in [0, 1]."""
        with memory.exhaustion_explained("making error maps: ask for fewer images at once, or for none"):
            found = self.task.patch_errors(images)
        assert found is not None, "only tasks that have errors are kept"
        return found


@dataclass(frozen=True)
class Origin:
    """Where a detector comes from.

    Attributes:
        name: Of the run, or what the user calls it.
        recipe: All that the run did, in plain values; {} without a recipe.
        variant: Of the recipe.
        case: Of the protocol.
        seed: Of the training.
        created: When, ISO 8601, UTC.
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
        backbone: What builds such a network; None for the user's own module.
        classifier: Whether logits tell the ID classes apart.
        head: The linear layer that makes these logits of embeddings, None where there is none.
        classes: Names of the ID classes.
        preprocessing: How images are shown.
        scorers: At least one; the first decides unless another one is asked to.
        independent: Whether the calibration images had no part in fitting any scorer.
        id_accuracy: Share of the calibration images that are classified correctly; None without logits or labels.
        holdout: Share of the images that were held out to calibrate by, where none were given for that.
        tpr: Share of ID images that is accepted, unless a call says otherwise.
        per_class: Whether each predicted class has a threshold of its own, unless a call says otherwise.
        origin: Where it comes from.
        witnesses: uint8 [W, 3, S, S], images by which a change of the network's outputs is noticed.
        witnessed: Their embeddings, float32 [W, D].
        examples: For explanations; may be none.
        trained_task: For explanations; None if no stage was masked image modelling.
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
        """Return the scorer of this name, the first one without a name.

        Raises:
            OODError: There is none of this name.
        """
        known = {of.name: of for of in self.scorers}
        if name is None:
            return self.scorers[0]
        if name not in known:
            raise OODError(f"the detector has no scorer '{name}'.{suggest(name, known)}")
        return known[name]

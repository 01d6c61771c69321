"""The stages of a run: values, made by `plan.make`, carried out by `run.schedule`.

    TrainStage -> ExtractStage -> FitStage -> ScoreStage -> MeasureStage

Each knows the stages it needs. Its key is made of all that decides its result, so equal keys mean equal results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from ood_core.data.selection import Part, SelectedImages
from ood_core.interfaces import Backbone, EvaluationView, PretextTask, Probe, Scorer, Tokenizer, Training


@dataclass(frozen=True)
class Images:
    """A data set for one purpose, opened."""

    name: str
    part: Part
    opened: SelectedImages = field(compare=False)

    def __str__(self) -> str:
        return self.name if self.part == "test" else f"{self.name} {self.part}"


@dataclass(frozen=True, kw_only=True)
class TrainStage:
    """Train a network on one pretext task, beginning with the backbone's own or an earlier stage's weights.

    A tokenizer that is trained has a stage of its own, without a backbone.
    """

    kind: ClassVar[str] = "train"
    key: str
    backbone: Backbone | None = field(compare=False)
    task: Training = field(compare=False)
    images: Images = field(compare=False)
    image_size: int
    seed: int
    auxiliary: Images | None = field(default=None, compare=False)
    """OOD images that may be trained on."""
    id_classes: bool = True
    """Whether the images have the ID classes, so that a classifier distinguishes these."""
    start: TrainStage | None = field(default=None, compare=False)
    tokenizers: tuple[tuple[Tokenizer, TrainStage], ...] = field(default=(), compare=False)

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """Stages whose results this one needs."""
        return (*(stage for _, stage in self.tokenizers), *([] if self.start is None else [self.start]))

    @property
    def trains_head(self) -> bool:
        """Whether the network's classifier means something afterwards."""
        return isinstance(self.task, PretextTask) and self.task.trains_head and self.id_classes

    @property
    def path(self) -> str:
        """The pretext tasks up to here: "mim > classification"."""
        return self.task.name if self.start is None else f"{self.start.path} > {self.task.name}"

    def __str__(self) -> str:
        return f"train {self.path}" if self.backbone is not None else f"train tokenizer {self.path}"


@dataclass(frozen=True, kw_only=True)
class ExtractStage:
    """Pass a data set through the network once and keep embeddings, logits and labels, or what a probe reads.

    Missing stages of the same network and images are carried out in one pass.
    """

    kind: ClassVar[str] = "extract"
    key: str
    pass_key: str
    """Key of the pass; stages that have it in common share one."""
    backbone: Backbone = field(compare=False)
    weights: TrainStage | None = field(compare=False)
    images: Images = field(compare=False)
    image_size: int
    classes: int
    """Number of ID classes, which is that of the network's outputs."""
    view: EvaluationView = field(default_factory=EvaluationView)
    augmented_by: PretextTask | None = field(default=None, compare=False)
    """Task with the augmentation through which the images are shown, instead of the evaluation view."""
    probe: Probe | None = field(default=None, compare=False)

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """Stages whose results this one needs."""
        return () if self.weights is None else (self.weights,)

    @property
    def seed(self) -> int | None:
        """The seed of the weights; None for a backbone that was not trained here."""
        return None if self.weights is None else self.weights.seed

    def __str__(self) -> str:
        what = str(self.images) if self.probe is None else f"{type(self.probe).__name__} of {self.images}"
        return f"extract {what} ({self.weights.path if self.weights else self.backbone.name})"


@dataclass(frozen=True)
class Extraction:
    """All that was read of one set of images: the outputs, and what probes add to them."""

    base: ExtractStage
    probes: tuple[ExtractStage, ...] = ()

    @property
    def stages(self) -> tuple[ExtractStage, ...]:
        """The stages behind it."""
        return (self.base, *self.probes)


@dataclass(frozen=True, kw_only=True)
class FitStage:
    """Fit a scorer to the outputs of the ID training images, and to those of the other images that it needs."""

    kind: ClassVar[str] = "fit"
    key: str
    name: str
    scorer: Scorer = field(compare=False)
    train: Extraction = field(compare=False)
    held_out: Extraction | None = field(compare=False)
    known_ood: tuple[Extraction, ...] = field(compare=False)
    seed: int

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """Stages whose results this one needs."""
        sets = (self.train, *([] if self.held_out is None else [self.held_out]), *self.known_ood)
        return tuple(stage for extraction in sets for stage in extraction.stages)

    def __str__(self) -> str:
        return f"fit {self.name}"


@dataclass(frozen=True, kw_only=True)
class ScoreStage:
    """Score the outputs of a data set."""

    kind: ClassVar[str] = "score"
    key: str
    fit: FitStage = field(compare=False)
    outputs: Extraction = field(compare=False)

    @property
    def images(self) -> Images:
        """What is scored."""
        return self.outputs.base.images

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """Stages whose results this one needs; a scorer that needs the network needs its training."""
        weights = self.outputs.base.weights if "network" in self.fit.scorer.all_needs() else None
        return (self.fit, *self.outputs.stages, *(() if weights is None else (weights,)))

    def __str__(self) -> str:
        return f"score {self.images} by {self.fit.name}"


@dataclass(frozen=True, kw_only=True)
class MeasureStage:
    """Compare the scores of ID and OOD test images; the threshold comes from held-out ID images.

    Shifted ID images count as ID. OOD images that are also among the ID images are counted, or taken out.
    """

    kind: ClassVar[str] = "measure"
    key: str
    id_scores: ScoreStage = field(compare=False)
    shifted_scores: tuple[ScoreStage, ...] = field(compare=False)
    held_scores: ScoreStage | None = field(compare=False)
    ood_scores: ScoreStage = field(compare=False)
    overlap: Literal["count", "remove"] = "count"

    @property
    def inputs(self) -> tuple[ScoreStage, ...]:
        """Stages whose results this one needs."""
        return (*self.id_and_shifted, *([] if self.held_scores is None else [self.held_scores]), self.ood_scores)

    @property
    def id_and_shifted(self) -> tuple[ScoreStage, ...]:
        """Scores of the images that count as ID."""
        return (self.id_scores, *self.shifted_scores)

    @property
    def fit(self) -> FitStage:
        """The scorer of the compared scores."""
        return self.id_scores.fit

    @property
    def spectrum(self) -> Literal["standard", "full"]:
        """Whether shifted images count as ID."""
        return "full" if self.shifted_scores else "standard"

    @property
    def id_set(self) -> str:
        """What counts as in-distribution, in words."""
        return " + ".join(str(stage.images) for stage in self.id_and_shifted)

    def __str__(self) -> str:
        return f"measure {self.fit.name} on {self.ood_scores.images}"


KINDS = ("train", "extract", "fit", "score", "measure")
"""Of stages, in the order in which they follow each other."""

Stage: TypeAlias = TrainStage | ExtractStage | FitStage | ScoreStage | MeasureStage


def job_key(stage: Stage) -> str:
    """Return the key of a stage's job: a training, a pass over images, or a fit with everything scored by it."""
    if isinstance(stage, ExtractStage):
        return stage.pass_key
    return stage.fit.key if isinstance(stage, (ScoreStage, MeasureStage)) else stage.key

"""What a plugin implements, and what the core hands to it.

Every plugin class is a frozen, keyword-only dataclass: its fields are the options a recipe may set, the class attribute
`name` is what a recipe writes behind `use:`, and one verb makes the live thing.

| kind            | verb                   | makes                                                    |
|-----------------|------------------------|----------------------------------------------------------|
| `Backbone`      | `build(...)`           | a `Network`                                              |
| `PretextTask`   | `views`, `build(...)`  | the augmentation, and a `Task` whose forward has a loss  |
| `Tokenizer`     | `fit(images, grid)`    | a `TokenMap`: images to token ids                        |
| `Scorer`        | `fit(train)`           | a `Score`: outputs to one number a row                   |
| `DatasetSource` | `open(split)`          | an `ImageSet`                                            |

Letters in shapes: N samples, B samples of a batch, D embedding, C classes, L patches, S image size in pixels.
Images are RGB. Between modules they are uint8 [3, H, W]; what a network is given is float32 [B, 3, S, S] in [0, 1],
and every network normalises for itself, because only it knows the statistics it was trained with.
Scores: float64, higher means more out-of-distribution, everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

from annotated_types import Ge, Gt
from torch import Tensor, nn

from ood_core.outputs import Head as Head  # the contract in one place: plugins import all of it from here
from ood_core.outputs import Outputs as Outputs

if TYPE_CHECKING:
    from PIL.Image import Image

Split: TypeAlias = Literal["train", "test"]
Views: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]

PositiveInt: TypeAlias = Annotated[int, Gt(0)]
PositiveFloat: TypeAlias = Annotated[float, Gt(0)]
NonNegativeInt: TypeAlias = Annotated[int, Ge(0)]
NonNegativeFloat: TypeAlias = Annotated[float, Ge(0)]


class Plugin(ABC):
    """What all plugin classes share: a name in recipes, and a check before the run."""

    name: ClassVar[str]

    def check(self) -> None:  # noqa: B027 - most plugins have nothing to check
        """Raise OODError for options that cannot work together or on this machine.

        Called by `ood-run --plan`, and before the first stage that is not in the store. It may import what is slow.
        """


# --------------------------------------------------------------------------------------------------- backbones


class Network(nn.Module, ABC):
    """A backbone with its classification head, under timm's method names. Takes images [B, 3, S, S] in [0, 1]."""

    num_features: int
    """D, the width of the embeddings."""

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map, in whatever layout `forward_head` takes."""

    @abstractmethod
    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits [B, C], or with `pre_logits` the embeddings [B, D] that the classifier is given."""

    @abstractmethod
    def get_classifier(self) -> nn.Module:
        """Return the linear layer (or 1x1 convolution) from embeddings to logits; `nn.Identity` where there is none."""

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one with this many outputs."""

    def layer_names(self) -> tuple[str, ...]:
        """Return the full names of the submodules whose outputs are the usual intermediate embeddings, first to last.

        Unless a network knows better: its children that are sequences of layers.
        """
        return tuple(name for name, child in self.named_children() if isinstance(child, nn.Sequential))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C]."""
        return self.forward_head(self.forward_features(images))


class PatchNetwork(Network):
    """A network that cuts the image into patches and can have some of them hidden, as masked image modelling needs."""

    grid: tuple[int, int]
    """Patches along height and width; L is their product."""

    @abstractmethod
    def patch_projection(self) -> nn.Module:
        """Return the layer that turns pixels into patch embeddings [B, L, D]."""

    @abstractmethod
    def forward_masked(self, images: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
        """Return the encoded patch tokens [B, L, D], after hiding the masked patches.

        Args:
            images: [B, 3, S, S] in [0, 1].
            mask: bool [B, L]; True hides the patch.
            mask_token: [D]; stands in for hidden patch embeddings, before position information is added.
        """


@dataclass(frozen=True, kw_only=True)
class Backbone(Plugin):
    """Makes the network that is trained and whose outputs are scored."""

    @abstractmethod
    def build(self, image_size: int, classes: int | None) -> Network:
        """Return a network in its initial state: random under torch's seed, or pretrained.

        Args:
            image_size: S, in pixels.
            classes: Outputs of the classifier; None leaves the one the backbone comes with, for use without training.
        """


# ------------------------------------------------------------------------------------------------------- data


class ImageSet(ABC):
    """Labelled images, one at a time, nothing decoded before it is asked for."""

    classes: tuple[str, ...]
    """Class names in label order."""

    labels: Sequence[int]
    """The label of every image, known without decoding."""

    fingerprint: str
    """Changes whenever an image or label does; depends on content, not on where the files lie."""

    @abstractmethod
    def image(self, index: int) -> Image:
        """Return one picture in any Pillow mode and size.

        Raises:
            OODError: The file is missing or broken; names it.
        """

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class DatasetSource(Plugin):
    """Finds images. Which classes of them, how many, and under what label in the report, is selected by the core."""

    @abstractmethod
    def open(self, split: Split) -> ImageSet:
        """Return the images of one split, reading names and labels but no pixels.

        Raises:
            OODError: Files are missing; says what was looked for and where.
        """


@dataclass(frozen=True)
class TrainingData:
    """What a pretext task may know about the data before training starts."""

    classes: int
    image_size: int
    sample: Callable[[int], Tensor]
    """`sample(count)` gives up to so many training images, [n, 3, S, S] in [0, 1], un-augmented, the same each time."""


# --------------------------------------------------------------------------------------------------- training


class Batch(NamedTuple):
    """One step's worth of training data, on the device of the network."""

    views: tuple[Tensor, ...]
    """One tensor [B, ...] for each view the pretext task asked for; uint8 views arrive as float32 in [0, 1]."""
    labels: Tensor
    """int64 [B]."""


class Task(nn.Module, ABC):
    """A pretext task around a network. Whatever requires a gradient is trained; buffers and the rest are kept as state.

    Randomness comes from torch's global generator alone; it is seeded for each step, so a continued run draws the same.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return a dict with the scalar "loss"; further scalars are averaged over the epoch and reported."""

    def before_step(self, progress: float) -> None:
        """Take up the schedule before a step.

        Args:
            progress: Share of the training that is over, in [0, 1).
        """


@dataclass(frozen=True, kw_only=True)
class PretextTask(Plugin):
    """One training stage: what the network is asked to do, and how it is optimised (AdamW, cosine schedule).

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: Peak of the schedule.
        warmup_epochs: Linear rise from 0 to the peak, in epochs.
        weight_decay: AdamW's decoupled decay; not applied to biases and other one-dimensional parameters.
        max_grad_norm: Gradients are scaled down to this global norm.
        precision: "bf16" runs the forward pass under bfloat16 autocast; weights and optimiser stay float32.
    """

    trains_head: ClassVar[bool] = False
    """Whether the network's classifier means something afterwards, so that logits can be scored."""

    least_classes: ClassVar[int] = 1
    """How many ID classes the task needs; checked when the recipe is planned."""

    epochs: PositiveInt
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    warmup_epochs: NonNegativeFloat = 1.0
    weight_decay: NonNegativeFloat = 0.05
    max_grad_norm: PositiveFloat = 3.0
    precision: Literal["float32", "bf16"] = "float32"

    @abstractmethod
    def views(self, image_size: int) -> Views:
        """Return the augmentation: one image, uint8 [3, H, W], to a tuple of views, each uint8 or float in [0, 1]."""

    @abstractmethod
    def build(self, network: Network, data: TrainingData) -> Task:
        """Return the task around this network.

        Raises:
            OODError: The network cannot do this task.
        """


class TokenMap(nn.Module, ABC):
    """A fitted tokenizer, frozen."""

    vocabulary: int
    """Number of different tokens."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return token ids, int64 [B, L], of images [B, 3, S, S] in [0, 1]; patches row by row."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer(Plugin):
    """Turns patches into visual tokens, the targets of masked image modelling."""

    @abstractmethod
    def fit(self, data: TrainingData, grid: tuple[int, int]) -> TokenMap:
        """Return the map from images to tokens on this patch grid (rows, columns)."""


# ---------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True, kw_only=True)
class Probe(ABC):
    """Reads more of a network than embeddings and logits, while images pass through it.

    Its fields decide what it reads; equal probes of several scorers run once, in the same pass as the extraction.
    """

    @abstractmethod
    def layers(self, network: Network) -> tuple[str, ...]:
        """Return the names of the submodules whose outputs are wanted, as `named_modules` has them; may be none.

        Raises:
            OODError: The network has nothing that this probe can read.
        """

    @abstractmethod
    def read(self, network: Network, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return named arrays, each [B, D'], every row for itself; no two different probes use one name.

        Args:
            network: In evaluation mode, without gradients.
            features: Of `network.forward_features`.
            maps: Outputs of the `layers`, by name.
        """


class Score(ABC):
    """A fitted scorer: a small frozen dataclass, so that it is saved without pickle.

    Its fields are tensors, plain values, tuples, and further frozen dataclasses of this kind, such as other scores.

    Its plain values (an int rank, a float threshold) are printed in the report.
    """

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Return float64 [N], higher = more out-of-distribution; each row for itself, whatever the others are."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a scorer is, for the table of all scorers (`ood-run --scorers`).

    Attributes:
        paper: Authors, year and title of the source.
        formula: The score in one line of plain Unicode: z logits, p softmax, f embedding, W and b the head.
        fit: What fitting costs, in the letters N, C, D; "none" where nothing is fitted.
        score: What scoring one row costs.
    """

    paper: str
    formula: str
    fit: str
    score: str


NEEDS = frozenset({"embeddings", "logits", "head", "labels", "held_out", "known_ood", "layers", "network"})
"""What a scorer may need; all but "labels" are fields of `Outputs` in fitting, scoring, or both."""


@dataclass(frozen=True, kw_only=True)
class Scorer(Plugin):
    """Ranks images by how far they are from the in-distribution training data."""

    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    """What the scorer itself reads, out of `NEEDS`; checked when the recipe is planned."""

    scores: ClassVar[type[Score]]
    """What `fit` returns; a saved score is restored through it."""

    card: ClassVar[Card | None] = None
    """Its line in the table of scorers; None leaves it out."""

    @abstractmethod
    def fit(self, train: Outputs) -> Score:
        """Return the score for these in-distribution training outputs; reads nothing else, keeps no state."""

    def probe(self) -> Probe | None:
        """Return what reads the `layers` that this scorer needs."""
        return None

    def parts(self) -> tuple[Scorer, ...]:
        """Return this scorer and those among its options, which it fits and asks."""
        nested: list[Scorer] = []
        for option in fields(self):
            value = getattr(self, option.name)
            for item in value if isinstance(value, tuple) else (value,):
                nested += item.parts() if isinstance(item, Scorer) else ()
        return (self, *nested)

    def all_needs(self) -> frozenset[str]:
        """Return what this scorer and those among its options read."""
        return frozenset().union(*(part.needs for part in self.parts()))

    def probes(self) -> tuple[Probe, ...]:
        """Return the probes of this scorer and those among its options, each once."""
        return tuple(dict.fromkeys(probe for part in self.parts() if (probe := part.probe()) is not None))


PLUGIN_KINDS: dict[str, type[Plugin]] = {
    "backbone": Backbone,
    "pretext": PretextTask,
    "tokenizer": Tokenizer,
    "scorer": Scorer,
    "dataset": DatasetSource,
}
"""The kinds of plugin by the word that messages use for them."""

StageFacts: TypeAlias = Mapping[str, Any]

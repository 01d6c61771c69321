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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

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


@dataclass(frozen=True)
class Head:
    """The linear classifier: logits = embeddings @ weight.T + bias. weight [C, D], bias [C]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Outputs:
    """All that scorers see of a set of images: the network's outputs, float32 and memory-mapped from the store.

    Attributes:
        embeddings: [N, D], what the classifier is given.
        logits: [N, C]; C is 0 where no head was trained.
        labels: int64 [N]; -1 wherever a scorer must not know them.
        classes: Number of ID classes, also where some have no row.
        head: The classifier, None where no head was trained.
        layers: Named intermediate embeddings, each [N, D'].
    """

    embeddings: Tensor
    logits: Tensor
    labels: Tensor
    classes: int
    head: Head | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice | Tensor) -> Outputs:
        return replace(
            self,
            embeddings=self.embeddings[rows],
            logits=self.logits[rows],
            labels=self.labels[rows],
            layers={name: layer[rows] for name, layer in self.layers.items()},
        )

    def chunks(self, rows: int = 8192) -> Iterator[Outputs]:
        """Yield consecutive parts of at most so many rows, so that nobody needs all of a large set in memory."""
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

    def without_labels(self) -> Outputs:
        """Return the same outputs with every label -1, as `Score` objects get them."""
        return replace(self, labels=torch.full_like(self.labels, -1))


class Score(ABC):
    """A fitted scorer: a small frozen dataclass of tensors and plain values, so that it is saved without pickle.

    Its plain values (an int rank, a float threshold) are printed in the report.
    """

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Return float64 [N], higher = more out-of-distribution; each row for itself, whatever the others are."""


@dataclass(frozen=True, kw_only=True)
class Scorer(Plugin):
    """Ranks images by how far they are from the in-distribution training data."""

    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    """Which of "embeddings", "logits", "head" and "labels" the scorer reads; checked when the recipe is planned."""

    scores: ClassVar[type[Score]]
    """What `fit` returns; a saved score is restored through it."""

    @abstractmethod
    def fit(self, train: Outputs) -> Score:
        """Return the score for these in-distribution training outputs; reads nothing else, keeps no state."""


PLUGIN_KINDS: dict[str, type[Plugin]] = {
    "backbone": Backbone,
    "pretext": PretextTask,
    "tokenizer": Tokenizer,
    "scorer": Scorer,
    "dataset": DatasetSource,
}
"""The kinds of plugin by the word that messages use for them."""

StageFacts: TypeAlias = Mapping[str, Any]

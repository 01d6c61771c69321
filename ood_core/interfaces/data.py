"""Sources of images, and the training data of a pretext task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le
from torch import Tensor

from ood_core.interfaces.plugin import Plugin, Split

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class EvaluationView:
    """Resizing and cropping of an image to the square that is scored.

    Attributes:
        crop_fraction: Share of the resized image's shorter side that the central square keeps: the side becomes
            floor(S / crop_fraction) pixels, and S of them are cut out. 0.875 is the usual 224 of 256.
        interpolation: Of the resizing, which is antialiased.
        squash: Resize both sides, whatever the aspect ratio, instead of the shorter one.
    """

    crop_fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    squash: bool = False


class ImageSet(ABC):
    """Labelled images, each decoded when it is read."""

    classes: tuple[str, ...]
    """Class names in label order."""
    labels: Sequence[int]
    """The label of every image, available without decoding."""
    fingerprint: str
    """Changes whenever an image or label does; depends on content, not on where the files lie."""
    encoded: bool = False
    """Whether pictures lie encoded in files, so that it pays to keep them decoded."""
    places: Sequence[str] | None = None
    """Paths of pictures that are files, so that one file in two sets is noticed."""
    notes: tuple[str, ...] = ()
    """Lines for the plan and the report, such as the number of files that were skipped."""

    @abstractmethod
    def image(self, index: int) -> Image:
        """Return one picture in any Pillow mode and size; OODError with its name if it is missing or broken."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class DatasetSource(Plugin):
    """Finds images. The core selects classes, numbers of images, and the name in the report."""

    @abstractmethod
    def open(self, split: Split) -> ImageSet:
        """Return the images of one split, reading names and labels but no pixels.

        Raises:
            OODError: Files are missing; says what was looked for and where.
        """

    @classmethod
    def catalogue(cls) -> Mapping[str, tuple[str, str, str, str, str]]:
        """Return title, classes, images, licence and address of the sets that this source has by name."""
        return {}

    def alternatives(self) -> tuple[Mapping[str, Any], ...]:
        """Return other sources to open in place of this one, as in a recipe: {"use": name, option: value}.

        The first one that can be opened is used, and `open` of this source never; default: none.
        """
        return ()

    def missing(self, reasons: Sequence[str]) -> str:
        """Return the error message if no alternative can be opened, for the reasons in their order."""
        return "; ".join(reasons)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data of a training, before it starts."""

    classes: int
    """Number of the selected classes; labels of batches are below it."""
    all_classes: int
    """Number of classes of the whole data set, before a selection."""
    image_size: int
    sample: Callable[[int], Tensor]
    """`sample(count)` gives up to so many training images, [n, 3, S, S] in [0, 1], un-augmented, the same each time."""
    tokenizer_weights: Callable[[Plugin], Mapping[str, Tensor]]
    """`tokenizer_weights(tokenizer)` gives the weights of the tokenizer's own training."""

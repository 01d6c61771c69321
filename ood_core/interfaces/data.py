"""Where images come from, and what a pretext task may know of them."""

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
    """How an image of any size becomes the square that is scored.

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
    """Labelled images, one at a time, nothing decoded before it is asked for."""

    classes: tuple[str, ...]
    """Class names in label order."""

    labels: Sequence[int]
    """The label of every image, known without decoding."""

    fingerprint: str
    """Changes whenever an image or label does; depends on content, not on where the files lie."""

    encoded: bool = False
    """Whether pictures lie encoded in files, so that it pays to keep them decoded."""

    places: Sequence[str] | None = None
    """Where each picture lies, for pictures that are files, so that one file in two sets is noticed."""

    notes: tuple[str, ...] = ()
    """What a reader of the plan and the report has to know, such as what was passed over in a folder."""

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

    @classmethod
    def catalogue(cls) -> Mapping[str, tuple[str, str, str, str, str]]:
        """Return what is known of the sets that this source has by name: title, classes, images, licence, address."""
        return {}

    def alternatives(self) -> tuple[Mapping[str, Any], ...]:
        """Return other sources that stand for this one, as a recipe would write each: {"use": name, option: value}.

        The first one that can be opened is used, and this source's own `open` never. None unless a source says so.
        """
        return ()

    def missing(self, reasons: Sequence[str]) -> str:
        """Return the line for the user when no alternative could be opened, given why not, in their order."""
        return "; ".join(reasons)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a pretext task may know about the data before training starts."""

    classes: int
    """Number of the selected classes; labels of batches are below it."""

    all_classes: int
    """Number of classes of the whole data set, before a selection."""

    image_size: int

    sample: Callable[[int], Tensor]
    """`sample(count)` gives up to so many training images, [n, 3, S, S] in [0, 1], un-augmented, the same each time."""

    trained: Callable[[Plugin], Mapping[str, Tensor]]
    """`trained(tokenizer)` gives the weights that the tokenizer's own training has left."""

"""Selections from data sources: classes, superclasses, limits, draws, hold-out, decoded pixels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.data.open_sources import DecodedImages, SourcePool
from ood_core.errors import OODError, suggest
from ood_core.escapes import printable
from ood_core.interfaces import DatasetSource, EvaluationView, ImageSet, Split
from ood_core.runtime.torchvision_compat import prepare_torchvision

Part: TypeAlias = Literal["train", "holdout", "known", "auxiliary", "test"]
"""Purpose of a set of images: fitting, calibration, known OOD, auxiliary OOD in training, or measuring."""

Groups: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""Superclasses, each with its classes."""

Rows: TypeAlias = NDArray[np.int64]

PLAIN = EvaluationView()  # the shorter side to S, then the centre
MUCH = 0.15  # share of the area of the training images that the central crop may lose before a note says so
SIZED = 16  # training images from which that share is estimated


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images that a recipe selects from one source.

    Attributes:
        name: Name in the report.
        candidates: Sources that it is a name for; the first that can be opened is used.
        otherwise: Fallback if the source cannot be opened.
        split: Split of the source; None takes `test` for measuring and `train` for everything else.
        superclasses: Classes to merge, each group under one name and label; None leaves classes as they are.
        classes: Names of the classes (or superclasses) to keep, in label order; None keeps all.
        without: Names of classes (or superclasses) to leave out.
        limit: Maximum number of images of each class; None keeps all.
        draw: Seed of a random draw of the images within the limit; None keeps the first ones.
        holdout: Share of every class's training images kept back for calibration.
        minus: Other selections whose images are not among these.
        skip_broken: Whether broken pictures are counted and skipped, instead of stopping the run.
    """

    name: str
    source: DatasetSource
    candidates: tuple[DatasetSource, ...] = ()
    otherwise: Selection | None = None
    split: Split | None = None
    superclasses: Groups | None = None
    classes: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    limit: int | None = None
    draw: int | None = None
    holdout: float = 0.0
    minus: tuple[Selection, ...] = ()
    skip_broken: bool = False

    def open(self, part: Part, library: SourcePool | None = None) -> SelectedImages:
        """Return the images for this purpose; OODError without a source, a class or an image."""
        library = library or SourcePool()
        pictures = self.pictures(part, library)
        images = pictures.images
        groups = self._groups(images)
        chosen = self._chosen(tuple(groups))
        taken = [other.open("known", library) for other in self.minus]
        gone = np.concatenate([np.empty(0, np.int64), *(o.rows for o in taken if o.source == images.fingerprint)])
        labels = np.asarray(images.labels)
        order = np.argsort(labels, kind="stable")  # once, because there may be a thousand labels
        of_label = np.split(order, np.searchsorted(labels[order], np.arange(1, len(images.classes))))
        found = [np.sort(np.concatenate([of_label[label] for label in groups[name]])) for name in chosen]
        left = [np.setdiff1d(rows, gone) for rows in found] if len(gone) else found
        rows = [_cut_holdout(self._limited(rows), part, self.holdout) for rows in left]
        if not any(len(of_class) for of_class in rows):
            hint = "; holdout: 0 does without" if part == "holdout" else ""
            raise OODError(f"data set '{self.name}' has no image for {part}{hint}")
        selected = SelectedImages(pictures, chosen, rows, self._fingerprint(images, chosen, rows, part))
        selected.all_classes, selected.found = len(groups), sum(len(self._limited(rows)) for rows in found)
        selected.skip_broken, selected.holdout, selected.notes = self.skip_broken, self.holdout, images.notes
        return selected

    def class_names(self, library: SourcePool) -> tuple[str, ...]:
        """Return the names of the classes (or superclasses) of the test images, in label order."""
        return self._chosen(tuple(self._groups(self.pictures("test", library).images)))

    def pictures(self, part: Part, library: SourcePool) -> DecodedImages:
        """Return the split of the source that images for this purpose come from; OODError if it cannot be opened."""
        split: Split = self.split or ("test" if part == "test" else "train")
        try:
            return library.open(self.source, self.candidates, split)
        except OODError as error:
            if self.otherwise is None:
                raise
            first = error
        try:
            return replace(self.otherwise, split=split).pictures(part, library)
        except OODError as error:
            raise OODError(f"{first}; otherwise: {error}") from error

    def stands_in(self, part: Part, library: SourcePool) -> bool:
        """Return whether the source `otherwise` is read in place of this one's."""
        try:
            replace(self, otherwise=None).pictures(part, library)
        except OODError:
            return self.otherwise is not None
        return False

    def _groups(self, images: ImageSet) -> dict[str, list[int]]:
        """Return the labels that stand for each class or superclass, by name."""
        labels: dict[str, list[int]] = {}
        for label, name in enumerate(images.classes):
            labels.setdefault(name, []).append(label)
        if self.superclasses is not None:
            for superclass, name in ((group, name) for group, classes in self.superclasses for name in classes):
                if name not in labels:
                    message = f"takes in a class '{name}', which data set '{self.name}' does not have"
                    raise OODError(f"superclass '{superclass}' {message}.{suggest(name, labels)}")
            return {
                superclass: [label for name in classes for label in labels[name]]
                for superclass, classes in self.superclasses
            }
        if self.classes is None and not self.without:  # classes that share a name stay apart
            return {
                name if len(same) == 1 else f"{name} #{n}": [label]
                for name, same in labels.items()
                for n, label in enumerate(same)
            }
        for name in (*(self.classes or ()), *self.without):
            if len(labels.get(name, ())) > 1:
                message = f"has {len(labels[name])} classes called '{name}'; it cannot be chosen by name"
                raise OODError(f"data set '{self.name}' {message}")
        return labels

    def _chosen(self, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in (*(self.classes or ()), *self.without):
            if name not in names:
                raise OODError(f"no class '{name}' in data set '{self.name}'.{suggest(name, names)}")
        return tuple(name for name in self.classes or names if name not in self.without)

    def _limited(self, rows: Rows) -> Rows:
        if self.limit is None or self.draw is None:
            return rows[: self.limit]
        return np.sort(np.random.default_rng(self.draw).permutation(rows)[: self.limit])

    def _fingerprint(self, images: ImageSet, classes: tuple[str, ...], rows: Sequence[Rows], part: Part) -> str:
        policy = ("skip broken",) if self.skip_broken else ()
        digest = hashlib.sha256("\0".join((images.fingerprint, part, *policy, *classes)).encode())
        for of_class in rows:
            digest.update(f"\0{len(of_class)}\0".encode() + np.ascontiguousarray(of_class, dtype="<i8").tobytes())
        return digest.hexdigest()


def _cut_holdout(rows: Rows, part: Part, holdout: float) -> Rows:
    """Cut one class's ID training rows in two by a fixed shuffle; other sets stay whole."""
    if part not in ("train", "holdout"):
        return rows
    shuffled = np.random.default_rng(0).permutation(rows)
    held = round(len(rows) * holdout)
    return np.sort(shuffled[:held] if part == "holdout" else shuffled[held:])


@dataclass(frozen=True)
class ReadImage:
    """An image, and the errors of broken ones that it replaces."""

    index: int
    pixels: Tensor
    broken: tuple[str, ...]


class SelectedImages:
    """Decoded images and labels of a selection; label c is the c-th selected class."""

    all_classes: int
    """Number of classes (or superclasses) of the source, before some were selected."""
    notes: tuple[str, ...]
    """Notes of the source on its images."""
    found: int
    """Number of images before the hold-out and `minus`."""
    holdout = 0.0  # as in `Selection`, like the next one
    skip_broken = False

    def __init__(
        self, pictures: DecodedImages, classes: tuple[str, ...], rows_by_class: list[Rows], fingerprint: str
    ) -> None:
        rows = np.concatenate(rows_by_class)
        labels = np.concatenate([np.full(len(rows), label) for label, rows in enumerate(rows_by_class)])
        order = np.argsort(rows, kind="stable")
        self.classes = classes
        self.rows = rows[order]
        self.labels = torch.from_numpy(labels[order])
        self.source = pictures.images.fingerprint
        self.reader = type(pictures.images)
        self.fingerprint = fingerprint
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_places"}  # cached; a name per image

    def shared_with(self, other: SelectedImages) -> int:
        """Return how many images both have, of one source or of the same files."""
        if self.source == other.source:
            return len(np.intersect1d(self.rows, other.rows))
        return len(self._places & other._places)

    @cached_property
    def _places(self) -> set[str]:
        places = self._pictures.images.places
        return set() if places is None else {places[row] for row in self.rows}

    def place(self, index: int) -> str:
        """Return the file of an image, or its number in the set."""
        places = self._pictures.images.places
        return f"image {index}" if places is None else printable(places[int(self.rows[index])])

    @property
    def disturbs(self) -> bool:
        """Whether reading an image has changed settings that other threads share, which are restored since."""
        return self._pictures.disturbs

    def sizes(self, most: int = SIZED) -> list[tuple[int, int]]:
        """Return widths and heights of randomly drawn pictures, without broken ones."""
        found = []
        for row in np.random.default_rng(0).permutation(self.rows)[:most]:
            with suppress(OODError):
                found.append(self._pictures.images.image(int(row)).size)
        return found

    def pixels(self, index: int) -> Tensor:
        """Return one image, uint8 [3, H, W]; OODError with its name if the picture is broken."""
        try:
            return self._pictures.pixels(int(self.rows[index]))
        except OODError as error:
            if self.skip_broken:
                raise
            raise OODError(f"{error}; 'unreadable: skip' in 'data' goes on without such pictures") from error

    def readable(self, index: int) -> ReadImage:
        """Return the image, or the next one that can be read if broken ones are skipped; OODError if there is none."""
        broken: list[str] = []
        for place in range(len(self)):
            here = (index + place) % len(self)
            try:
                return ReadImage(here, self.pixels(here), tuple(broken))
            except OODError as error:
                if not self.skip_broken:
                    raise
                broken.append(str(error))
        raise OODError(f"none of the {len(self)} pictures can be read; the first: {broken[0]}")


def evaluation_view(image: Tensor, image_size: int, view: EvaluationView = PLAIN) -> Tensor:
    """Return uint8 [3, S, S]: the resized image's central square."""
    side = math.floor(image_size / view.crop_fraction)
    if image.shape[-2:] == (side, side) == (image_size, image_size):
        return image
    prepare_torchvision()
    from torchvision.transforms import InterpolationMode  # slow, and not needed where sizes fit already
    from torchvision.transforms.v2 import functional

    size = [side, side] if view.squash else [side]
    image = functional.resize(image, size, interpolation=InterpolationMode(view.interpolation), antialias=True)
    return functional.center_crop(image, [image_size, image_size])  # type: ignore[no-any-return]


def cut_away(sizes: Iterable[tuple[int, int]], view: EvaluationView) -> float:
    """Return the mean share of their area that pictures lose because they are not square; 0 if both sides are resized.

    What a `crop_fraction` cuts off on purpose is not counted.
    """
    shares = [0.0 if view.squash else 1 - min(size) / max(size) for size in sizes]
    return sum(shares) / len(shares) if shares else 0.0


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [0, 1]; floats pass."""
    return images.float() / 255 if images.dtype == torch.uint8 else images

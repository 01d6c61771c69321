"""From a data source to images: class selection, hold-out, decoding to RGB, the evaluation transform."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.decoding import to_rgb
from ood_core.errors import OODError, suggest
from ood_core.interfaces import DatasetSource, EvaluationView, ImageSet, Split
from ood_core.vision import prepare_torchvision

Part: TypeAlias = Literal["train", "holdout", "known", "test"]
"""What a set of images is for: fitting, calibrating the threshold, being known as OOD, or measuring."""

PLAIN = EvaluationView()
"""The shorter side to S, then the centre."""

CACHE_BYTES = 512 * 2**20
"""Decoded images kept in memory for one set; beyond that they are decoded again."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images a recipe asks for from one source.

    Attributes:
        name: What the report calls them.
        source: Where they come from.
        classes: Names of the classes to keep, in label order; None keeps all.
        limit: At most so many images of each class, the first ones; None keeps all.
        holdout: Share of every class's training images kept back for calibration.
    """

    name: str
    source: DatasetSource
    classes: tuple[str, ...] | None = None
    limit: int | None = None
    holdout: float = 0.0

    def open(self, part: Part) -> SelectedImages:
        """Return the images for this purpose.

        Raises:
            OODError: A class does not exist, or nothing is left.
        """
        split: Split = "test" if part == "test" else "train"
        images = self.source.open(split)
        labels = range(len(images.classes)) if self.classes is None else [self._label(n, images) for n in self.classes]
        known = np.asarray(images.labels)
        chosen = [np.flatnonzero(known == label)[: self.limit] for label in labels]
        rows = [_part_of(rows, part, self.holdout) for rows in chosen]
        if not any(len(of_class) for of_class in rows):
            hint = "; holdout: 0 does without" if part == "holdout" else ""
            raise OODError(f"data set '{self.name}' has no image for {part}{hint}")
        return SelectedImages(images, tuple(images.classes[label] for label in labels), rows, part)

    def _label(self, name: str, images: ImageSet) -> int:
        found = [label for label, known in enumerate(images.classes) if known == name]
        if not found:
            raise OODError(f"no class '{name}' in data set '{self.name}'.{suggest(name, images.classes)}")
        if len(found) > 1:
            raise OODError(
                f"data set '{self.name}' has {len(found)} classes called '{name}'; it cannot be chosen by name"
            )
        return found[0]


def _part_of(rows: NDArray[np.int64], part: Part, holdout: float) -> NDArray[np.int64]:
    """Cut one class's ID training rows in two by a fixed shuffle; other sets stay whole."""
    if part in ("known", "test"):
        return rows
    shuffled = np.random.default_rng(0).permutation(rows)
    held = round(len(rows) * holdout)
    return np.sort(shuffled[:held] if part == "holdout" else shuffled[held:])


class SelectedImages:
    """Decoded images and labels of a selection; label c is the c-th selected class."""

    def __init__(
        self, images: ImageSet, classes: tuple[str, ...], rows_by_class: list[NDArray[np.int64]], part: Part
    ) -> None:
        rows = np.concatenate(rows_by_class)
        labels = np.concatenate([np.full(len(rows), label) for label, rows in enumerate(rows_by_class)])
        order = np.argsort(rows, kind="stable")
        self.classes = classes
        self.all_classes = len(images.classes)
        self.rows = rows[order]
        self.labels = torch.from_numpy(labels[order])
        self.source = images.fingerprint
        self.fingerprint = _fingerprint(images.fingerprint, classes, self.rows, part)
        self._images = images
        self.skip_broken = False
        self._decoded: dict[int, Tensor] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def shared_with(self, other: SelectedImages) -> int:
        """Return how many images of one source both have."""
        return len(np.intersect1d(self.rows, other.rows)) if self.source == other.source else 0

    def pixels(self, index: int) -> Tensor:
        """Return one image, uint8 [3, H, W]."""
        if (found := self._decoded.get(index)) is not None:
            return found
        pixels = to_rgb(self._images.image(int(self.rows[index])))
        if self._bytes + pixels.nbytes <= CACHE_BYTES:
            self._decoded[index] = pixels
            self._bytes += pixels.nbytes
        return pixels


def _fingerprint(source: str, classes: tuple[str, ...], rows: NDArray[np.int64], part: Part) -> str:
    digest = hashlib.sha256("\0".join((source, part, *classes)).encode())
    digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return digest.hexdigest()


def evaluation_view(image: Tensor, image_size: int, view: EvaluationView = PLAIN) -> Tensor:
    """Return uint8 [3, S, S]: the resized image's central square."""
    side = math.floor(image_size / view.crop_fraction)
    if image.shape[-2:] == (side, side) == (image_size, image_size):
        return image
    prepare_torchvision()
    from torchvision.transforms import InterpolationMode  # slow, and not needed where sizes fit already
    from torchvision.transforms.v2 import functional

    size = [side, side] if view.squash else [side]
    resized = functional.resize(image, size, interpolation=InterpolationMode(view.interpolation), antialias=True)
    cropped: Tensor = functional.center_crop(resized, [image_size, image_size])
    return cropped


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [0, 1]; floats pass."""
    return images.float() / 255 if images.dtype == torch.uint8 else images

"""Patches of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, TypeAlias

import numpy as np
import PIL.Image
from annotated_types import Ge, Lt

from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, PositiveInt, Split
from ood_samples.packaged import packaged

PHOTOGRAPHS = ("china", "flower")
HEIGHT = 427  # of both photographs; they are 640 wide
Box: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class PhotoPatches(DatasetSource):
    """Random square crops of scikit-learn's two sample photographs, a temple and a flower, each a class.

    The splits are different crops of the same photographs, which may overlap.

    Attributes:
        patch_size: Width and height of a patch in pixels.
        count: Patches in each split; the photographs alternate.
        seed: Draws the positions of the patches.
    """

    name = "photo-patches"
    patch_size: PositiveInt = 32
    count: PositiveInt = 500
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0

    def check(self) -> None:
        if self.patch_size > HEIGHT:
            raise OODError(
                f"dataset '{self.name}': patch_size {self.patch_size} is above the photographs' {HEIGHT} pixels"
            )

    def open(self, split: Split) -> ImageSet:
        self.check()
        photographs = [PIL.Image.open(packaged(f"images/{name}.jpg")) for name in PHOTOGRAPHS]
        random = np.random.RandomState([self.seed, split == "test"])
        boxes = []
        for index in range(self.count):
            size = photographs[index % len(PHOTOGRAPHS)].size
            left, top = (random.randint(0, extent - self.patch_size + 1) for extent in size)
            boxes.append((left, top, left + self.patch_size, top + self.patch_size))
        return PatchImages(photographs, boxes)


class PatchImages(ImageSet):
    """Boxes cut out of alternating photographs."""

    def __init__(self, photographs: Sequence[PIL.Image.Image], boxes: Sequence[Box]) -> None:
        self.classes = PHOTOGRAPHS
        self.labels = [index % len(photographs) for index in range(len(boxes))]
        content = b"".join(photograph.tobytes() for photograph in photographs) + repr(boxes).encode()
        self.fingerprint = sha256(content).hexdigest()
        self._photographs, self._boxes = photographs, boxes

    def image(self, index: int) -> PIL.Image.Image:
        return self._photographs[self.labels[index]].crop(self._boxes[index])

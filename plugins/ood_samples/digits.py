"""Handwritten digits of 8x8 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

import numpy as np
import PIL.Image
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_samples.packaged import packaged


@dataclass(frozen=True, kw_only=True)
class Digits(DatasetSource):
    """1797 handwritten digits, grey, 8x8 pixels: the test part of UCI's "Optical Recognition of Handwritten Digits".

    Attributes:
        test_fraction: Share of every class in the test split; the draw is fixed.
    """

    name = "digits"
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.3

    def open(self, split: Split) -> ImageSet:
        """Return one split, in the order of the original file, so that the classes are mixed."""
        table = np.loadtxt(packaged("data/digits.csv.gz"), delimiter=",", dtype=np.uint8)
        random = np.random.RandomState(0)  # numpy guarantees this generator's stream, not that of default_rng
        chosen = []
        for digit in range(10):
            rows = random.permutation(np.flatnonzero(table[:, -1] == digit))
            cut = min(max(1, round(len(rows) * self.test_fraction)), len(rows) - 1)
            chosen.append(rows[:cut] if split == "test" else rows[cut:])
        return DigitImages(table[np.sort(np.concatenate(chosen))])


class DigitImages(ImageSet):
    """Digits from a table whose rows hold 64 grey levels from 0 to 16, then the label."""

    def __init__(self, table: NDArray[np.uint8]) -> None:
        self.classes = tuple("0123456789")
        self.labels = table[:, -1].tolist()
        self.fingerprint = sha256(table.tobytes()).hexdigest()
        self._pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)

    def image(self, index: int) -> PIL.Image.Image:
        return PIL.Image.fromarray(self._pixels[index])

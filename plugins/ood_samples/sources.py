"""Digits, noise, and patches of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import PIL.Image
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, PositiveFloat, PositiveInt, Split

Count: TypeAlias = Annotated[int, Gt(0), Le(1_000_000)]
"""Of images: their labels are in memory."""


@dataclass(frozen=True, kw_only=True)
class Noise(DatasetSource):
    """Gaussian noise, independent in every pixel and colour.

    Attributes:
        size: Width and height in pixels.
        count: Images in each split.
        mean: Mean, on the scale from 0 (black) to 1 (white).
        std: Standard deviation, before values are clipped to [0, 1].
        seed: Draws the noise.
    """

    name = "noise"
    size: Annotated[int, Gt(0), Le(4096)] = 32
    count: Count = 500
    mean: float = 0.5
    std: PositiveFloat = 0.25
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0

    def open(self, split: Split) -> ImageSet:
        return NoiseImages(self, split)


class NoiseImages(ImageSet):
    """Noise that is drawn on access, each image from a generator of its own."""

    def __init__(self, options: Noise, split: Split) -> None:
        self.classes = ("noise",)
        self.labels = [0] * options.count
        self._options, self._split = options, split
        # The first image stands for the code that draws it.
        content = repr((asdict(options), split)).encode() + self.image(0).tobytes()
        self.fingerprint = sha256(content).hexdigest()

    def image(self, index: int) -> PIL.Image.Image:
        options = self._options
        random = np.random.RandomState([options.seed, self._split == "test", index])
        noise = random.normal(options.mean, options.std, (options.size, options.size, 3))
        return PIL.Image.fromarray(np.rint(noise.clip(0, 1) * 255).astype(np.uint8))


def packaged(name: str) -> Path:
    """Return the path of a file in scikit-learn's `datasets` package, such as "images/china.jpg"."""
    # Data is opened in every run, also when all results are stored. `import sklearn.datasets` takes 2 to 4 s on top
    # of torch, reading the same file takes 0.03 s; a test compares the two.
    spec = find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations, "scikit-learn is a dependency of this package"
    return Path(spec.submodule_search_locations[0], "datasets", name)


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
    count: Count = 500
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

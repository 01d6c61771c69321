"""Images of noise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Annotated

import numpy as np
import PIL.Image
from annotated_types import Ge, Lt

from ood_core.interfaces import DatasetSource, ImageSet, PositiveFloat, PositiveInt, Split


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
    size: PositiveInt = 32
    count: PositiveInt = 500
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

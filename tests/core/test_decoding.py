"""Pictures of every kind become RGB pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from ood_core import decoding


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 9), [9, 9, 9]),
        (Image.new("1", (2, 2), 1), [255, 255, 255]),
        (Image.new("RGB", (2, 2), (1, 2, 3)), [1, 2, 3]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 255)), [1, 2, 3]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), [255, 255, 255]),
        (Image.new("LA", (2, 2), (7, 255)), [7, 7, 7]),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), [255, 255, 255]),
        (Image.fromarray(np.full((2, 2), 257 * 10, np.uint16)), [10, 10, 10]),
    ],
)
def test_every_mode_becomes_rgb(image, expected):
    pixels = decoding.to_rgb(image)
    assert pixels.shape == (3, 2, 2)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0, 0].tolist() == expected


def test_a_palette_with_a_transparent_colour_lies_on_white():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert decoding.to_rgb(image)[:, 0, 0].tolist() == [10, 20, 30]
    image.info["transparency"] = 0
    assert decoding.to_rgb(image)[:, 0, 0].tolist() == [255, 255, 255]


def test_a_picture_is_turned_upright(tmp_path):
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert decoding.to_rgb(Image.open(tmp_path / "turned.jpg")).shape == (3, 4, 2)

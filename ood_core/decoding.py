"""From encoded pictures to pixels, with an error that names the picture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ood_core.errors import OODError

_BROKEN = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError)  # what Pillow raises for broken files


def decode(source: BinaryIO | Path, where: str) -> PIL.Image.Image:
    """Return the decoded picture, in its own mode.

    Args:
        source: A picture in any format Pillow knows.
        where: What the error calls the picture.

    Raises:
        OODError: There is no picture, or it is broken.
    """
    try:
        with PIL.Image.open(source) as picture:
            picture.load()
            return picture
    except PIL.UnidentifiedImageError as error:
        raise OODError(f"{where}: not a picture in a known format") from error
    except _BROKEN as error:
        raise OODError(f"{where}: broken picture: {error}") from error


def to_rgb(image: Image.Image) -> Tensor:
    """Return a picture of any mode as uint8 [3, H, W], turned upright, transparency on white, 16 bits scaled to 8."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I;16", "I")):
        upright = Image.fromarray((np.asarray(upright).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1).contiguous()


def pixel_digest(pixels: Tensor) -> int:
    """Return a digest of an image's shape and pixels, uint8 [3, H, W], in [0, 2**63): equal images, equal digest."""
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=8)
    digest.update(pixels.contiguous().numpy().data)
    return int.from_bytes(digest.digest(), "big") >> 1

"""From encoded pictures to pixels, with an error that names the picture."""

from __future__ import annotations

import hashlib
import warnings
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import simplejpeg
import torch
from PIL import ImageOps
from torch import Tensor

from ood_core.errors import OODError

MOST_PIXELS = 178_956_970
"""Pictures above this are refused: a small file may unpack to whatever size its header claims. Pillow's limit."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError)  # what Pillow raises for broken files
_JPEG, _EXIF, _HEAD = b"\xff\xd8\xff", b"Exif\0\0", 2**16
_QUICK = {"Gray": "Gray", "YCbCr": "RGB"}  # what simplejpeg decodes as Pillow does, and into what


class _RefusedError(Exception):
    pass


def decode(source: BinaryIO | Path | bytes, where: str) -> PIL.Image.Image:
    """Return the decoded picture, in its own mode; of several frames the first.

    Usual JPEGs go through simplejpeg, which gives the pixels of Pillow in less time; those with EXIF data, in CMYK or
    of a rare kind, and all other formats, go through Pillow.

    Args:
        source: A picture in any format Pillow knows.
        where: What the error calls the picture.

    Raises:
        OODError: There is no picture, it is broken or cut off, far too large, or of numbers without a range.
    """
    try:
        encoded = _read(source)
        usual = encoded.startswith(_JPEG) and _EXIF not in encoded[:_HEAD]
        return (_quick(encoded) if usual else None) or _thorough(encoded)
    except PIL.UnidentifiedImageError as error:
        raise OODError(f"{where}: not a picture in a known format") from error
    except (_RefusedError, PIL.Image.DecompressionBombError) as error:
        raise OODError(f"{where}: refused: {error}") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OODError(f"{where}: broken picture: {reason}") from error


def _read(source: BinaryIO | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    return source.read_bytes() if isinstance(source, Path) else source.read()


def _quick(encoded: bytes) -> PIL.Image.Image | None:
    """Return a usual JPEG, None for one that Pillow has to look at."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:  # rare kinds of subsampling; or it is broken, which Pillow will say
        return None
    _require_size(width, height)
    if colours not in _QUICK:
        return None
    pixels = simplejpeg.decode_jpeg(encoded, _QUICK[colours], fastdct=False, fastupsample=False, strict=True)
    return PIL.Image.fromarray(pixels[..., 0] if colours == "Gray" else pixels)


def _thorough(encoded: bytes) -> PIL.Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # at half the limit
        with PIL.Image.open(BytesIO(encoded)) as picture:
            _require_size(*picture.size)
            picture.load()
            _require_depth(picture)
            return picture


def _require_depth(picture: PIL.Image.Image) -> None:
    """Refuse pixels of which nobody knows what is white."""
    if picture.mode == "F":
        raise _RefusedError("floats have no known range; save it with 8 or 16 bits")
    if picture.mode == "I" and np.asarray(picture).max(initial=0) > 65535:
        raise _RefusedError("more than 16 bits have no known range; save it with 8 or 16 bits")


def _require_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise _RefusedError(f"{width} x {height} is more than {MOST_PIXELS} pixels")


def to_rgb(image: PIL.Image.Image) -> Tensor:
    """Return a picture as uint8 [3, H, W], turned upright, transparency on white, 16 bits scaled to 8."""
    upright = ImageOps.exif_transpose(image) if image.getexif() else image
    if upright.mode.startswith("I"):
        upright = PIL.Image.fromarray((np.asarray(upright).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "white"), layer)
    pixels = np.asarray(upright.convert("RGB"))
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def pixel_digest(pixels: Tensor) -> int:
    """Return a digest of an image's shape and pixels, uint8 [3, H, W], in [0, 2**63): equal images, equal digest."""
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=8)
    digest.update(pixels.contiguous().numpy().data)
    return int.from_bytes(digest.digest(), "big") >> 1

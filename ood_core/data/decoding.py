"""Decoding of pictures, with errors that name the picture."""

from __future__ import annotations

import hashlib
import struct
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import PIL.Image
import simplejpeg
import torch
from PIL import ImageOps
from torch import Tensor

from ood_core.errors import OODError, one_line

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "DIB", "JPEG2000", "AVIF", "QOI", "BLP", "CUR", "DCX", "DDS"),
    *("FITS", "FLI", "FTEX", "GBR", "ICNS", "ICO", "IM", "IMT", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "PSD", "SGI"),
    *("SPIDER", "SUN", "TGA", "XBM", "XPM", "XVTHUMB"),
)
"""Formats that Pillow decodes by itself, found by content. It starts Ghostscript for EPS, which IPTC may contain; BUFR,
FPX, GRIB, HDF5, MIC, MPEG and WMF need other libraries."""

_PROGRAMS = ("EPS", "IPTC")
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # the second one begins an EPS with a preview
_IS_A_PROGRAM = "EPS is a program, not a picture; save it as PNG or JPEG"

MOST_PIXELS = 178_956_970
"""Larger pictures are refused, as a small file may unpack to any size that its header claims; Pillow's limit."""

# What Pillow raises for broken files. Random damage to files of sixteen formats brought up the first line alone.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, RuntimeError),
    *(EOFError, LookupError, TypeError, ArithmeticError, struct.error),
)
_SIMPLEJPEG_MODES = {"Gray": "Gray", "YCbCr": "RGB", "RGB": "RGB"}  # as Pillow decodes them
_UNLIMITED = Lock()  # held while Pillow's limit is lifted to read one header


class _RefusedError(Exception):
    pass


def decode(source: BinaryIO | Path | bytes, where: str) -> PIL.Image.Image:
    """Return the decoded picture in its own mode; the first of several frames.

    JPEGs are decoded by simplejpeg, which gives the pixels of Pillow bit for bit and refuses what libjpeg only warns
    of: Pillow fills up the holes in a file that has its end. Those in CMYK are checked by it and decoded by Pillow.

    Raises:
        OODError: It is no picture, broken, truncated, too large, or its values have no defined range; names `where`.
    """
    try:
        if not isinstance(source, bytes):
            source = source.read_bytes() if isinstance(source, Path) else source.read()
        _quieten()
        with open_header(BytesIO(source)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise _RefusedError(f"{picture.width} x {picture.height} is more than {MOST_PIXELS} pixels")
            if picture.format in ("JPEG", "MPO") and (jpeg := _decode_jpeg(source)) is not None:
                jpeg.info = picture.info  # which holds the EXIF data
                return jpeg
            picture.load()
            _require_depth(picture)
            return picture
    except PIL.UnidentifiedImageError as error:
        if isinstance(source, bytes) and source.startswith(_POSTSCRIPT):
            raise OODError(f"{where}: {_IS_A_PROGRAM}") from error
        raise OODError(f"{where}: not a picture in a known format") from error
    except _RefusedError as error:
        raise OODError(f"{where}: refused: {error}") from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.strerror:  # of the file, not of what is in it
            raise OODError(f"{where}: cannot be read: {error.strerror}") from error
        raise OODError(f"{where}: broken picture: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def open_header(source: BinaryIO | Path) -> PIL.Image.Image:
    """Return a picture of which the header alone was read, also above Pillow's limit, whose error names no size."""
    PIL.Image.init()
    formats = [name for name in FORMATS if name in PIL.Image.OPEN]  # others are new in Pillow
    try:
        return PIL.Image.open(source, formats=formats)
    except PIL.Image.DecompressionBombError:
        with _UNLIMITED:
            limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
            try:
                return PIL.Image.open(source, formats=formats)
            finally:
                PIL.Image.MAX_IMAGE_PIXELS = limit


def _quieten() -> None:
    """Silence Pillow's warnings of pictures of half the limit, and of broken EXIF data, in all threads."""
    present = [(category, getattr(message, "pattern", "")) for _, message, category, *_ in warnings.filters]
    for category, message in (PIL.Image.DecompressionBombWarning, ""), (UserWarning, ".*orrupt EXIF data"):
        if (category, message) not in present:  # a stage ends with the filters with which it began
            warnings.filterwarnings("ignore", message, category)


def _decode_jpeg(encoded: bytes) -> PIL.Image.Image | None:
    """Decode a JPEG with simplejpeg; None for kinds that Pillow has to decode. ValueError if data are missing."""
    try:
        colours = simplejpeg.decode_jpeg_header(encoded)[2]
    except ValueError:  # rare kinds of subsampling; or it is broken, which Pillow will say
        return None
    wanted = _SIMPLEJPEG_MODES.get(colours)
    pixels = simplejpeg.decode_jpeg(encoded, wanted or "CMYK", fastdct=False, fastupsample=False, strict=True)
    if wanted is None:
        return None
    return PIL.Image.fromarray(pixels[..., 0] if wanted == "Gray" else pixels)


def _require_depth(picture: PIL.Image.Image) -> None:
    if picture.mode == "F":
        raise _RefusedError("floats have no known range; save it with 8 or 16 bits")
    # of 16 bits a TIFF and an array have another mode; other formats may have this one
    if picture.mode == "I" and (picture.format in ("TIFF", None) or np.asarray(picture).max(initial=0) > 65535):
        raise _RefusedError("more than 16 bits have no known range; save it with 8 or 16 bits")


def to_rgb(image: PIL.Image.Image) -> Tensor:
    """Return a picture as uint8 [3, H, W], turned upright, transparency on white, 16 bits scaled to 8.

    Raises:
        OODError: It is broken, empty, or its value range is undefined; the message does not name the picture.
    """
    if not all(image.size):
        raise OODError(f"the image is empty: {image.height} pixels high, {image.width} wide")
    try:
        if image.format in _PROGRAMS:  # opened by the caller; its pixels would be read here
            raise _RefusedError(_IS_A_PROGRAM)
        _require_depth(image)
        return _convert_to_rgb(image)
    except _RefusedError as error:
        raise OODError(f"refused: {error}") from error
    except _BROKEN as error:  # pictures that Pillow opened are decoded here
        raise OODError(f"broken picture: {_reason(error)}") from error


def _convert_to_rgb(image: PIL.Image.Image) -> Tensor:
    upright = image
    with suppress(*_BROKEN):  # a picture with broken EXIF data is still a picture
        upright = ImageOps.exif_transpose(image) if image.getexif() else image
    if upright.mode.startswith("I"):
        upright = PIL.Image.fromarray((np.asarray(upright).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    if upright.mode == "La":
        upright = upright.convert("LA")
    palette = upright.mode == "P" and upright.palette is not None and upright.palette.mode == "RGBA"
    if palette or upright.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "white"), layer)
    pixels = np.asarray(upright.convert("RGB"))
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def pixel_digest(pixels: Tensor) -> int:
    """Return a digest of an image's shape and pixels, uint8 [3, H, W], in [0, 2**63): equal images, equal digest."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())  # processors have instructions for it
    digest.update(pixels.contiguous().numpy().data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1

"""An encoded picture to what the network is given, by the very steps that `Detector.score` takes."""

from __future__ import annotations

from io import BytesIO

import PIL.Image
from torch import Tensor

from ood_core.detector.image_inputs import decode_image, preprocess
from ood_core.detector.state import Preprocessing
from ood_core.errors import OODError
from ood_serve.errors import Failure
from ood_serve.uploads import Upload

PROGRAMS = ("EPS",)
"""Formats that Pillow has another program interpret, which nobody wants to do with what strangers send."""


def prepare(upload: Upload, preprocessing: Preprocessing, max_pixels: int) -> Tensor:
    """Return the image, uint8 [3, S, S].

    Raises:
        Failure: It is empty, no picture, broken, or of more pixels than is allowed, which its header tells.
    """
    if not upload.encoded:
        raise Failure(422, f"{upload.name}: the file is empty", "picture")
    _require_small(upload, max_pixels)
    try:
        return preprocess(decode_image(upload.encoded, upload.name), preprocessing)
    except OODError as error:
        raise Failure(422, str(error), "picture") from error


def _require_small(upload: Upload, max_pixels: int) -> None:
    """Refuse a picture by its header, before memory is taken for its pixels."""
    try:
        with PIL.Image.open(BytesIO(upload.encoded)) as picture:
            (width, height), kind = picture.size, picture.format
    except PIL.Image.DecompressionBombError as error:  # above twice Pillow's limit, and it does not say how large
        raise _too_large(upload, "this", max_pixels) from error
    except Exception:  # whatever is wrong with it, decoding finds it too, and has words for it
        return
    if kind in PROGRAMS:
        raise Failure(422, f"{upload.name}: {kind} is a program, not a picture; send PNG or JPEG", "picture")
    if width * height > max_pixels:
        raise _too_large(upload, f"{width} x {height}", max_pixels)


def _too_large(upload: Upload, size: str, max_pixels: int) -> Failure:
    return Failure(413, f"{upload.name}: {size} is more than {max_pixels} pixels; send it smaller", "too large")

"""Prepare an encoded image for the network with the steps of `Detector.score`."""

from __future__ import annotations

from io import BytesIO

import PIL.Image
from torch import Tensor

from ood_core.detector.image_inputs import decode_image, preprocess
from ood_core.detector.state import Preprocessing
from ood_core.errors import OODError
from ood_serve.errors import RequestError
from ood_serve.uploads import Upload

PROGRAMS = ("EPS",)
"""Formats for which Pillow starts an external program; not accepted from clients."""


def prepare(upload: Upload, preprocessing: Preprocessing, max_pixels: int) -> Tensor:
    """Return the image, uint8 [3, S, S].

    Raises:
        RequestError: It is empty, no image, broken, or has more pixels than allowed.
    """
    if not upload.encoded:
        raise RequestError(422, f"{upload.name}: the file is empty", "picture")
    _refuse_by_header(upload, max_pixels)
    try:
        return preprocess(decode_image(upload.encoded, upload.name), preprocessing)
    except OODError as error:
        raise RequestError(422, str(error), "picture") from error


def _refuse_by_header(upload: Upload, max_pixels: int) -> None:
    """Refuse a large image before memory is allocated for its pixels."""
    kind: str | None = None
    try:
        with PIL.Image.open(BytesIO(upload.encoded)) as picture:
            (width, height), kind = picture.size, picture.format
            size = f"{width} x {height}" if width * height > max_pixels else None
    except PIL.Image.DecompressionBombError:  # above twice Pillow's limit, and it does not say how large
        size = "this"
    except Exception:  # decoding finds it too, and has words for it
        return
    if kind in PROGRAMS:
        raise RequestError(422, f"{upload.name}: {kind} is a program, not a picture; send PNG or JPEG", "picture")
    if size is not None:
        message = f"{upload.name}: {size} is more than {max_pixels} pixels; send it smaller"
        raise RequestError(413, message, "too large")

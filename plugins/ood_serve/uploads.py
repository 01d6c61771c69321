"""Read the encoded images from the body of a request, up to the limits, and prepare them for the network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from io import BytesIO

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from torch import Tensor

from ood_core.data.decoding import open_header
from ood_core.detector.image_inputs import decode_image, preprocess
from ood_core.detector.state import Preprocessing
from ood_core.errors import OODError, one_line
from ood_serve.limits import BODY_RATE, BODY_SECONDS, Limits, RequestError

MULTIPART = "multipart/form-data"
RAW = ("image/", "application/octet-stream")

_HOW = "send image/* with the bytes of one picture, or multipart/form-data with one or several files"


@dataclass(frozen=True)
class Upload:
    """An encoded image and its name."""

    name: str
    encoded: bytes


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """Return the images of a request, at least one.

    Raises:
        RequestError: There are none, too many or too large ones, or the body is something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != MULTIPART and not kind.startswith(RAW):
        given = f"content type '{kind}'" if kind else "no content type"
        raise RequestError(415, f"{given}: {_HOW}", "content type")
    if kind == MULTIPART:
        return await _parts(request, limits)
    encoded = b"".join([chunk async for chunk in _bounded(request, limits)])
    if not encoded:
        raise RequestError(400, f"the body is empty; {_HOW}", "no image")
    return [Upload("image", encoded)]


async def _bounded(request: Request, limits: Limits) -> AsyncGenerator[bytes]:
    announced = request.headers.get("content-length", "")
    too_large = RequestError(413, f"the body is larger than {limits.max_bytes} bytes", "too large")
    if announced.isdecimal() and int(announced) > limits.max_bytes:
        raise too_large
    clock, arriving = asyncio.get_running_loop().time, request.stream()
    began, received, chunk = clock(), 0, b""
    while True:
        try:
            async with asyncio.timeout_at(began + BODY_SECONDS + received / BODY_RATE):
                chunk = await anext(arriving)
        except StopAsyncIteration:
            return
        except TimeoutError:
            message = f"{received} bytes of the body arrived in {clock() - began:.0f} s, which is too slow"
            raise RequestError(408, message, "timeout", {"Connection": "close"}) from None
        received += len(chunk)
        if received > limits.max_bytes:
            raise too_large
        yield chunk


async def _parts(request: Request, limits: Limits) -> list[Upload]:
    too_many = RequestError(413, f"more than {limits.max_images} images in one request", "too large")
    # one more than allowed, so that the message is ours
    parser = MultiPartParser(request.headers, _bounded(request, limits), max_files=limits.max_images + 1, max_fields=1)
    parser.spool_max_size = limits.max_bytes  # in memory: it is bounded, and a file would only cost time
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many from None
        reason = " ".join(error.message.split()).rstrip(".")
        raise RequestError(400, f"the multipart body is broken: {reason}", "no image") from None
    except (LookupError, ValueError) as error:  # a charset that no text has, of the form
        reason = one_line(error)
        raise RequestError(400, f"the multipart body is broken: {reason}", "no image") from None
    uploads = []
    for place, (field, part) in enumerate(form.multi_items()):
        if not isinstance(part, UploadFile):
            reason = f"field '{field}' holds text, not a file; curl wants -F {field}=@photo.png"
            raise RequestError(400, reason, "no image")
        encoded = await part.read()
        await part.close()
        uploads.append(Upload(part.filename or f"image {place}", encoded))
    if len(uploads) > limits.max_images:
        raise too_many
    if not uploads:
        raise RequestError(400, f"the multipart body holds no image, or was cut off; {_HOW}", "no image")
    return uploads


def prepare_image(upload: Upload, preprocessing: Preprocessing, max_pixels: int) -> Tensor:
    """Return the image, uint8 [3, S, S], with the steps of `Detector.score`.

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
    try:
        with open_header(BytesIO(upload.encoded)) as picture:
            width, height = picture.size
    except Exception:  # decoding finds it too, and has words for it
        return
    if width * height > max_pixels:
        message = f"{upload.name}: {width} x {height} is more than {max_pixels} pixels; send it smaller"
        raise RequestError(413, message, "too large")

"""Paths, folders, pictures, arrays, tensors and loaders to batches for the network.

Pictures are decoded in threads, beside a GPU while it computes the batches before. If the network runs on a CPU,
decoding and network take turns: a thread that decodes takes a core from torch's pool, which halved the throughput on
two cores. Nothing is kept: a million files take the memory of three batches. An unreadable picture is an error of its
batch.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.data.decoding import decode, to_rgb
from ood_core.data.folders import PassedOver, is_dir, pictures_in
from ood_core.data.selection import evaluation_view, to_unit
from ood_core.detector.state import Preprocessing
from ood_core.errors import OODError, listed, warn
from ood_core.runtime import torch_state

AHEAD = 2  # batches to prepare while a GPU computes one
MOST_THREADS = 8
SMALL = 64  # side of images in pixels up to which one thread decodes: most of the work is Python's then
IMAGE_KEYS = ("image", "img", "pixel_values", "images", "pixels", "picture", "pictures")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "class")  # the most usual first

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ImageRef:
    """One image that is not decoded yet."""

    name: str  # its path, or its position
    pixels: Callable[[], Tensor]  # [3, H, W], uint8 or float32 in [0, 1]; raises OODError if it cannot be read


@dataclass(frozen=True)
class ImageBatch:
    """A preprocessed batch."""

    names: tuple[str, ...]  # of all its images
    images: Tensor  # [B, 3, S, S], the readable ones in their order; uint8, or float32 in [0, 1]
    errors: Mapping[int, str]  # of the others, by their index in `names`

    def require_readable(self) -> None:
        """Raise OODError with the first error."""
        if self.errors:
            raise OODError(next(iter(self.errors.values())))


def preprocess(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return an image [3, H, W] as the network's input, [3, S, S]."""
    return evaluation_view(pixels, preprocessing.image_size, preprocessing.view)


def decode_image(encoded: bytes, name: str) -> Tensor:
    """Return a picture in any known format as uint8 [3, H, W]; raise OODError if it is none, broken or too large."""
    return _named_errors(name, partial(to_rgb, decode(encoded, name)))


def iter_batches(
    images: Iterable[ImageRef], preprocessing: Preprocessing, batch_size: int, device: torch.device = CPU
) -> Iterator[ImageBatch]:
    """Yield all images in their order; a batch counts unreadable ones too. `device` is the network's."""
    ahead = 0 if device.type == "cpu" else AHEAD
    threads = 1 if preprocessing.image_size <= SMALL else min(os.cpu_count() or 1, MOST_THREADS)
    source = iter(images)
    # one core for each thread: torch's own threads within them would only get into each other's way
    with ThreadPoolExecutor(threads, initializer=torch_state.use_one_core) as pool:
        pending: deque[tuple[list[ImageRef], list[Future[list[Tensor | str]]]]] = deque()
        while True:
            while len(pending) <= ahead and (group := list(islice(source, batch_size))):
                share = -(-len(group) // threads)
                parts = [group[start : start + share] for start in range(0, len(group), share)]
                pending.append((group, [pool.submit(_read_images, part, preprocessing) for part in parts]))
            if not pending:
                return
            group, futures = pending.popleft()
            found = [image for future in futures for image in future.result()]
            errors = {index: reason for index, reason in enumerate(found) if isinstance(reason, str)}
            readable = [image for image in found if isinstance(image, Tensor)]
            if len({image.dtype for image in readable}) > 1:
                readable = [to_unit(image) for image in readable]
            size = preprocessing.image_size
            stacked = torch.stack(readable) if readable else torch.empty(0, 3, size, size, dtype=torch.uint8)
            yield ImageBatch(tuple(ref.name for ref in group), stacked, errors)


def _read_images(images: Sequence[ImageRef], preprocessing: Preprocessing) -> list[Tensor | str]:
    found: list[Tensor | str] = []
    for image in images:
        try:
            found.append(preprocess(image.pixels(), preprocessing))
        except OODError as error:
            found.append(str(error))
    return found


def image_refs(images: Any) -> Iterator[ImageRef]:
    """Yield the images of a path, a folder, a picture, an array, a tensor, or an iterable of such.

    Arrays are [H, W], [H, W, 3] or [N, H, W, 3], tensors [3, H, W] or [N, 3, H, W]; uint8, or floats in [0, 1]: the
    channels of an array are last and those of a tensor first, also if both would fit. From pairs, longer tuples that
    begin with image and label, and dicts, as data sets and loaders yield them, the images are taken.
    """
    for index, image in enumerate(_flat(images)):
        name = f"image {index}"
        yield image if image.name else ImageRef(name, partial(_named_errors, name, image.pixels))


def _named_errors(name: str, pixels: Callable[[], Tensor]) -> Tensor:
    """Return the pixels; put the image's name before an error."""
    try:
        return pixels()
    except OODError as error:
        raise OODError(f"{name}: {error}") from error


def _flat(images: Any) -> Iterator[ImageRef]:
    if isinstance(images, str) and not images:
        raise OODError("an empty path names no image")
    if isinstance(images, (str, Path)):
        yield from _files(Path(images))
    elif isinstance(images, PIL.Image.Image):
        yield ImageRef("", partial(to_rgb, images))
    elif isinstance(images, Mapping):
        encoded = images.get("bytes")  # as Hugging Face's data sets give pictures that they do not decode
        if isinstance(encoded, bytes):
            yield ImageRef("", partial(decode_image, encoded, str(images.get("path") or "a picture")))
        elif set(images) == {"bytes", "path"}:
            yield from _files(Path(images["path"]))
        else:
            yield from _flat(split_entry(images)[0])
    elif isinstance(images, np.ndarray):
        yield from _arrays(images)
    elif isinstance(images, Tensor):
        yield from _tensors(images)
    elif hasattr(images, "__iter__") or (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        for entry in images if hasattr(images, "__iter__") else (images[row] for row in range(len(images))):
            yield from _flat(split_entry(entry)[0])
    else:
        raise OODError(f"a {type(images).__name__} holds no images; give paths, pictures, arrays, tensors or a loader")


def split_entry(entry: Any) -> tuple[Any, Any]:
    """Return image and label (or images and labels) of an entry of a data set or loader; None without a label."""
    if isinstance(entry, Mapping):
        pictures = [key for key, value in entry.items() if isinstance(value, PIL.Image.Image)]
        image = next((key for key in (*IMAGE_KEYS, *pictures) if key in entry), None)
        if image is None:
            keys = listed([f"'{key}'" for key in entry])
            if any(hasattr(value, "column_names") for value in entry.values()):
                raise OODError(f"these are several splits, {keys}; name one: dataset['{next(iter(entry))}']")
            raise OODError(f"none of the keys {keys} is one of images: {', '.join(IMAGE_KEYS)}")
        return entry[image], next((entry[key] for key in LABEL_KEYS if key in entry), None)
    if isinstance(entry, (tuple, list)) and len(entry) > 1 and is_label(entry[1]):
        return entry[0], entry[1]
    return entry, None


def is_label(value: Any) -> bool:
    """Return whether this is one label or several, or None in place of one; not an image or the path of one."""
    if isinstance(value, (list, tuple)):
        return bool(value) and is_label(value[0])
    if isinstance(value, Tensor):
        return value.ndim <= 2
    if isinstance(value, str):
        return Path(value).suffix.lower() not in PIL.Image.registered_extensions()
    if hasattr(value, "__array__"):  # numpy's arrays and scalars, and those of pandas
        return not isinstance(value, PIL.Image.Image) and np.ndim(value) <= 2
    return value is None or isinstance(value, (int, float, bytes))


def _files(path: Path) -> Iterator[ImageRef]:
    if is_dir(path):
        passed = PassedOver()
        found = pictures_in(path, passed)
        if not found:
            raise OODError(passed.behind(f"{path}: the folder holds no pictures"))
        for note in passed.notes(path):
            warn(note)
        yield from map(file_ref, found)
    elif path.is_file():
        yield file_ref(path)
    else:
        raise OODError(f"{path}: {'not a regular file' if path.exists() else 'no such file or folder'}")


def file_ref(path: str | Path) -> ImageRef:
    """Return a reference to an image file; missing files and pipes are errors when it is read."""
    return ImageRef(str(path), partial(_read, str(path)))


def _read(path: str) -> Tensor:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a fifth of the time of a small picture goes into pathlib
        if not stat.S_ISREG(mode):  # a pipe would be waited for
            what = "a folder that cannot be read" if stat.S_ISDIR(mode) else "not a regular file"
            raise OODError(f"{path}: {what}")
        with open(path, "rb") as file:  # noqa: PTH123
            encoded = file.read()
    except OSError as error:
        raise OODError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(encoded, path)


def _arrays(array: NDArray[Any]) -> Iterator[ImageRef]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3):
        raise OODError(f"an array of images is [H, W], [H, W, 3] or [N, H, W, 3], not {list(array.shape)}")
    if array.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise OODError(f"an array of images holds uint8 or floats in [0, 1], not {array.dtype}")
    yield from _tensors(torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, -3))


def _tensors(tensor: Tensor) -> Iterator[ImageRef]:
    if tensor.ndim not in (3, 4) or tensor.shape[-3] not in (1, 3):
        raise OODError(f"a tensor of images is [3, H, W] or [N, 3, H, W], not {list(tensor.shape)}")
    if not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        raise OODError(f"a tensor of images holds uint8 or floats in [0, 1], not {str(tensor.dtype)[6:]}")
    for image in tensor if tensor.ndim == 4 else tensor[None]:
        yield ImageRef("", partial(_pixels, image))


def _pixels(image: Tensor) -> Tensor:
    if not image.numel():
        raise OODError(f"the image is empty: {image.shape[1]} pixels high, {image.shape[2]} wide")
    pixels = image.detach().cpu().expand(3, *image.shape[1:])
    if pixels.dtype == torch.uint8:
        return pixels.contiguous()
    if not pixels.isfinite().all():
        raise OODError("pixels are NaN or infinite")
    if pixels.min() < 0 or pixels.max() > 1:
        raise OODError(
            f"floats must lie in [0, 1], these reach from {pixels.min():.3g} to {pixels.max():.3g}; the detector "
            "normalises for itself: give images as they were before (or uint8), and Detector the mean and std"
        )
    return pixels.float().contiguous()

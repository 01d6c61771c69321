"""Images in numpy files: archives with images and labels, or two arrays as in CIFAR-10-C."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ood_core.errors import OODError
from ood_core.files import listing
from ood_core.image_files import UNLABELLED
from ood_core.interfaces import DatasetSource, ImageSet, Split

IMAGE_KEYS = ("images", "x", "data", "arr_0")
LABEL_KEYS = ("labels", "y", "targets", "arr_1")
CLASSES_KEY = "classes"


@dataclass(frozen=True, kw_only=True)
class Arrays(DatasetSource):
    """Numpy archives (.npz) with images and labels, or two arrays (.npy) as in CIFAR-10-C.

    Images are uint8, [N, H, W] or [N, H, W, 3]; labels [N] are class numbers. An archive may have the names of the
    classes in an array `classes`.

    Attributes:
        path: A folder with train.npz and test.npz; one file is both splits.
        labels: The labels, where `path` is an .npy file; without any all images are one class.
        image_key: Where in an archive the images are; None takes `images`, `x`, `data` or `arr_0`.
        label_key: Where the labels are; None takes `labels`, `y`, `targets` or `arr_1`.
        rows: [first, stop): take these alone. CIFAR-10-C has 10 000 rows for each of five severities.
    """

    name = "arrays"
    path: Path
    labels: Path | None = None
    image_key: str | None = None
    label_key: str | None = None
    rows: tuple[int, int] | None = None

    def check(self) -> None:
        """Raise OODError where there is no such file or folder."""
        if not self.path.exists():
            raise OODError(f"{self.path}: no such file or folder")

    def open(self, split: Split) -> ImageSet:
        """Return the images of one split."""
        self.check()
        path = self._file(split)
        if path.suffix == ".npy":
            images, labels, names = _array(path), None if self.labels is None else _array(self.labels), None
        else:
            images, labels, names = self._archive(path)
        if labels is not None and len(labels) != len(images):
            raise OODError(f"{path}: {len(images)} images, but {len(labels)} labels")
        rows = slice(None) if self.rows is None else slice(*self._checked_rows(path, len(images)))
        images = _pixels(path, images)[rows]
        numbers = np.zeros(len(images), np.int64) if labels is None else _numbers(path, labels)[rows]
        return ArrayImages(images, numbers, _classes(path, numbers if labels is not None else None, names))

    def _file(self, split: Split) -> Path:
        if self.path.is_file():
            return self.path
        path = self.path / f"{split}.npz"
        if not path.is_file():
            raise OODError(f"{self.path}: no {split}.npz for the {split} split, only {listing(self.path)}")
        return path

    def _archive(self, path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
        try:
            with np.load(path, allow_pickle=False) as archive:
                if not hasattr(archive, "files"):
                    raise OODError(f"{path}: no .npz archive")
                image = _key(path, archive.files, self.image_key, IMAGE_KEYS, "image_key")
                label = next((key for key in LABEL_KEYS if key in archive.files), None)
                if self.label_key is not None:
                    label = _key(path, archive.files, self.label_key, (), "label_key")
                names = archive[CLASSES_KEY] if CLASSES_KEY in archive.files else None
                return archive[image], None if label is None else archive[label], names
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise OODError(f"{path}: {_reason(error)}") from error

    def _checked_rows(self, path: Path, count: int) -> tuple[int, int]:
        assert self.rows is not None, "asked for only where rows are chosen"
        first, stop = self.rows
        if not 0 <= first < stop <= count:
            raise OODError(f"{path}: 'rows' [{first}, {stop}] must lie within the {count} images")
        return first, stop


class ArrayImages(ImageSet):
    """Images in one array."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.labels = labels.tolist()
        digest = sha256(repr((images.shape, classes, self.labels)).encode())
        for image in images:
            digest.update(np.ascontiguousarray(image).data)
        self.fingerprint = digest.hexdigest()
        self._images = images

    def image(self, index: int) -> PIL.Image.Image:
        """Return one image, mode "L" or "RGB"."""
        return PIL.Image.fromarray(np.asarray(self._images[index]))


def _array(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise OODError(f"{path}: no such file")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except (OSError, ValueError, EOFError) as error:
        raise OODError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds pickled objects, which are not read; save plain arrays"
    return f"cannot be read: {' '.join(str(error).split())}"


def _key(path: Path, there: list[str], wanted: str | None, usual: tuple[str, ...], option: str) -> str:
    for key in (wanted,) if wanted is not None else usual:
        if key in there:
            return key
    names = wanted if wanted is not None else " or ".join(usual)
    raise OODError(f"{path}: no array {names}, which {option} chooses; there is: {', '.join(there) or 'none'}")


def _pixels(path: Path, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise OODError(f"{path}: images are {images.dtype}, not uint8 from 0 to 255")
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] != 3:
        raise OODError(f"{path}: images are {list(images.shape)}, channels first; transpose them to [N, H, W, 3]")
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] == 3):
        raise OODError(f"{path}: images are {list(images.shape)}, not [N, H, W] or [N, H, W, 3]")
    if not len(images):
        raise OODError(f"{path}: no images")
    return images


def _numbers(path: Path, labels: NDArray[Any]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or (labels < 0).any():
        raise OODError(f"{path}: labels are {labels.dtype} {list(labels.shape)}, not class numbers [N] from 0 on")
    return labels.astype(np.int64)


def _classes(path: Path, labels: NDArray[np.int64] | None, names: NDArray[Any] | None) -> tuple[str, ...]:
    if labels is None:
        return (UNLABELLED,)
    if names is None:
        return tuple(map(str, range(int(labels.max()) + 1)))
    if labels.max() >= len(names):
        raise OODError(f"{path}: label {labels.max()}, but only {len(names)} names in '{CLASSES_KEY}'")
    return tuple(map(str, names.tolist()))

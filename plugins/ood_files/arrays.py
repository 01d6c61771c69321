"""Images in numpy files: archives with images and labels, or two arrays as in CIFAR-10-C."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from ood_core.data.files import file_digest, listing, reading
from ood_core.data.image_files import UNLABELLED
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import named, numbered

IMAGE_KEYS = ("images", "x", "data", "arr_0")
LABEL_KEYS = ("labels", "y", "targets", "arr_1")
CLASSES_KEY = "classes"

Labels: TypeAlias = "tuple[NDArray[np.int64] | None, tuple[str, ...] | None]"
"""Class numbers of the images of a file, and names of the classes; None for what it does not have."""


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
        if not self.path.exists():
            raise OODError(f"{self.path}: no such file or folder; the option 'path' sets it")
        if self.labels is not None and not self._is_one_array():
            raise OODError(f"{self.path}: 'labels' is for an .npy file; in an archive 'label_key' chooses the labels")
        if self.labels is not None and not self.labels.is_file():
            raise OODError(f"{self.labels}: no such file; the option 'labels' sets it")
        if self._is_one_array() and (self.image_key or self.label_key):
            raise OODError(
                f"{self.path}: 'image_key' and 'label_key' are for archives (.npz); 'labels' is for .npy files"
            )

    def open(self, split: Split) -> ImageSet:
        """Return the images of one split; those of .npy files stay on the disk until they are read."""
        self.check()
        path = self.path if self.path.is_file() else self.path / f"{split}.npz"
        if not path.is_file():
            raise OODError(f"{self.path}: no {split}.npz for the {split} split, only {listing(self.path)}")
        key, images = self._images(path)
        found = self._labels(path)
        classes, numbers = _classes(found), found[path][0]
        if numbers is not None and len(numbers) != len(images):
            raise OODError(f"{path}: {len(images)} images, but {len(numbers)} labels")
        first, stop = self.rows or (0, len(images))
        if not 0 <= first < stop <= len(images):
            raise OODError(f"{path}: 'rows' [{first}, {stop}] must lie within the {len(images)} images")
        labels = [0] * (stop - first) if numbers is None else numbers[first:stop].tolist()
        content = file_digest(path), key, first, stop, labels, classes
        return ArrayImages(images[first:stop], labels, classes, sha256(repr(content).encode()).hexdigest())

    def _is_one_array(self) -> bool:
        return self.path.suffix == ".npy"

    def _images(self, path: Path) -> tuple[str, NDArray[np.uint8]]:
        """Return the images, and under which key they are."""
        if self._is_one_array():
            return "", _pixels(path, _array(path))
        with _archive(path) as archive:
            key = _key(path, archive.files, self.image_key, IMAGE_KEYS, "image_key")
            return key, _pixels(path, archive[key])

    def _labels(self, path: Path) -> dict[Path, Labels]:
        """Return the labels and class names of the files of both splits, because both number the same classes."""
        if self._is_one_array():
            return {path: (None if self.labels is None else _numbers(self.labels, _array(self.labels)), None)}
        files = [self.path] if self.path.is_file() else [self.path / f"{split}.npz" for split in ("test", "train")]
        found: dict[Path, Labels] = {}
        for file in filter(Path.is_file, files):
            with _archive(file) as archive:
                key = next((key for key in LABEL_KEYS if key in archive.files), None)
                if self.label_key is not None:
                    key = _key(file, archive.files, self.label_key, (), "label_key")
                names = archive[CLASSES_KEY].ravel().tolist() if CLASSES_KEY in archive.files else None
                found[file] = (
                    None if key is None else _numbers(file, archive[key]),
                    None if names is None else named(map(str, names), str(file)),
                )
        return found


class ArrayImages(ImageSet):
    """Images in one array."""

    def __init__(
        self, images: NDArray[np.uint8], labels: list[int], classes: tuple[str, ...], fingerprint: str
    ) -> None:
        self.classes, self.labels, self.fingerprint = classes, labels, fingerprint
        self._images = images

    def image(self, index: int) -> PIL.Image.Image:
        return PIL.Image.fromarray(np.asarray(self._images[index]))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of numpy for a broken file into one line."""
    with reading(path):
        try:
            yield
        except ValueError as error:
            if "allow_pickle" in str(error) or "Python objects" in str(error):
                raise OODError(f"{path}: it holds pickled objects, which are not read; save plain arrays") from error
            raise


def _array(path: Path) -> NDArray[Any]:
    with _readable(path):
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        return array


@contextmanager
def _archive(path: Path) -> Iterator[NpzFile]:
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle
        raise OODError(f"{path}: not a whole numpy archive (.npz)")
    with _readable(path), np.load(path, allow_pickle=False) as archive:
        yield archive


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


def _classes(found: Mapping[Path, Labels]) -> tuple[str, ...]:
    """Return the classes of all splits: their names, or numbers up to the largest label."""
    where = " and ".join(map(str, found))
    labels = [numbers for numbers, _ in found.values() if numbers is not None]
    names = {names for _, names in found.values() if names is not None}
    if not labels:
        return (UNLABELLED,)
    if len(labels) < len(found):
        raise OODError(f"{where}: one has labels, the other has none")
    if len(names) > 1:
        one, other = names
        pairs = (f"'{a}' and '{b}'" for a, b in zip(one, other, strict=False) if a != b)
        raise OODError(
            f"{where}: the names in '{CLASSES_KEY}' differ: {next(pairs, f'{len(one)} and {len(other)} of them')}"
        )
    largest = max(int(numbers.max(initial=0)) for numbers in labels)
    if not names:
        return numbered(largest, where)
    classes = names.pop()
    if largest >= len(classes):
        raise OODError(f"{where}: label {largest}, but only {len(classes)} names in '{CLASSES_KEY}'")
    return classes

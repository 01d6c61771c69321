"""ID images with their labels, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ood_core.detector.inputs import Item, file_item, items
from ood_core.errors import OODError
from ood_core.image_files import pictures_in


@dataclass(frozen=True)
class Labelled:
    """ID images with their classes.

    Attributes:
        items: The images.
        labels: int64 [N]; all 0 where nobody says.
        classes: Names, by label.
    """

    items: Sequence[Item]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: NDArray[np.int64]) -> Labelled:
        return Labelled([self.items[row] for row in rows], self.labels[rows], self.classes)


def labelled(dataset: Any, classes: Sequence[str] | None = None) -> Labelled:
    """Return images and labels.

    Args:
        dataset: A folder with a folder for each class, a pair (images, labels), a data set or loader that yields such
            pairs, or anything else that holds images, which then are of one class.
        classes: Names of the classes; those of the data set, or numbers, unless given.

    Raises:
        OODError: There are no images, or labels that do not fit.
    """
    if isinstance(dataset, (str, Path)):
        return _of_folder(Path(dataset))
    if isinstance(dataset, tuple) and len(dataset) == 2 and _length(dataset[1]) is not None:
        found = list(items(dataset[0]))
        labels = np.asarray(dataset[1]).astype(np.int64).reshape(-1)
    else:
        found, labels = _of_set(dataset) if _is_map(dataset) else _of_pairs(dataset)
    if not found:
        raise OODError("there are no images to fit to")
    if len(found) != len(labels):
        raise OODError(f"there are {len(found)} images and {len(labels)} labels")
    known = classes or getattr(dataset, "classes", None) or [str(n) for n in range(int(labels.max()) + 1)]
    if labels.min() < 0 or labels.max() >= len(known):
        raise OODError(f"labels reach from {labels.min()} to {labels.max()}, and there are {len(known)} classes")
    return Labelled(found, labels, tuple(map(str, known)))


def _of_folder(folder: Path) -> Labelled:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    files = [(file_item(file), label) for label, name in enumerate(classes) for file in pictures_in(folder / name)]
    if not files:
        raise OODError(f"{folder}: wanted is a folder with a folder of pictures for each class")
    return Labelled([item for item, _ in files], np.array([label for _, label in files]), tuple(classes))


def _length(labels: Any) -> int | None:
    """Return how many labels there are, None for what are no labels."""
    found = np.asarray(labels) if isinstance(labels, (list, tuple, np.ndarray, Tensor)) else None
    return len(found) if found is not None and found.ndim == 1 and found.dtype.kind in "iu" else None


def _is_map(dataset: Any) -> bool:
    """Return whether this is a data set of torch's kind, whose images are had by their places."""
    return not hasattr(dataset, "__iter__") and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _of_set(dataset: Any) -> tuple[list[Item], NDArray[np.int64]]:
    """Return the images of a data set, none of which is kept; it is read once for its labels, unless it tells them."""
    count = len(dataset)
    told = np.asarray(getattr(dataset, "targets", []))
    if told.shape != (count,) or told.dtype.kind not in "iu":
        told = np.array([_parted(dataset[row])[1] or 0 for row in range(count)])
    found = [Item(f"image {row}", partial(_pixels, dataset, row)) for row in range(count)]
    return found, told.astype(np.int64).reshape(count)


def _pixels(dataset: Any, row: int) -> Tensor:
    """Return one image of a data set."""
    (item,) = items(_parted(dataset[row])[0])
    return item.pixels()


def _of_pairs(entries: Iterable[Any]) -> tuple[list[Item], NDArray[np.int64]]:
    """Return the images and labels that are yielded one by one or in batches, kept in memory."""
    found, labels = list[Item](), list[int]()
    for entry in entries:
        images, of = _parted(entry)
        new = list(items(images))
        found += new
        labels += [0] * len(new) if of is None else np.asarray(of).reshape(-1).tolist()
    return found, np.array(labels, np.int64)


def _parted(entry: Any) -> tuple[Any, Any]:
    """Return image and label, or images and labels; no label where there is none."""
    return (entry[0], entry[1]) if isinstance(entry, (tuple, list)) and len(entry) == 2 else (entry, None)


def split(images: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Return what is fitted to, and what calibrates: a share of each class, drawn at random.

    Raises:
        OODError: The share leaves nothing on one side.
    """
    generator, kept, held = np.random.default_rng(seed), [], []
    for one in np.unique(images.labels):
        rows = generator.permutation(np.flatnonzero(images.labels == one))
        count = round(len(rows) * share)
        held.append(rows[:count])
        kept.append(rows[count:])
    inside, outside = np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))
    if not len(inside) or not len(outside):
        raise OODError(f"a holdout of {share:g} of {len(images)} images leaves none to fit to, or none to calibrate by")
    return images[inside], images[outside]

"""ID images with their labels, whatever holds them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ood_core.detector.inputs import Item, file_item, items
from ood_core.errors import OODError, suggest
from ood_core.folders import PassedOver, class_folders, is_dir, pictures_in, split_folders


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
        classes: Names of the classes; those of the data set or the folders, or numbers, unless given.

    Raises:
        OODError: There are no images, or labels that do not fit.
    """
    if isinstance(dataset, (str, Path)):
        return _of_folder(Path(dataset), classes)
    if isinstance(dataset, tuple) and len(dataset) == 2 and _are_labels(dataset[1]):
        found, given = list(items(dataset[0])), dataset[1]
    elif _is_map(dataset):
        found, given = _of_set(dataset)
    elif hasattr(dataset, "__iter__"):
        found, given = _of_pairs(dataset)
    else:
        raise OODError(f"a {type(dataset).__name__} holds no images to fit to")
    if not found:
        raise OODError("there are no images to fit to")
    labels, known = _numbered(given, classes or getattr(dataset, "classes", None))
    if len(found) != len(labels):
        raise OODError(f"there are {len(found)} images and {len(labels)} labels")
    return Labelled(found, labels, known)


def _numbered(given: Any, classes: Sequence[str] | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as numbers, and the names of the classes; labels may be names themselves.

    Raises:
        OODError: They are neither, or do not fit the classes.
    """
    labels = np.asarray(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise OODError(f"labels are a whole number or a name for each image, not {labels.dtype} {list(labels.shape)}")
    if labels.dtype.kind == "U":
        known = tuple(map(str, classes or np.unique(labels)))
        places = {name: place for place, name in enumerate(known)}
        if foreign := sorted(set(labels.tolist()) - places.keys()):
            raise OODError(f"no class '{foreign[0]}'.{suggest(foreign[0], known)}")
        return np.array([places[name] for name in labels.tolist()]), known
    low, high = int(labels.min()), int(labels.max())
    count = high + 1 if classes is None else len(classes)
    if low < 0 or high >= count:
        raise OODError(f"labels reach from {low} to {high}, and there are {count} classes")
    if classes is None and count > len(labels):
        raise OODError(f"labels reach up to {high} for {len(labels)} images; number the classes from 0, or name them")
    return labels.astype(np.int64), tuple(map(str, range(count) if classes is None else classes))


def _are_labels(value: Any) -> bool:
    """Return whether this is what stands behind images in a pair: numbers or names, and no images."""
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], (int, float, str, np.number))
    return isinstance(value, (np.ndarray, Tensor)) and value.ndim <= 2


def _of_folder(folder: Path, classes: Sequence[str] | None) -> Labelled:
    passed, wanted = PassedOver(), "wanted is a folder with a folder of pictures for each class"
    if not is_dir(folder):
        raise OODError(f"{folder}: {wanted}")
    if splits := split_folders(folder, PassedOver()):
        one = splits.get("train") or splits["test"]
        names = " and ".join(found.name for found in splits.values())
        raise OODError(f"{folder}: holds {names}, which are splits and no classes; give one of them, such as {one}")
    found = class_folders(folder, passed)
    files = [(file, one.name) for one in found for file in pictures_in(one, passed)]
    if not files:
        raise OODError(passed.behind(f"{folder}: {wanted}"))
    empty = sorted({one.name for one in found} - {name for _, name in files})
    without = (f"{folder}: no picture of {len(empty)} classes, such as '{empty[0]}'",) if empty else ()
    for note in (*passed.notes(folder), *without):
        warnings.warn(note, stacklevel=2)
    labels, known = _numbered([name for _, name in files], classes or [one.name for one in found])
    return Labelled([file_item(file) for file, _ in files], labels, known)


def _is_map(dataset: Any) -> bool:
    """Return whether this is a data set of torch's kind, whose images are had by their places."""
    return not hasattr(dataset, "__iter__") and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _of_set(dataset: Any) -> tuple[list[Item], Any]:
    """Return the images of a data set, none of which is kept; it is read once for its labels, unless it tells them."""
    count = len(dataset)
    told = np.asarray(getattr(dataset, "targets", []))
    found = [Item(f"image {row}", partial(_pixels, dataset, row)) for row in range(count)]
    if told.shape == (count,) and told.dtype.kind in "iu":
        return found, told
    labels = [_parted(dataset[row])[1] for row in range(count)]
    return found, [0 if label is None else label for label in labels]


def _pixels(dataset: Any, row: int) -> Tensor:
    """Return one image of a data set."""
    (item,) = items(_parted(dataset[row])[0])
    return item.pixels()


def _of_pairs(entries: Iterable[Any]) -> tuple[list[Item], list[Any]]:
    """Return the images and labels that are yielded one by one or in batches, kept in memory."""
    found, labels = list[Item](), list[Any]()
    for entry in entries:
        images, of = _parted(entry)
        new = list(items(images))
        found += new
        labels += [0] * len(new) if of is None else np.asarray(of).reshape(-1).tolist()
    return found, labels


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

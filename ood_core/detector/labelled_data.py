"""ID images with their labels, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from ood_core.data.folders import PassedOver, class_folders, is_dir, pictures_in, split_folders
from ood_core.detector.image_inputs import IMAGE_KEYS, LABEL_KEYS, ImageRef, file_ref, image_refs, is_label, split_entry
from ood_core.detector.labels import as_array, number_labels
from ood_core.errors import OODError, listed, warn

FORMS = "give a folder, a pair (images, labels), a data set, or what yields (image, label) or {'image': , 'label': }"


@dataclass(frozen=True)
class LabelledImages:
    """ID images with their classes.

    Attributes:
        items: The images.
        labels: int64 [N]; all 0 without any.
        classes: Names, by label.
        has_labels: Whether labels were given.
    """

    items: Sequence[ImageRef]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    has_labels: bool = True

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: NDArray[np.int64]) -> LabelledImages:
        return replace(self, items=[self.items[row] for row in rows], labels=self.labels[rows])


def read_labelled(dataset: Any, classes: Sequence[str] | None = None) -> LabelledImages:
    """Return images and labels.

    Args:
        dataset: A folder with a folder for each class, a pair (images, labels), a data set of torch, torchvision or
            Hugging Face, a loader, a list or generator. Their entries are pairs, longer tuples that begin with image
            and label, or dicts. Anything else that holds images has no labels, and they are of one class. It must end:
            a stream without an end is read for ever.
        classes: Names of the classes in the order of the module's outputs; unless given those of the data set, or
            sorted names where the labels are names, or numbers.

    Raises:
        OODError: There are no images, or labels that do not fit.
    """
    found, given, own = _read(dataset)
    if not found:
        raise OODError("there are no images to fit to")
    if given is None:
        names = ("0",) if classes is None else tuple(map(str, classes))
        return LabelledImages(found, np.zeros(len(found), np.int64), names, has_labels=False)
    labels, known = number_labels(given, classes, own)
    if len(found) != len(labels):
        raise OODError(f"there are {len(found)} images and {len(labels)} labels")
    return LabelledImages(found, labels, known)


def _read(dataset: Any) -> tuple[list[ImageRef], Any, Sequence[str] | None]:
    """Return images, labels (None without any), and the names of the classes (None if the data set has none)."""
    if isinstance(dataset, (str, Path)):
        return _of_folder(Path(dataset))
    if _is_pair(dataset):
        return list(image_refs(dataset[0])), dataset[1], None
    if hasattr(dataset, "iloc") and hasattr(dataset, "columns"):
        dataset = {name: dataset[name] for name in dataset.columns}
    if isinstance(dataset, Mapping):
        images, labels = split_entry(dataset)
        return list(image_refs(images)), labels, None
    if all(hasattr(dataset, name) for name in ("features", "column_names", "__len__")):
        return _of_table(dataset)
    if _is_map(dataset):
        return *_of_set(dataset), _names_of(dataset)
    if hasattr(dataset, "__iter__"):
        return *_of_entries(dataset), _names_of(dataset)
    raise OODError(f"a {type(dataset).__name__} holds no images to fit to; {FORMS}")


def _is_pair(dataset: Any) -> bool:
    """Return whether these are images and labels, not two images or two entries with a label each."""
    if not isinstance(dataset, (tuple, list)) or len(dataset) != 2:
        return False
    labels = dataset[1]
    if isinstance(labels, (tuple, list)):
        return isinstance(dataset, tuple) and (not labels or is_label(labels[0]))
    return not isinstance(labels, str) and hasattr(labels, "__array__") and is_label(labels)


def _of_folder(folder: Path) -> tuple[list[ImageRef], list[str], Sequence[str]]:
    """Return pictures with the names of their class folders as labels, and all these names."""
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
    classes = [one.name for one in found]
    empty = sorted(set(classes) - {name for _, name in files})
    for note in passed.notes(folder):
        warn(note)
    if empty:
        which = f"the class '{empty[0]}'" if len(empty) == 1 else f"{len(empty)} classes, such as '{empty[0]}'"
        warn(f"{folder}: no picture of {which}")
    return [file_ref(file) for file, _ in files], [name for _, name in files], classes


def _is_map(dataset: Any) -> bool:
    """Return whether images are read by their places, as those of torch's data sets are."""
    if isinstance(dataset, Dataset):
        return not isinstance(dataset, IterableDataset)
    return not hasattr(dataset, "__iter__") and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _of_set(dataset: Any) -> tuple[list[ImageRef], Any]:
    """Return the images of a data set, none of which is kept, and its labels, for which it is read if need be."""
    count = len(dataset)
    found = [ImageRef(f"image {row}", partial(_pixels, dataset, row)) for row in range(count)]
    targets = _targets_of(dataset)
    if targets is not None and len(targets) == count and all(_agrees(dataset, targets, row) for row in {0, count - 1}):
        return found, targets
    labels = [split_entry(dataset[row])[1] for row in range(count)]
    return found, None if all(label is None for label in labels) else labels


def _targets_of(dataset: Any) -> NDArray[Any] | None:
    """Return the labels that a data set has beside its images; None if it has none."""
    if isinstance(dataset, Subset):
        inner = _targets_of(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_targets_of(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return as_array(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    found = getattr(dataset, "targets", getattr(dataset, "labels", None))
    return as_array(found) if isinstance(found, (list, tuple, np.ndarray, Tensor)) and len(found) else None


def _agrees(dataset: Any, targets: NDArray[Any], row: int) -> bool:
    """Return whether an entry has the label that stands beside it; not where it is changed on the way."""
    label = split_entry(dataset[row])[1]
    return label is not None and np.array_equal(as_array(label), targets[row])


def _names_of(dataset: Any) -> Sequence[str] | None:
    """Return the names of the classes, also of the data set inside another one or a loader.

    Raises:
        OODError: Data sets of different classes are concatenated.
    """
    if isinstance(dataset, (Subset, DataLoader)):
        return _names_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        every = {None if (names := _names_of(part)) is None else tuple(names) for part in dataset.datasets}
        if len(every) > 1:
            raise OODError("the data sets that are concatenated have different classes; concatenate those of one kind")
        return every.pop()
    if getattr(dataset, "target_transform", None) is not None:  # its labels are not those of the names
        return None
    named = [of.names for of in (getattr(dataset, "features", None) or {}).values() if _kind(of) == "ClassLabel"]
    found = named[0] if len(named) == 1 else getattr(dataset, "classes", None)
    return found if isinstance(found, (list, tuple)) else None


def _pixels(dataset: Any, row: int) -> Tensor:
    """Return one image of a data set."""
    (item,) = image_refs(split_entry(dataset[row])[0])
    return item.pixels()


def _of_entries(entries: Iterable[Any]) -> tuple[list[ImageRef], list[Any] | None]:
    """Return the images and labels that are yielded one by one or in batches, kept in memory."""
    found, labels = list[ImageRef](), list[Any]()
    for entry in entries:
        images, given = split_entry(entry)
        new = list(image_refs(images))
        found += new
        labels += [None] * len(new) if given is None else _label_rows(given, len(new))
    return found, None if all(label is None for label in labels) else labels


def _label_rows(given: Any, count: int) -> list[Any]:
    """Return a label for each image of an entry: a number, a name, or a row of which one value is 1."""
    labels = as_array(given)
    if labels.ndim and len(labels) == count:
        return list(labels.tolist())
    if count != 1:
        raise OODError(f"an entry has {count} images and labels {list(labels.shape)}")
    return [labels.tolist()]


# ------------------------------------------------------------------------------------------------ Hugging Face's tables


def _of_table(dataset: Any) -> tuple[list[ImageRef], Any, Sequence[str] | None]:
    """Return images, labels and names of a table whose columns have types, found by these or else by their names."""
    image, label = _column(dataset, "Image", IMAGE_KEYS), _column(dataset, "ClassLabel", LABEL_KEYS)
    if image is None:
        raise OODError(f"none of the columns {_listed(dataset.column_names)} has images; cast one to datasets.Image()")
    found = [ImageRef(f"image {row}", partial(_cell, dataset, row, image)) for row in range(len(dataset))]
    if label is None:
        return found, None, None
    return found, list(dataset.with_format(None)[label]), getattr(dataset.features[label], "names", None)


def _column(dataset: Any, kind: str, usual: Sequence[str]) -> str | None:
    typed = [name for name, feature in dataset.features.items() if _kind(feature) == kind]
    named = [name for name in usual if name in (typed or dataset.column_names)]
    if len(typed) > 1 and not named:
        raise OODError(f"several columns are {kind}: {_listed(typed)}; keep one: dataset.remove_columns([...])")
    return next(iter(named or typed), None)


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _listed(names: Iterable[str]) -> str:
    return listed([f"'{name}'" for name in names])


def _cell(dataset: Any, row: int, column: str) -> Tensor:
    """Return the image of a row; a transform of the table may have given it another name."""
    entry = dataset[row]
    (item,) = image_refs(entry[column] if column in entry else split_entry(entry)[0])
    return item.pixels()


def split_holdout(images: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
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
    if not len(outside) and 1 < len(images) == len(np.unique(images.labels)):
        raise OODError(
            f"every one of {len(images)} images has a class of its own; is the second entry of each the label?"
        )
    if not len(inside) or not len(outside):
        raise OODError(f"a holdout of {share:g} of {len(images)} images leaves none to fit to, or none to calibrate by")
    return images[inside], images[outside]

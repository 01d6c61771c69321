"""ID images with their labels: folders, pairs, data sets, tables, loaders."""

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

FORMS = "give a folder, a pair (images, labels), a data set, or an iterable of (image, label) or {'image': , 'label': }"


@dataclass(frozen=True)
class LabelledImages:
    """ID images with their classes."""

    images: Sequence[ImageRef]  # N images
    labels: NDArray[np.int64]  # int64 [N]; all 0 if there are none
    classes: tuple[str, ...]  # names, by label
    has_labels: bool = True  # whether there are labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: NDArray[np.int64]) -> LabelledImages:
        return replace(self, images=[self.images[row] for row in rows], labels=self.labels[rows])


def read_labelled(dataset: Any, classes: Sequence[str] | None = None) -> LabelledImages:
    """Return the images and labels of a data set.

    Args:
        dataset: A folder with a folder for each class, a pair (images, labels), a data set of torch, torchvision or
            Hugging Face, a loader, a list or generator. Their entries are pairs, longer tuples that begin with image
            and label, or dicts. Other sources of images have no labels: one class. It must end: an endless stream is
            read for ever.
        classes: Names of the classes in the order of the module's outputs; default: the data set's, or sorted names if
            the labels are names, or numbers.

    Raises:
        OODError: There are no images, or labels that do not fit.
    """
    found, given, own = _read(dataset)
    if not found:
        raise OODError("there are no images to fit to")
    if given is None:
        names = ("0",) if classes is None else tuple(map(str, classes))
        return LabelledImages(found, np.zeros(len(found), np.int64), names, has_labels=False)
    labels, names = number_labels(given, classes, own)
    if len(found) != len(labels):
        raise OODError(f"there are {len(found)} images and {len(labels)} labels")
    return LabelledImages(found, labels, names)


def _read(dataset: Any) -> tuple[list[ImageRef], Any, Sequence[str] | None]:
    """Return images, labels and class names; None for labels or names that are missing."""
    if isinstance(dataset, (str, Path)):
        return _read_folder(Path(dataset))
    if _is_pair(dataset):
        return list(image_refs(dataset[0])), dataset[1], None
    if hasattr(dataset, "iloc") and hasattr(dataset, "columns"):
        dataset = {name: dataset[name] for name in dataset.columns}
    if isinstance(dataset, Mapping):
        images, labels = split_entry(dataset)
        return list(image_refs(images)), labels, None
    if all(hasattr(dataset, name) for name in ("features", "column_names", "__len__")):
        return _read_table(dataset)
    if _is_map_style(dataset):
        return *_read_dataset(dataset), _class_names(dataset)
    if hasattr(dataset, "__iter__"):
        return *_read_entries(dataset), _class_names(dataset)
    raise OODError(f"a {type(dataset).__name__} holds no images to fit to; {FORMS}")


def _is_pair(dataset: Any) -> bool:
    """Return whether these are images and labels, not two images or two entries with a label each."""
    if not isinstance(dataset, (tuple, list)) or len(dataset) != 2:
        return False
    labels = dataset[1]
    if isinstance(labels, (tuple, list)):
        return isinstance(dataset, tuple) and (not labels or is_label(labels[0]))
    return not isinstance(labels, str) and hasattr(labels, "__array__") and is_label(labels)


def _read_folder(folder: Path) -> tuple[list[ImageRef], list[str], Sequence[str]]:
    """Return pictures, the names of their class folders as labels, and all these names."""
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


def _is_map_style(dataset: Any) -> bool:
    """Return whether images are read by index, as in torch's map-style data sets."""
    if isinstance(dataset, Dataset):
        return not isinstance(dataset, IterableDataset)
    return not hasattr(dataset, "__iter__") and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _read_dataset(dataset: Any) -> tuple[list[ImageRef], Any]:
    """Return images, which are read again each time, and labels, for which the data set is read if necessary."""
    count = len(dataset)
    found = [ImageRef(f"image {row}", partial(_dataset_image, dataset, row)) for row in range(count)]
    targets = _targets(dataset)
    if targets is not None and len(targets) == count and all(_agrees(dataset, targets, row) for row in {0, count - 1}):
        return found, targets
    labels = [split_entry(dataset[row])[1] for row in range(count)]
    return found, None if all(label is None for label in labels) else labels


def _targets(dataset: Any) -> NDArray[Any] | None:
    """Return the labels that a data set stores beside its images, if it does."""
    if isinstance(dataset, Subset):
        inner = _targets(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_targets(part) for part in dataset.datasets]
        stored = [part for part in parts if part is not None]
        return np.concatenate(stored) if len(stored) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return as_array(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    found = getattr(dataset, "targets", getattr(dataset, "labels", None))
    return as_array(found) if isinstance(found, (list, tuple, np.ndarray, Tensor)) and len(found) else None


def _agrees(dataset: Any, targets: NDArray[Any], row: int) -> bool:
    """Return whether an entry has its stored label; a `target_transform` changes it."""
    label = split_entry(dataset[row])[1]
    return label is not None and np.array_equal(as_array(label), targets[row])


def _class_names(dataset: Any) -> Sequence[str] | None:
    """Return the class names of a data set, also inside another one or a loader.

    Raises:
        OODError: Data sets of different classes are concatenated.
    """
    if isinstance(dataset, (Subset, DataLoader)):
        return _class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        every = {None if (names := _class_names(part)) is None else tuple(names) for part in dataset.datasets}
        if len(every) > 1:
            raise OODError("the data sets that are concatenated have different classes; concatenate those of one kind")
        return every.pop()
    if getattr(dataset, "target_transform", None) is not None:  # its labels are not those of the names
        return None
    named = [of.names for of in (getattr(dataset, "features", None) or {}).values() if _type_name(of) == "ClassLabel"]
    found = named[0] if len(named) == 1 else getattr(dataset, "classes", None)
    return found if isinstance(found, (list, tuple)) else None


def _dataset_image(dataset: Any, row: int) -> Tensor:
    """Read one image of a data set."""
    (item,) = image_refs(split_entry(dataset[row])[0])
    return item.pixels()


def _read_entries(entries: Iterable[Any]) -> tuple[list[ImageRef], list[Any] | None]:
    """Return images and labels of entries, single or in batches, in memory."""
    found, labels = list[ImageRef](), list[Any]()
    for entry in entries:
        images, given = split_entry(entry)
        new = list(image_refs(images))
        found += new
        labels += [None] * len(new) if given is None else _label_rows(given, len(new))
    return found, None if all(label is None for label in labels) else labels


def _label_rows(given: Any, count: int) -> list[Any]:
    """Return a label for each image of an entry: a number, a name, or a one-hot row."""
    labels = as_array(given)
    if labels.ndim and len(labels) == count:
        return list(labels.tolist())
    if count != 1:
        raise OODError(f"an entry has {count} images and labels {list(labels.shape)}")
    return [labels.tolist()]


# ----------------------------------------------------------------------------------------------- Hugging Face tables


def _read_table(dataset: Any) -> tuple[list[ImageRef], Any, Sequence[str] | None]:
    """Return images, labels and class names of a table; columns are found by type, or else by name."""
    image, label = _column(dataset, "Image", IMAGE_KEYS), _column(dataset, "ClassLabel", LABEL_KEYS)
    if image is None:
        raise OODError(f"none of the columns {_quoted(dataset.column_names)} has images; cast one to datasets.Image()")
    found = [ImageRef(f"image {row}", partial(_table_image, dataset, row, image)) for row in range(len(dataset))]
    if label is None:
        return found, None, None
    return found, list(dataset.with_format(None)[label]), getattr(dataset.features[label], "names", None)


def _column(dataset: Any, kind: str, usual: Sequence[str]) -> str | None:
    typed = [name for name, feature in dataset.features.items() if _type_name(feature) == kind]
    named = [name for name in usual if name in (typed or dataset.column_names)]
    if len(typed) > 1 and not named:
        raise OODError(f"several columns are {kind}: {_quoted(typed)}; keep one: dataset.remove_columns([...])")
    return next(iter(named or typed), None)


def _type_name(feature: Any) -> str:
    return type(feature).__name__


def _quoted(names: Iterable[str]) -> str:
    return listed([f"'{name}'" for name in names])


def _table_image(dataset: Any, row: int, column: str) -> Tensor:
    """Read the image of a row; a transform of the table may have renamed its column."""
    entry = dataset[row]
    (item,) = image_refs(entry[column] if column in entry else split_entry(entry)[0])
    return item.pixels()


def split_holdout(images: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Split off a share of each class, drawn at random, to calibrate on.

    Raises:
        OODError: The share leaves nothing on one side.
    """
    generator, train, held = np.random.default_rng(seed), [], []
    for one in np.unique(images.labels):
        rows = generator.permutation(np.flatnonzero(images.labels == one))
        count = round(len(rows) * share)
        held.append(rows[:count])
        train.append(rows[count:])
    inside, outside = np.sort(np.concatenate(train)), np.sort(np.concatenate(held))
    if not len(outside) and 1 < len(images) == len(np.unique(images.labels)):
        raise OODError(
            f"every one of {len(images)} images has a class of its own; is the second entry of each the label?"
        )
    if not len(inside) or not len(outside):
        raise OODError(f"a holdout of {share:g} of {len(images)} images leaves none to fit to, or none to calibrate by")
    return images[inside], images[outside]

"""ID images with their labels, as numbers from 0: folders, pairs, data sets, tables, loaders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from ood_core.data.folders import PassedOver, class_folders, is_dir, pictures_in, split_folders
from ood_core.detector.image_inputs import IMAGE_KEYS, LABEL_KEYS, ImageRef, file_ref, image_refs, is_label, split_entry
from ood_core.errors import OODError, listed, one_line, suggest, warn


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
    """Return the images and labels of a data set in any form of `Detector.fit`; an endless one is read for ever.

    `classes` are named in the order of the module's outputs; default: the data set's names, or sorted names if the
    labels are names, or numbers.
    """
    found, given, own = _read(dataset)
    if not found:
        raise OODError("there are no images to fit to")
    if given is None:
        names = ("0",) if classes is None else tuple(map(str, classes))
        return LabelledImages(found, np.zeros(len(found), np.int64), names, has_labels=False)
    labels, names = _number_labels(given, classes, own)
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
    raise OODError(
        f"a {type(dataset).__name__} holds no images to fit to; give a folder, a pair (images, labels), a data set, or "
        "an iterable of (image, label) or {'image': , 'label': }"
    )


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
    if targets is not None and len(targets) == count:  # a `target_transform` changes them
        ends = {row: split_entry(dataset[row])[1] for row in {0, count - 1}}
        if all(of is not None and np.array_equal(_as_array(of), targets[row]) for row, of in ends.items()):
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
        return _as_array(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    found = getattr(dataset, "targets", getattr(dataset, "labels", None))
    return _as_array(found) if isinstance(found, (list, tuple, np.ndarray, Tensor)) and len(found) else None


def _class_names(dataset: Any) -> Sequence[str] | None:
    """Return the class names of a data set, also inside another one or a loader."""
    if isinstance(dataset, (Subset, DataLoader)):
        return _class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        every = {None if (names := _class_names(part)) is None else tuple(names) for part in dataset.datasets}
        if len(every) > 1:
            raise OODError("the data sets that are concatenated have different classes; concatenate those of one kind")
        return every.pop()
    if getattr(dataset, "target_transform", None) is not None:  # its labels are not those of the names
        return None
    features = (getattr(dataset, "features", None) or {}).values()
    named = [of.names for of in features if type(of).__name__ == "ClassLabel"]
    found = named[0] if len(named) == 1 else getattr(dataset, "classes", None)
    return found if isinstance(found, (list, tuple)) else None


def _dataset_image(dataset: Any, row: int, column: str | None = None) -> Tensor:
    """Read one image of a data set or table; a transform of the table may have renamed its column."""
    entry = dataset[row]
    (item,) = image_refs(entry[column] if column is not None and column in entry else split_entry(entry)[0])
    return item.pixels()


def _read_entries(entries: Iterable[Any]) -> tuple[list[ImageRef], list[Any] | None]:
    """Return images and labels of entries, single or in batches, in memory."""
    found, labels = list[ImageRef](), list[Any]()
    for entry in entries:
        images, given = split_entry(entry)
        new = list(image_refs(images))
        found += new
        if given is None:
            labels += [None] * len(new)
            continue
        rows = _as_array(given)  # numbers, names, or one-hot rows
        if rows.ndim and len(rows) == len(new):
            labels += rows.tolist()
        elif len(new) == 1:
            labels.append(rows.tolist())
        else:
            raise OODError(f"an entry has {len(new)} images and labels {list(rows.shape)}")
    return found, None if all(label is None for label in labels) else labels


def _read_table(dataset: Any) -> tuple[list[ImageRef], Any, Sequence[str] | None]:
    """Return images, labels and class names of a Hugging Face table; columns are found by type, or else by name."""
    image, label = _column(dataset, "Image", IMAGE_KEYS), _column(dataset, "ClassLabel", LABEL_KEYS)
    if image is None:
        raise OODError(f"none of the columns {_quoted(dataset.column_names)} has images; cast one to datasets.Image()")
    found = [ImageRef(f"image {row}", partial(_dataset_image, dataset, row, image)) for row in range(len(dataset))]
    if label is None:
        return found, None, None
    return found, list(dataset.with_format(None)[label]), getattr(dataset.features[label], "names", None)


def _column(dataset: Any, kind: str, usual: Sequence[str]) -> str | None:
    typed = [name for name, feature in dataset.features.items() if type(feature).__name__ == kind]
    named = [name for name in usual if name in (typed or dataset.column_names)]
    if len(typed) > 1 and not named:
        raise OODError(f"several columns are {kind}: {_quoted(typed)}; keep one: dataset.remove_columns([...])")
    return next(iter(named or typed), None)


def _quoted(names: Iterable[str]) -> str:
    return listed([f"'{name}'" for name in names])


def _number_labels(
    given: Any, classes: Sequence[str] | None = None, own: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels, numbers or names [N] or one-hot [N, C], as numbers from 0, int64 [N], and the classes' names.

    `classes` are names by label: the data set's `own` ones in another order renumber the labels, others rename them.
    """
    labels = _plain(_as_array(given))
    own = None if own is None else tuple(map(str, own))
    names = own if classes is None else tuple(map(str, classes))
    if labels.dtype.kind == "U":
        names = tuple(map(str, np.unique(labels))) if names is None else names
        index_of = {name: index for index, name in enumerate(names)}
        if unknown := sorted(set(labels.tolist()) - index_of.keys()):
            raise OODError(f"no class '{unknown[0]}'.{suggest(unknown[0], names)}")
        return np.array([index_of[name] for name in labels.tolist()], np.int64), names
    _require_range(labels, names if own is None else own)
    if names is None:
        return labels, tuple(map(str, range(int(labels.max()) + 1)))
    if own is None or sorted(own) != sorted(names) or len(set(names)) < len(names):
        _require_range(labels, names)
        return labels, names
    return np.array([names.index(name) for name in own], np.int64)[labels], names


def _as_array(labels: Any) -> NDArray[Any]:
    """Return labels as an array; raise OODError if numpy cannot read them."""
    if isinstance(labels, (list, tuple)) and labels and all(isinstance(label, Tensor) for label in labels):
        labels = torch.stack([label.detach().cpu() for label in labels])
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = (labels.double() if labels.is_floating_point() else labels).numpy()  # numpy has no bfloat16
    texts = [isinstance(of, (str, bytes)) for of in labels] if isinstance(labels, (list, tuple)) else [False]
    mixed = any(texts) and not all(texts)  # numpy would write numbers out
    try:
        return np.asarray(labels, object if mixed else None)
    except (ValueError, TypeError) as error:
        reason = one_line(error)
        raise OODError(f"labels cannot be read out of a {type(labels).__name__}: {reason}") from None


def _plain(labels: NDArray[Any]) -> NDArray[Any]:
    shape, dtype = list(labels.shape), labels.dtype
    if labels.dtype.kind == "O":
        values = labels.tolist()
        for row, value in enumerate(values):
            if value is None or (isinstance(value, float) and np.isnan(value)):
                raise OODError(f"image {row} has no label but {value}")
        texts = [isinstance(value, (str, bytes)) for value in values]
        if any(texts) and not all(texts):
            types = sorted({type(value).__name__ for value in values})
            raise OODError(f"labels are numbers or names, not both: there are {', '.join(types)}")
        labels = _as_array([value.decode() if isinstance(value, bytes) else value for value in values])
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()
        labels = labels.argmax(1) if one_hot else labels
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "biuU":
        raise OODError(f"labels are a whole number or a name for each image, not {dtype} {shape}")
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def _require_range(labels: NDArray[np.int64], names: Sequence[str] | None) -> None:
    low, high = int(labels.min()), int(labels.max())
    count = high + 1 if names is None else len(names)
    if low == 1 and high == (len(np.unique(labels)) if names is None else count):
        other = "" if names is not None else ", or name all of them, the one without images as well, with 'classes'"
        raise OODError(f"labels reach from 1 to {high}: number the classes from 0 (labels - 1){other}")
    if low < 0 or high >= count:
        hint = "; data sets without labels have -1" if low == -1 == high else ""
        raise OODError(f"labels reach from {low} to {high}, and there are {count} classes{hint}")
    if names is None and count > len(labels):
        raise OODError(f"labels reach up to {high} for {len(labels)} images; number the classes from 0, or name them")

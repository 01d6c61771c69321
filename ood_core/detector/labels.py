"""Labels of ID images, in any form, as numbers from 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import OODError, suggest


def number_labels(
    given: Any, classes: Sequence[str] | None = None, own: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as numbers from 0, int64 [N], and the names of the classes.

    Args:
        given: Array-like of N numbers or names, or one-hot [N, C].
        classes: Names by label. The data set's names in another order renumber the labels; other names rename them.
        own: The data set's names by label.

    Raises:
        OODError: They are neither, or do not fit the classes.
    """
    labels = _plain(as_array(given))
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


def as_array(labels: Any) -> NDArray[Any]:
    """Return labels as an array.

    Raises:
        OODError: Numpy cannot read them.
    """
    if isinstance(labels, (list, tuple)) and labels and all(isinstance(label, Tensor) for label in labels):
        labels = torch.stack([label.detach().cpu() for label in labels])
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = (labels.double() if labels.is_floating_point() else labels).numpy()  # numpy has no bfloat16
    texts = [isinstance(of, (str, bytes)) for of in labels] if isinstance(labels, (list, tuple)) else [False]
    mixed = any(texts) and not all(texts)  # numpy would write numbers out
    try:
        found: NDArray[Any] = np.asarray(labels, object if mixed else None)
        return found
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise OODError(f"labels cannot be read out of a {type(labels).__name__}: {reason}") from None


def _plain(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels as int64 or str, [N]."""
    shape, dtype = list(labels.shape), labels.dtype
    if labels.dtype.kind == "O":
        labels = _typed(labels)
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


def _typed(labels: NDArray[Any]) -> NDArray[Any]:
    """Return an array of objects as one of names, or of numbers."""
    values = labels.tolist()
    for row, value in enumerate(values):
        if value is None or (isinstance(value, float) and np.isnan(value)):
            raise OODError(f"image {row} has no label but {value}")
    texts = [isinstance(value, (str, bytes)) for value in values]
    if any(texts) and not all(texts):
        types = sorted({type(value).__name__ for value in values})
        raise OODError(f"labels are numbers or names, not both: there are {', '.join(types)}")
    return as_array([value.decode() if isinstance(value, bytes) else value for value in values])


def _require_range(labels: NDArray[np.int64], names: Sequence[str] | None) -> None:
    """Raise OODError unless labels are indices of classes."""
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

"""Checks of a detector whose author is unknown: the size of its networks, and whether its values fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ood_core.detector.forward import score_images
from ood_core.detector.manifest import CALIBRATION, EXAMPLES, FILE, WITNESS, Manifest
from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import DetectorState
from ood_core.errors import OODError, one_line
from ood_core.interfaces import Outputs

UNREADABLE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, SafetensorError),
    *(TypeError, ValueError),
)
"""What values that do not fit each other raise."""

BUILDS = 8
"""A network may be built without memory before it is built, more than once, and its layers replaced."""

SPARE_VALUES, SPARE_TENSORS = 10_000_000, 10_000
"""Numbers that a network may have beside those that it saves, such as tables of positions."""

ROUNDING = 1e-6  # relative difference of a threshold


@contextmanager
def limit_size(weights: Mapping[str, Tensor], outputs: int | None, where: str) -> Iterator[None]:
    """Stop the building of a network that is far larger than its weights, before memory is used for it.

    Args:
        weights: What will be loaded into it.
        outputs: The number of outputs that it will be built with.
        where: Its place in the manifest, for the error.

    Raises:
        OODError: It has too many values or tensors.
    """
    stored = sum(of.numel() for of in weights.values())
    if outputs is not None and outputs > stored:
        raise OODError(f"{where}: {outputs} outputs are more than its weights have values")
    values = BUILDS * stored + SPARE_VALUES
    tensors = BUILDS * len(weights) + SPARE_TENSORS
    thread = get_ident()

    def count(module: object, name: str, tensor: Tensor | None) -> None:
        nonlocal values, tensors
        if tensor is None or get_ident() != thread or torch.nn.parameter.is_lazy(tensor):
            return
        values, tensors = values - tensor.numel(), tensors - 1
        if values < 0 or tensors < 0:
            raise OODError(f"{where}: its options make a network far larger than its weights")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def require_reference(folder: Path, manifest: Manifest, reference: Mapping[str, Tensor]) -> None:
    """Raise OODError unless the reference images have the size of the manifest."""
    images, embeddings = reference["images"], reference["embeddings"]
    if images.dtype != torch.uint8 or images.shape[1:] != (3, manifest.image_size, manifest.image_size):
        shown = f"{str(images.dtype)[6:]} {list(images.shape)}"
        raise OODError(f"{folder / WITNESS}: images are {shown}, image_size in {FILE} is {manifest.image_size}")
    if not len(images) or embeddings.dtype != torch.float32 or embeddings.ndim != 2 or len(embeddings) != len(images):
        raise OODError(f"{folder / WITNESS}: {len(images)} images with embeddings {list(embeddings.shape)}")


def require_consistent(folder: Path, manifest: Manifest, state: DetectorState, found: Outputs) -> None:
    """Raise OODError with the first value of a loaded detector that does not fit the others.

    Args:
        folder: Its folder.
        manifest: Its manifest.
        state: The detector.
        found: Its network's outputs for the reference images.
    """
    classes = len(state.classes)
    if state.classifier and found.logits.shape[1] != classes:
        raise OODError(f"{folder / FILE}: classes: {classes}, the network has {found.logits.shape[1]} outputs")
    for index, of in enumerate(state.scorers):
        scores, predicted = of.calibration.scores, of.calibration.predicted
        where = f"{folder / CALIBRATION}: scores.{index}"
        if scores.dtype != np.float64 or scores.ndim != 1 or len(scores) != manifest.calibration.images:
            raise OODError(f"{where}: {scores.dtype} {list(scores.shape)}, not {manifest.calibration.images} scores")
        if not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
            raise OODError(f"{where}: not finite and ascending")
        if predicted is not None and (predicted.shape != scores.shape or not _are_labels(predicted, classes)):
            raise OODError(f"{folder / CALIBRATION}: predicted.{index}: not the classes of {len(scores)} images")
    _require_thresholds(folder, manifest, state)
    if (examples := state.examples) is not None:
        same = len(examples.labels) == len(examples.embeddings) == len(examples.pictures)
        if not same or examples.embeddings.shape[1:] != found.embeddings.shape[1:]:
            raise OODError(f"{folder / EXAMPLES}: labels, embeddings and pictures of different sizes")
        if not _are_labels(examples.labels.numpy(), classes):
            raise OODError(f"{folder / EXAMPLES}: labels: not those of {classes} classes")


def require_scores(folder: Path, manifest: Manifest, state: DetectorState) -> None:
    """Raise OODError with the first file of a score that cannot score the reference images."""
    try:
        score_images(state, state.reference_images)
    except UNREADABLE as error:
        for entry in manifest.scorers:
            try:
                score_images(state, state.reference_images, entry.name)
            except UNREADABLE as own:
                raise OODError(
                    f"{folder / entry.file}: cannot score the reference images: {describe_error(own)}"
                ) from own
        raise OODError(f"{folder}: cannot score its reference images: {describe_error(error)}") from error


def describe_error(error: Exception) -> str:
    """Return the type and message of an error on one line."""
    return f"{type(error).__name__}: {one_line(error)}"


def _require_thresholds(folder: Path, manifest: Manifest, state: DetectorState) -> None:
    for index, entry in enumerate(manifest.scorers):
        try:
            expected = decision_rule(state, entry.name).thresholds.tolist()
        except OODError as error:
            raise OODError(f"{folder / FILE}: scorers.{index}: {error}") from error
        written = entry.threshold if isinstance(entry.threshold, list) else [entry.threshold]
        pairs = zip(written, expected, strict=False)
        if len(written) != len(expected) or not all(math.isclose(*pair, rel_tol=ROUNDING) for pair in pairs):
            given = "another one than the calibration scores give"
            raise OODError(f"{folder / FILE}: scorers.{index}.threshold: {given} at a TPR of {state.tpr:g}")


def _are_labels(values: np.ndarray[Any, Any], classes: int) -> bool:
    return values.dtype == np.int64 and bool(((values >= 0) & (values < classes)).all())

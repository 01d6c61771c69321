"""Whether a graph says of images what its detector says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.data.selection import to_unit
from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import decode_image, preprocess
from ood_core.detector.predictions import DecisionRule, ScoredBatch
from ood_core.detector.state import DetectorState
from ood_core.errors import OODError
from ood_export.formats import Runnable
from ood_export.graph import IS_OOD, P_VALUE, PREDICTED

TOLERANCE = 1e-4
"""How far a score may be off, unless more is allowed: relative to its size, absolute where that is below 1."""

EXAMPLES = 48
NOISE = 16

BATCHES = (1, 2, 17)
"""How many images the first passes take; one more takes the others."""


def verify(run: Runnable, state: DetectorState, by: DecisionRule, tolerance: float) -> tuple[int, float]:
    """Return how many images were compared, and the largest deviation of a score.

    Compared are the witnesses, examples, and noise: images that the detector knows, and some it was not made for.

    Embeddings of two implementations differ in their last digits. That is all that most scores differ by; but a
    distance under a covariance that is next to singular can make a million times as much of it.

    Raises:
        OODError: A score is off by more than the tolerance, or a decision differs for another reason than that.
    """
    images = _images(state)
    expected, worst = score_images(state, images), 0.0
    found = _joined([run(part) for part in _batches(to_unit(images).numpy())])
    for of in state.scorers:
        far = deviation(found[of.name], expected.scores[of.name])
        if not far.max() <= tolerance:  # what is not a number, too
            raise OODError(
                f"the graph is not exact: scorer '{of.name}' is off by {far.max():.1e} of its scores, allowed is "
                f"{tolerance:g}; leave it out, or allow a larger tolerance if it magnifies the last digits that much"
            )
        worst = max(worst, float(far.max()))
    _require_decisions(found, expected, state, by, tolerance)
    return len(images), worst


def deviation(found: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far scores are off, relative to their size and absolute below 1; 0 where none was expected."""
    finite = np.isfinite(expected)
    far: NDArray[np.float64] = np.zeros(len(expected))
    far[finite] = np.abs(found[finite] - expected[finite]) / np.maximum(1, np.abs(expected[finite]))
    return far


def _require_decisions(
    found: Mapping[str, NDArray[Any]], expected: ScoredBatch, state: DetectorState, by: DecisionRule, tolerance: float
) -> None:
    score = expected.scores[by.scorer]
    sure = np.isfinite(score) & ~_torn(expected, state)
    apart = expected.predicted if by.per_class else None
    threshold = by.thresholds[np.zeros(len(score), np.int64) if apart is None else apart]
    margin = tolerance * np.maximum(1, np.abs(score))
    calibration, classes = state.scorer(by.scorer).calibration, len(state.classes)
    low, high = (calibration.p_values(score + shift, apart, classes) for shift in (margin, -margin))
    wrong = {
        IS_OOD: (found[IS_OOD] != (score > threshold)) & (np.abs(score - threshold) > margin),
        P_VALUE: (found[P_VALUE] < low - 1e-12) | (found[P_VALUE] > high + 1e-12),
    }
    if expected.predicted is not None:
        wrong[PREDICTED] = found[PREDICTED] != expected.predicted
    for name, rows in wrong.items():
        if (count := int((rows & sure).sum())) > 0:
            raise OODError(f"the graph is not exact: '{name}' differs for {count} of {len(score)} images")


def _torn(expected: ScoredBatch, state: DetectorState) -> NDArray[np.bool_]:
    """Return between which images and two classes nothing but rounding decides."""
    if state.head is None or len(state.classes) < 2:
        return np.zeros(len(expected), np.bool_)
    logits = torch.nn.functional.linear(expected.embeddings, state.head.weight.cpu(), state.head.bias.cpu())
    best = logits.topk(2, dim=1).values
    torn: NDArray[np.bool_] = (best[:, 0] - best[:, 1] <= TOLERANCE * best[:, 0].abs().clamp(min=1)).numpy()
    return torn


def _images(state: DetectorState) -> Tensor:
    """Return uint8 [N, 3, S, S]."""
    size, parts = state.preprocessing.image_size, [*state.reference_images]
    if state.examples is not None:
        pictures = state.examples.pictures
        chosen = range(0, len(pictures), max(1, len(pictures) // EXAMPLES))
        parts += [preprocess(decode_image(pictures[row], f"example {row}"), state.preprocessing) for row in chosen][
            :EXAMPLES
        ]
    noise = torch.randint(256, (NOISE, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.stack(parts), noise])


def _batches(images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    parts = np.split(images, np.cumsum(BATCHES))
    yield from (part for part in parts if len(part))


def _joined(parts: list[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

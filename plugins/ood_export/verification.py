"""Compares a graph with its detector."""

from __future__ import annotations

from collections.abc import Mapping
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
"""Default largest deviation of a score: relative to its size, absolute below 1."""

EXAMPLES = 48
NOISE = 16

BATCHES = (1, 2, 17)
"""Sizes of the first batches; the last one takes the other images."""


def verify(run: Runnable, state: DetectorState, rule: DecisionRule, tolerance: float) -> tuple[int, float]:
    """Return the number of compared images, and the largest deviation of a score.

    The images are the reference images, examples, and noise: some like those of the detector, and some unlike them.

    Embeddings of two implementations differ in their last digits. Most scores differ by no more; but a distance under a
    covariance that is next to singular can magnify it a million times.

    Raises:
        OODError: A score is off by more than the tolerance, or a decision differs for another reason.
    """
    images = _images(state)
    expected, largest = score_images(state, images), 0.0
    batches = [part for part in np.split(to_unit(images).numpy(), np.cumsum(BATCHES)) if len(part)]
    parts = [run(batch) for batch in batches]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for of in state.scorers:
        worst = float(deviation(found[of.name], expected.scores[of.name]).max())
        if not worst <= tolerance:  # NaN, too
            raise OODError(
                f"the graph is not exact: scorer '{of.name}' is off by {worst:.1e} of its scores, allowed is "
                f"{tolerance:g}; leave it out, or allow a larger tolerance if it magnifies the last digits that much"
            )
        largest = max(largest, worst)
    _require_decisions(found, expected, state, rule, tolerance)
    return len(images), largest


def deviation(found: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return deviations of scores, relative to their size and absolute below 1; 0 if none is expected."""
    finite = np.isfinite(expected)
    far: NDArray[np.float64] = np.zeros(len(expected))
    far[finite] = np.abs(found[finite] - expected[finite]) / np.maximum(1, np.abs(expected[finite]))
    return far


def _require_decisions(
    found: Mapping[str, NDArray[Any]], expected: ScoredBatch, state: DetectorState, rule: DecisionRule, tolerance: float
) -> None:
    score, threshold = expected.scores[rule.scorer], rule.threshold_of(expected)
    by_class = expected.predicted if rule.per_class else None
    margin = tolerance * np.maximum(1, np.abs(score))
    calibration, classes = state.scorer(rule.scorer).calibration, len(state.classes)
    low, high = (calibration.p_values(score + shift, by_class, classes) for shift in (margin, -margin))
    wrong = {
        IS_OOD: (found[IS_OOD] != (score > threshold)) & (np.abs(score - threshold) > margin),
        P_VALUE: (found[P_VALUE] < low - 1e-12) | (found[P_VALUE] > high + 1e-12),
    }
    if expected.predicted is not None:
        wrong[PREDICTED] = found[PREDICTED] != expected.predicted
    comparable = np.isfinite(score) & ~_ties(expected, state)
    for name, rows in wrong.items():
        if (count := int((rows & comparable).sum())) > 0:
            raise OODError(f"the graph is not exact: '{name}' differs for {count} of {len(score)} images")


def _ties(expected: ScoredBatch, state: DetectorState) -> NDArray[np.bool_]:
    """Return the images whose two largest logits differ by rounding alone."""
    if state.head is None or len(state.classes) < 2:
        return np.zeros(len(expected), np.bool_)
    logits = torch.nn.functional.linear(expected.embeddings, state.head.weight.cpu(), state.head.bias.cpu())
    best = logits.topk(2, dim=1).values
    ties: NDArray[np.bool_] = (best[:, 0] - best[:, 1] <= TOLERANCE * best[:, 0].abs().clamp(min=1)).numpy()
    return ties


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

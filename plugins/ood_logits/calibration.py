"""The softmax score at the temperature that calibrates the classifier."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score, Scorer, ScorerInfo
from ood_logits.rows import labelled_blocks, softmax_parts

_LOG = logging.getLogger(__name__)
_LEAST, _MOST = 1e-4, 1e6  # temperatures that are searched
_STEPS, _PRECISION = 60, 1e-10
_LEVEL, _FLAT = 1e-13, 1e-6  # slope and curvature in log T, in nats


@dataclass(frozen=True)
class CalibratedSoftmax(Score):
    """log(1 - p_max) at a temperature, at most 0."""

    temperature: float

    def __call__(self, outputs: Outputs) -> Tensor:
        return softmax_parts(outputs.logits, self.temperature).log_rest


@dataclass(frozen=True, kw_only=True)
class TemperatureScaling(Scorer):
    """Maximum softmax probability after temperature scaling (Guo et al., 2017)."""

    name = "temperature-scaling"
    needs = frozenset({"logits", "labels", "held_out"})
    scores = CalibratedSoftmax
    info = ScorerInfo(
        paper="Guo et al., 2017, On calibration of modern neural networks",
        formula="log(1 − max_j softmax(z / T)_j),  T = argmin Σ_i −log softmax(z_i / T)_{y_i}",
        fit="H C, H held-out images",
        score="C",
        notes="the T of the least loss; the authors' code stops L-BFGS after 200 steps, OpenOOD after 50",
    )

    def fit(self, train: Outputs) -> CalibratedSoftmax:
        held_out = train.held_out
        assert held_out is not None
        if not (held_out.labels >= 0).any():
            raise OODError(f"scorer '{self.name}' needs labels of the held-out ID images")
        return CalibratedSoftmax(_temperature(held_out))


def _temperature(held_out: Outputs) -> float:
    """Return the best temperature, by Newton steps in log T that a bracket keeps in bounds.

    The loss is convex in 1/T, so its slope changes sign at one place, or nowhere if all or no labels are right.
    """
    low, high, log_t = math.log(_LEAST), math.log(_MOST), 0.0
    beta, curvature = 1.0, 0.0
    for _ in range(_STEPS):
        beta = math.exp(-log_t)
        slope, curvature = _derivatives(held_out, beta)
        if abs(beta * slope) < _LEVEL:
            break
        # A positive slope in beta asks for a smaller beta, a higher temperature.
        low, high = (log_t, high) if slope > 0 else (low, log_t)
        # d/d(log T) = -beta d/d(beta); the second derivative is beta^2 curvature + beta slope
        scaled_curvature = beta * curvature + slope
        step = slope / scaled_curvature if scaled_curvature > 0 else math.inf
        candidate = log_t + step if low < log_t + step < high else (low + high) / 2
        if abs(candidate - log_t) < _PRECISION:
            break
        log_t = candidate
    if beta**2 * curvature < _FLAT:
        _LOG.warning("temperature-scaling: no temperature is best for these held-out images, %.3g is taken", 1 / beta)
    return 1 / beta


def _derivatives(held_out: Outputs, beta: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean cross-entropy at beta = 1/T."""
    slope = curvature = 0.0
    for block, labels in labelled_blocks(held_out):
        labelled = labels >= 0
        gaps = block[labelled].double()
        gaps -= gaps.amax(1, keepdim=True)
        p = (beta * gaps).softmax(1)
        mean = (p * gaps).sum(1)
        slope += (mean - gaps.gather(1, labels[labelled, None])[:, 0]).sum().item()
        curvature += (p.mul_(gaps).mul_(gaps).sum(1) - mean.square()).clamp(min=0).sum().item()
    count = int((held_out.labels >= 0).sum())
    return slope / count, curvature / count

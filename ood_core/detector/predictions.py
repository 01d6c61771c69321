"""Scores of a detector, and the decisions that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.detector.state import DetectorState
from ood_core.errors import OODError


@dataclass(frozen=True)
class ScoredBatch:
    """Outputs of the network and of all scorers for N images."""

    scores: Mapping[str, NDArray[np.float64]]  # [N] by the name of the scorer; higher means more OOD
    predicted: NDArray[np.int64] | None  # [N], the most probable ID class; None if no classifier was trained
    embeddings: Tensor  # float32 [N, D]

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: list[int]) -> ScoredBatch:
        scores = {name: values[rows] for name, values in self.scores.items()}
        return ScoredBatch(scores, None if self.predicted is None else self.predicted[rows], self.embeddings[rows])

    @cached_property
    def all_finite(self) -> bool:
        """Whether all scores and embeddings are finite."""
        return bool(self.embeddings.isfinite().all()) and all(np.isfinite(of).all() for of in self.scores.values())

    def broken(self, row: int) -> str | None:
        """Return the error of an image whose embedding or scores are not finite; None if there is none."""
        if self.all_finite:
            return None
        if not self.embeddings[row].isfinite().all():
            return "the network gave embeddings that are not finite"
        wrong = [(name, of[row]) for name, of in self.scores.items() if not np.isfinite(of[row])]
        return f"scorer '{wrong[0][0]}' gave {wrong[0][1]}" if wrong else None

    def require_finite(self) -> None:
        """Raise OODError with the first image whose embedding or scores are not finite."""
        for row in range(len(self)):
            if (reason := self.broken(row)) is not None:
                raise OODError(f"image {row}: {reason}")


def concatenate(parts: list[ScoredBatch]) -> ScoredBatch:
    """Return consecutive batches, at least one, as one."""
    predicted = [part.predicted for part in parts if part.predicted is not None]
    return ScoredBatch(
        {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores},
        np.concatenate(predicted) if predicted else None,
        torch.cat([part.embeddings for part in parts]),
    )


@dataclass(frozen=True)
class Predictions:
    """Decisions on N images.

    Attributes:
        is_ood: bool [N].
        score: float64 [N], of the deciding scorer; higher means more OOD.
        threshold: float64 [N], the score above which the image would be OOD.
        p_value: float64 [N]: an ID image has one as small as this with at most this probability.
        predicted: int64 [N], the most probable ID class, also of OOD images; None if no classifier was trained.
        classes: Names of the ID classes.
        scores: Those of all scorers by name, float64 [N] each.
        scorer: Name of the deciding scorer.
        tpr: Share of ID images that is accepted.
    """

    is_ood: NDArray[np.bool_]
    score: NDArray[np.float64]
    threshold: NDArray[np.float64]
    p_value: NDArray[np.float64]
    predicted: NDArray[np.int64] | None
    classes: tuple[str, ...]
    scores: Mapping[str, NDArray[np.float64]]
    scorer: str
    tpr: float

    def __len__(self) -> int:
        return len(self.score)

    def class_name(self, row: int) -> str | None:
        """Return the name of an image's predicted class; None if no classifier was trained."""
        return None if self.predicted is None else self.classes[int(self.predicted[row])]


@dataclass(frozen=True)
class DecisionRule:
    """Thresholds on the scores of one scorer."""

    scorer: str  # its name
    tpr: float  # share of ID images to accept
    per_class: bool  # whether each predicted class has a threshold of its own
    thresholds: NDArray[np.float64]  # float64 [1], or [C] with `per_class`

    def threshold_of(self, scored: ScoredBatch) -> NDArray[np.float64]:
        """Return the threshold of each image, [N]."""
        return self.thresholds[scored.predicted] if self.per_class else np.repeat(self.thresholds, len(scored))


def decision_rule(
    state: DetectorState, scorer: str | None = None, tpr: float | None = None, per_class: bool | None = None
) -> DecisionRule:
    """Return the rule, by default the detector's; raise OODError if there are too few calibration images for it."""
    chosen = state.scorer(scorer)
    tpr = state.tpr if tpr is None else tpr
    per_class = state.per_class if per_class is None else per_class
    calibration = chosen.calibration
    thresholds = calibration.thresholds(state.classes, tpr) if per_class else np.array([calibration.threshold(tpr)])
    return DecisionRule(chosen.name, tpr, per_class, thresholds)


def decide(state: DetectorState, scored: ScoredBatch, rule: DecisionRule) -> Predictions:
    """Return the decisions; raise OODError if a score is not finite."""
    scored.require_finite()
    score, threshold = scored.scores[rule.scorer], rule.threshold_of(scored)
    calibration = state.scorer(rule.scorer).calibration
    return Predictions(
        is_ood=score > threshold,
        score=score,
        threshold=threshold,
        p_value=calibration.p_values(score, scored.predicted if rule.per_class else None, len(state.classes)),
        predicted=scored.predicted,
        classes=state.classes,
        scores=scored.scores,
        scorer=rule.scorer,
        tpr=rule.tpr,
    )


def summary_lines(state: DetectorState) -> Iterator[str]:
    """Yield lines for a person: scorers with their thresholds, their calibration, and what is not guaranteed."""
    calibration = state.scorers[0].calibration
    low, high = calibration.interval(state.tpr)
    for of in state.scorers:
        found = decision_rule(state, of.name).thresholds
        named = f"{found[0]:.6g}" if len(found) == 1 else f"{found.min():.6g} to {found.max():.6g}, by predicted class"
        yield f"{of.name}: OOD above {named}"
    yield (
        f"set by {len(calibration)} held-out ID images to accept {state.tpr:.1%} of ID images or more on average; "
        f"with these images {low:.1%} to {high:.1%} at 95 % confidence"
    )
    if state.id_accuracy is not None:
        yield f"the network classifies {state.id_accuracy:.1%} of these images correctly"
    if not state.independent:
        yield "a scorer was fitted to the calibration images as well: p-values and rates are not guaranteed"

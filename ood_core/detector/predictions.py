"""What a detector says of images: scores, and the decisions that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
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
    """What passed through the network and all scorers; N images.

    Attributes:
        scores: By the name of the scorer, float64 [N]; higher means more OOD. What is not finite is no score.
        predicted: int64 [N], the most probable ID class; None where no classifier was trained.
        embeddings: float32 [N, D].
    """

    scores: Mapping[str, NDArray[np.float64]]
    predicted: NDArray[np.int64] | None
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def all_finite(self) -> bool:
        """Whether there is nothing wrong with any score or embedding."""
        return bool(self.embeddings.isfinite().all()) and all(
            bool(np.isfinite(scores).all()) for scores in self.scores.values()
        )

    def broken(self, row: int) -> str | None:
        """Return what is wrong with the scores of an image, None if nothing is."""
        if self.all_finite:
            return None
        if not self.embeddings[row].isfinite().all():
            return "the network gave embeddings that are not finite"
        for name, scores in self.scores.items():
            if not np.isfinite(scores[row]):
                return f"scorer '{name}' gave {scores[row]}"
        return None


@dataclass(frozen=True)
class Predictions:
    """Decisions on N images.

    Attributes:
        is_ood: bool [N].
        score: float64 [N], of the scorer that decides; higher means more OOD.
        threshold: float64 [N], the score above which the image would be OOD.
        p_value: float64 [N]: an ID image has one as small as this with at most this probability.
        predicted: int64 [N], the most probable ID class, also of OOD images; None where no classifier was trained.
        classes: Names of the ID classes.
        scores: Those of all scorers by name, float64 [N] each.
        scorer: Name of the one that decides.
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
        """Return the name of the class an image was taken for, None where no classifier was trained."""
        return None if self.predicted is None else self.classes[int(self.predicted[row])]


@dataclass(frozen=True)
class DecisionRule:
    """How scores become decisions.

    Attributes:
        scorer: Name of the one that decides.
        tpr: Share of ID images to accept.
        per_class: Whether each predicted class has a threshold of its own.
        thresholds: float64 [1], or [C] with `per_class`.
    """

    scorer: str
    tpr: float
    per_class: bool
    thresholds: NDArray[np.float64]


def decision_rule(
    state: DetectorState, scorer: str | None = None, tpr: float | None = None, per_class: bool | None = None
) -> DecisionRule:
    """Return the rule; what is None is as the detector has it.

    Raises:
        OODError: There is no such scorer, or too few calibration images for such a rate.
    """
    chosen = state.scorer(scorer)
    share = state.tpr if tpr is None else tpr
    apart = state.per_class if per_class is None else per_class
    calibration = chosen.calibration
    found = calibration.thresholds(state.classes, share) if apart else np.array([calibration.threshold(share)])
    return DecisionRule(chosen.name, share, apart, found)


def decide(state: DetectorState, scored: ScoredBatch, by: DecisionRule) -> Predictions:
    """Return the decisions.

    Raises:
        OODError: A score is not finite.
    """
    for row in range(len(scored)):
        if (reason := scored.broken(row)) is not None:
            raise OODError(f"image {row}: {reason}")
    score = scored.scores[by.scorer]
    apart = scored.predicted if by.per_class else None
    threshold = by.thresholds[np.zeros(len(score), np.int64) if apart is None else apart]
    calibration = state.scorer(by.scorer).calibration
    return Predictions(
        is_ood=score > threshold,
        score=score,
        threshold=threshold,
        p_value=calibration.p_values(score, apart, len(state.classes)),
        predicted=scored.predicted,
        classes=state.classes,
        scores=scored.scores,
        scorer=by.scorer,
        tpr=by.tpr,
    )


def concatenate(parts: list[ScoredBatch]) -> ScoredBatch:
    """Return consecutive parts as one."""
    first = parts[0]
    predicted = None
    if first.predicted is not None:
        predicted = np.concatenate([part.predicted for part in parts if part.predicted is not None])
    scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in first.scores}
    return ScoredBatch(scores, predicted, torch.cat([part.embeddings for part in parts]))

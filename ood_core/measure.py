"""Measures how well the scores of a scorer tell OOD test images from ID test images."""

from __future__ import annotations

from dataclasses import asdict

from torch import Tensor

from ood_core import metrics
from ood_core.artifacts import load_outputs
from ood_core.score import SCORES
from ood_core.stages import Extraction, MeasureStage, Observer, ScoreStage
from ood_core.store import Store, load_array


def execute(stage: MeasureStage, store: Store, observer: Observer) -> None:
    """Measure, and file the numbers as facts."""
    with store.put(stage) as (_, facts):
        inside, outside = _scores(stage.id_scores, store), _scores(stage.ood_scores, store)
        facts |= asdict(metrics.measure(inside, outside))
        facts["id_accuracy"] = _accuracy(stage.id_scores.outputs, store)
        if stage.held_scores is not None:
            facts |= _calibrated(inside, outside, _scores(stage.held_scores, store))
    observer.progress(1, 1)


def _accuracy(extraction: Extraction, store: Store) -> float | None:
    outputs = load_outputs(extraction, store)
    return None if outputs.head is None else metrics.accuracy(outputs.logits, outputs.labels)


def _calibrated(inside: Tensor, outside: Tensor, held: Tensor) -> dict[str, float]:
    """Return the threshold that keeps 95 % of held-out ID images, and what share of each test set it accepts."""
    threshold = metrics.threshold(held)
    return {
        "threshold": threshold,
        "id_accepted": float((inside <= threshold).double().mean()),
        "ood_accepted": float((outside <= threshold).double().mean()),
    }


def _scores(stage: ScoreStage, store: Store) -> Tensor:
    return load_array(store.folder(stage) / SCORES)

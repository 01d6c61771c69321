"""Measures how well the scores of a scorer tell OOD test images from ID test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_core import metrics
from ood_core.artifacts import load_outputs
from ood_core.errors import OODError
from ood_core.extract import DIGESTS
from ood_core.interfaces import Outputs
from ood_core.score import SCORES
from ood_core.stages import Extraction, MeasureStage, Observer, ScoreStage
from ood_core.store import Store, load_array

ACCEPTED = "accepted.npy"
"""int64 [O, C]: of the images of each OOD class, how many are taken for each ID class, at a threshold that
accepts 95 % of the ID test images."""


def execute(stage: MeasureStage, store: Store, observer: Observer) -> None:
    """Measure, and file the numbers as facts."""
    with store.put(stage) as (folder, facts):
        found = compared(stage, store)
        inside, outside, kept, duplicates = found.inside, found.outside, found.kept, found.duplicates
        facts |= {"duplicates_test": int(duplicates.test.sum()), "duplicates_train": int(duplicates.train.sum())}
        if not kept.any():
            raise OODError("all its images are also ID images; nothing is left to measure")
        facts |= {"id_images": len(inside), "ood_images": len(outside)} | asdict(metrics.measure(inside, outside))
        facts |= _classification(load_outputs(stage.id_scores.outputs, store))
        if stage.held_scores is not None:
            facts |= _calibrated(inside, outside, _scores(stage.held_scores, store))
        _file_accepted(folder, stage, load_outputs(stage.ood_scores.outputs, store), inside, (outside, kept))
    observer.progress(1, 1)


@dataclass(frozen=True)
class Compared:
    """What a stage compares.

    Attributes:
        inside: Scores of the ID test images, and of the shifted ones behind them; float64 [N].
        outside: Scores of the OOD images that count, float64 [M].
        kept: Which of the OOD images those are, bool.
    """

    inside: Tensor
    outside: Tensor
    kept: Tensor
    duplicates: Duplicates


def compared(stage: MeasureStage, store: Store) -> Compared:
    """Return the scores that are measured, without the OOD images that are taken out for being ID images as well."""
    inside = torch.cat([_scores(scores, store) for scores in (stage.id_scores, *stage.shifted_scores)])
    outside, duplicates = _scores(stage.ood_scores, store), Duplicates(stage, store)
    kept = ~duplicates.any if stage.overlap == "remove" else torch.ones_like(duplicates.any)
    return Compared(inside, outside[kept], kept, duplicates)


class Duplicates:
    """Which OOD images are exactly equal, pixel for pixel, to an ID image; bool [M] each."""

    def __init__(self, stage: MeasureStage, store: Store) -> None:
        outside = _digests(stage.ood_scores.outputs, store)
        tested = [_digests(scores.outputs, store) for scores in (stage.id_scores, *stage.shifted_scores)]
        trained = _digests(stage.id_scores.fit.train, store)
        self.test = torch.from_numpy(np.isin(outside, np.concatenate(tested)))
        self.train = torch.from_numpy(np.isin(outside, trained))
        self.any = self.test | self.train


def _digests(extraction: Extraction, store: Store) -> Any:
    return load_array(store.folder(extraction.base) / DIGESTS).numpy()


def _classification(outputs: Outputs) -> dict[str, float | None]:
    """Return how well the ID test images are classified, and how well the confidence says so."""
    if outputs.head is None or outputs.classes < 2:
        return {"id_accuracy": None, "ece": None}
    return {
        "id_accuracy": metrics.accuracy(outputs.logits, outputs.labels),
        "ece": metrics.expected_calibration_error(outputs.logits, outputs.labels),
    }


def _calibrated(inside: Tensor, outside: Tensor, held: Tensor) -> dict[str, float]:
    """Return the threshold that keeps 95 % of held-out ID images, and what share of each test set it accepts."""
    threshold = metrics.threshold(held)
    return {
        "threshold": threshold,
        "id_accepted": float((inside <= threshold).double().mean()),
        "ood_accepted": float((outside <= threshold).double().mean()),
    }


def _file_accepted(
    folder: Path, stage: MeasureStage, outputs: Outputs, inside: Tensor, measured: tuple[Tensor, Tensor]
) -> None:
    """Count which OOD classes are accepted as which ID classes, where a classifier tells those apart."""
    outside, kept = measured
    if outputs.head is None or outputs.logits.shape[1] != outputs.classes:  # one class, in front of outputs for many
        return
    accepted = outside <= metrics.threshold(inside)
    foreign, taken_for = outputs.labels[kept][accepted], outputs.logits[kept][accepted].argmax(1)
    counts = np.zeros((len(stage.ood_scores.images.opened.classes), outputs.logits.shape[1]), np.int64)
    np.add.at(counts, (foreign.numpy(), taken_for.numpy()), 1)
    np.save(folder / ACCEPTED, counts)


def _scores(stage: ScoreStage, store: Store) -> Tensor:
    return load_array(store.folder(stage) / SCORES)

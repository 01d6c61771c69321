"""Measures how well the scores of a scorer tell OOD test images from ID test images."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.evaluation import metrics, significance
from ood_core.evaluation.calibration import Calibration
from ood_core.interfaces import Outputs
from ood_core.pipeline.events import Observer
from ood_core.pipeline.extract import DIGESTS
from ood_core.pipeline.score import SCORES
from ood_core.records.stages import Extraction, MeasureStage, ScoreStage
from ood_core.store.artifacts import load_outputs
from ood_core.store.store import Store, load_array

ACCEPTED = "accepted.npy"
"""int64 [O, C]: of the images of each OOD class, how many are taken for each ID class, at the interpolated
95 % quantile of the ID test scores, that of FPR@95."""


def execute(stage: MeasureStage, store: Store, observer: Observer) -> None:
    """Measure, and file the numbers as facts."""
    with store.put(stage) as (folder, facts):
        found = compared(stage, store)
        inside, outside, kept, duplicates = found.inside, found.outside, found.kept, found.duplicates
        facts |= {"duplicates_test": int(duplicates.test.sum()), "duplicates_train": int(duplicates.train.sum())}
        if not kept.any():
            raise OODError("all its images are also ID images; nothing is left to measure")
        facts |= {"id_images": len(inside), "ood_images": len(outside)} | asdict(metrics.measure(inside, outside))
        facts |= _intervals(inside, outside) | {"images": _images(stage, store, kept)}
        facts |= _classification(load_outputs(Extraction(stage.id_scores.outputs.base), store))
        if stage.held_scores is not None:
            facts |= _calibrated(inside, outside, _scores(stage.held_scores, store))
        _file_accepted(
            folder, stage, load_outputs(Extraction(stage.ood_scores.outputs.base), store), inside, (outside, kept)
        )
    observer.progress(1, 1)


ENDS = ("low", "high")
"""Of an interval, behind the name of its rate."""


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
    kept = ~duplicates.any if stage.overlap == "remove" else torch.ones(len(outside), dtype=torch.bool)
    return Compared(inside, outside[kept], kept, duplicates)


@dataclass(frozen=True)
class Duplicates:
    """Which OOD images are exactly equal, pixel for pixel, to an ID image; bool [M] each, looked for when asked."""

    stage: MeasureStage
    store: Store

    @cached_property
    def test(self) -> Tensor:
        """Those that are also ID test images, or shifted ones."""
        stages = (self.stage.id_scores, *self.stage.shifted_scores)
        return self._within(*(scores.outputs for scores in stages))

    @cached_property
    def train(self) -> Tensor:
        """Those that are also ID training images."""
        return self._within(self.stage.id_scores.fit.train)

    @property
    def any(self) -> Tensor:
        """Those that are either."""
        return self.test | self.train

    def _within(self, *extractions: Extraction) -> Tensor:
        inside = np.concatenate([_digests(extraction, self.store) for extraction in extractions])
        return torch.from_numpy(np.isin(_digests(self.stage.ood_scores.outputs, self.store), inside))


def _intervals(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Return between what the rates lie, were the images drawn again."""
    found = significance.bootstrap(inside.numpy(), outside.numpy())
    return {f"{name}_{end}": value for name, ends in found.items() for end, value in zip(ENDS, ends, strict=True)}


def _images(stage: MeasureStage, store: Store, kept: Tensor) -> str:
    """Return a digest of all that is measured, pixel for pixel and in order."""
    inside = [_digests(scores.outputs, store) for scores in (stage.id_scores, *stage.shifted_scores)]
    outside = _digests(stage.ood_scores.outputs, store)[kept.numpy()]
    return hashlib.sha256(b"|".join(digests.tobytes() for digests in (*inside, outside))).hexdigest()[:24]


def _digests(extraction: Extraction, store: Store) -> Any:
    return load_array(store.file(extraction.base, DIGESTS)).numpy()


def _classification(outputs: Outputs) -> dict[str, float | None]:
    """Return how well the ID test images are classified, and how well the confidence says so."""
    if not outputs.logits.shape[1] or outputs.classes < 2:
        return {"id_accuracy": None, "ece": None}
    return {
        "id_accuracy": metrics.accuracy(outputs.logits, outputs.labels),
        "ece": metrics.expected_calibration_error(outputs.logits, outputs.labels),
    }


def _calibrated(inside: Tensor, outside: Tensor, held: Tensor) -> dict[str, float]:
    """Return the threshold set by held-out ID images, and what share of each test set it accepts."""
    threshold = _threshold(held)
    return {
        "threshold": threshold,
        "id_accepted": float((inside <= threshold).double().mean()),
        "ood_accepted": float((outside <= threshold).double().mean()),
    }


def _threshold(held: Tensor) -> float:
    """Return the threshold of a detector for a TPR of 95 %; of fewer than 19 images the interpolated quantile.

    That quantile comes without a guarantee for new ID images.
    """
    calibration = Calibration.of(held.numpy())
    vouched = calibration.highest_tpr >= metrics.RECALL
    return calibration.threshold(metrics.RECALL) if vouched else metrics.threshold(held)


def _file_accepted(
    folder: Path, stage: MeasureStage, outputs: Outputs, inside: Tensor, measured: tuple[Tensor, Tensor]
) -> None:
    """Count which OOD classes are accepted as which ID classes, where a classifier tells those apart."""
    outside, kept = measured
    if outputs.logits.shape[1] != outputs.classes:  # one class, in front of outputs for many
        return
    accepted = outside <= metrics.threshold(inside)
    foreign, taken_for = outputs.labels[kept][accepted], outputs.logits[kept][accepted].argmax(1)
    counts = np.zeros((len(stage.ood_scores.images.opened.classes), outputs.logits.shape[1]), np.int64)
    np.add.at(counts, (foreign.numpy(), taken_for.numpy()), 1)
    np.save(folder / ACCEPTED, counts)


def _scores(stage: ScoreStage, store: Store) -> Tensor:
    return load_array(store.file(stage, SCORES))

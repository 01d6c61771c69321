"""Measures how well the scores of a scorer separate OOD test images from ID test images.

The facts of the stage hold the rates of its row of the table; the files below hold the other results a report shows.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import OODError
from ood_core.evaluation import TPR, metrics, significance
from ood_core.evaluation.calibration import Calibration, least_images
from ood_core.evaluation.metrics import Scores
from ood_core.pipeline.events import Observer
from ood_core.pipeline.extract import DIGESTS
from ood_core.pipeline.score import SCORES
from ood_core.records.stages import Extraction, ExtractStage, MeasureStage, ScoreStage
from ood_core.store.artifacts import load_outputs
from ood_core.store.files import load_array, map_array
from ood_core.store.store import Store

COMPARED = "compared.npy"
"""bool [M]: the OOD images that count, without those that are taken out for being ID images as well."""

CLASSES = "classes.npy"
"""A record of each OOD class, [O]: number of its images that count, of those that are accepted, and its AUROC against
all ID images (NaN without images). Accepted are scores up to `metrics.threshold` of the ID scores, as by FPR@95."""

ACCEPTED = "accepted.npy"
"""int64 [O, C]: number of accepted images of each OOD class by predicted ID class; absent without a classifier."""


@dataclass(frozen=True)
class Measured:
    """The results of a measure stage besides its facts; scores of the OOD images that count, and of all ID images."""

    id_scores: Scores
    ood_scores: Scores
    compared: NDArray[np.bool_]
    classes: NDArray[Any]
    accepted: NDArray[np.int64] | None


def load_measured(stage: MeasureStage, store: Store) -> Measured:
    """Return the results of a finished stage."""
    compared, classes = (map_array(store.file(stage, name)) for name in (COMPARED, CLASSES))
    accepted = map_array(store.file(stage, ACCEPTED)) if ACCEPTED in store.names(stage) else None
    scores = load_scores(store, stage.ood_scores)[compared]
    return Measured(load_scores(store, *stage.id_and_shifted), scores, compared, classes, accepted)


def execute(stage: MeasureStage, store: Store, observer: Observer) -> None:
    """Measure, and store the numbers as facts, and as files what a report needs besides."""
    with store.put(stage) as (folder, facts):
        id_digests = [_digests(scores.outputs.base, store) for scores in stage.id_and_shifted]
        ood_digests = _digests(stage.ood_scores.outputs.base, store)
        in_test = np.isin(ood_digests, np.concatenate(id_digests))
        in_train = np.isin(ood_digests, _digests(stage.fit.train.base, store))
        facts |= {"duplicates_test": int(in_test.sum()), "duplicates_train": int(in_train.sum())}
        compared = ~(in_test | in_train) if stage.overlap == "remove" else np.ones(len(ood_digests), np.bool_)
        if not compared.any():
            raise OODError("all its images are also ID images; nothing is left to measure")
        id_scores = load_scores(store, *stage.id_and_shifted)
        ood_scores = load_scores(store, stage.ood_scores)[compared]
        facts |= {"id_images": len(id_scores), "ood_images": len(ood_scores)}
        facts |= asdict(metrics.measure(id_scores, ood_scores))
        for name, ends in significance.bootstrap(id_scores, ood_scores).items():
            facts |= {f"{name}_{end}": value for end, value in zip(metrics.INTERVAL_ENDS, ends, strict=True)}
        digests = b"|".join(of.tobytes() for of in (*id_digests, ood_digests[compared]))
        facts["images"] = hashlib.sha256(digests).hexdigest()[:24]
        of_id = load_outputs(Extraction(stage.id_scores.outputs.base), store)
        classifies = of_id.logits.shape[1] and of_id.classes > 1
        facts["id_accuracy"] = metrics.accuracy(of_id.logits, of_id.labels) if classifies else None
        facts["ece"] = metrics.expected_calibration_error(of_id.logits, of_id.labels) if classifies else None
        if stage.held_scores is not None:
            facts |= _calibrated(id_scores, ood_scores, load_scores(store, stage.held_scores))
        np.save(folder / COMPARED, compared)
        outputs = load_outputs(Extraction(stage.ood_scores.outputs.base), store)
        labels, classes = outputs.labels.numpy()[compared], len(stage.ood_scores.images.opened.classes)
        accepted = ood_scores <= metrics.threshold(id_scores)
        np.save(folder / CLASSES, _measure_classes(id_scores, ood_scores, accepted, labels, classes))
        if outputs.logits.shape[1] == outputs.classes:  # else one class, in front of outputs for many
            counts = np.zeros((classes, outputs.classes), np.int64)
            predicted = outputs.logits[compared][accepted].argmax(1).numpy()
            np.add.at(counts, (labels[accepted], predicted), 1)
            np.save(folder / ACCEPTED, counts)
    observer.progress(1, 1)


def load_scores(store: Store, *stages: ScoreStage) -> Scores:
    """Return the scores of all images of the stages, in their order."""
    scores: Scores = np.concatenate([load_array(store.file(stage, SCORES)).numpy() for stage in stages])
    return scores


def _digests(stage: ExtractStage, store: Store) -> NDArray[Any]:
    """Return the digest of the pixels of each image."""
    digests: NDArray[Any] = load_array(store.file(stage, DIGESTS)).numpy()
    return digests


def _calibrated(id_scores: Scores, ood_scores: Scores, held: Scores) -> dict[str, float]:
    """Return a detector's threshold from held-out ID images, and the share of each test set that it accepts.

    Of fewer than 19 images it is the interpolated quantile, without a guarantee for new ID images.
    """
    calibration = Calibration.of(held)
    threshold = calibration.threshold() if len(held) >= least_images(TPR) else metrics.threshold(held)
    return {
        "threshold": threshold,
        "id_accepted": float((id_scores <= threshold).mean()),
        "ood_accepted": float((ood_scores <= threshold).mean()),
    }


def _measure_classes(
    id_scores: Scores, ood_scores: Scores, accepted: NDArray[np.bool_], labels: NDArray[np.int64], classes: int
) -> NDArray[Any]:
    """Return the records of CLASSES."""
    found = np.zeros(classes, [("images", np.int64), ("accepted", np.int64), ("auroc", np.float64)])
    found["images"] = np.bincount(labels, minlength=classes)
    found["accepted"] = np.bincount(labels[accepted], minlength=classes)
    twice_below = significance.placements(id_scores, ood_scores).of_ood
    below = np.bincount(labels, weights=twice_below, minlength=classes) / (2 * len(id_scores))
    found["auroc"] = np.divide(below, found["images"], out=np.full(classes, np.nan), where=found["images"] > 0)
    return found

"""Compare the scores of new images with the calibration scores of a detector."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.detector.detector import BATCH
from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import ImageRef, iter_batches
from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import DetectorState
from ood_core.errors import OODError, suggest
from ood_core.escapes import from_cell
from ood_core.evaluation.drift_tests import KS, Sequential, kolmogorov_smirnov

Scores = NDArray[np.float64]


@dataclass
class Stream:
    """Scores of new images in their order.

    Attributes:
        scores: Scores of the images that could be scored.
        unusable: Number of images that could not.
        first_reason: Reason of the first of these.
    """

    scores: list[float] = field(default_factory=list)
    unusable: int = 0
    first_reason: str = ""

    def add(self, value: float, origin: str) -> None:
        """Add the score of an image; a number that is not finite is none."""
        if math.isfinite(value):
            self.scores.append(value)
        else:
            self.refuse(f"{origin} {value}")

    def refuse(self, reason: str) -> None:
        """Count an image that could not be scored."""
        self.first_reason = self.first_reason or reason
        self.unusable += 1


@dataclass(frozen=True)
class DriftResult:
    """Result of the drift tests for N new images.

    Attributes:
        scorer: Name of the scorer.
        calibration: float64 [M], scores of the held-out ID images.
        threshold: The score above which an image is OOD.
        scores: float64 [N], in the order of the images.
        ks: Test of the two sets.
        sequential: Test in the order of the images, after the last one.
        log_evidence: float64 [N], natural logarithm of its evidence after each image.
    """

    scorer: str
    calibration: Scores
    threshold: float
    scores: Scores
    ks: KS
    sequential: Sequential
    log_evidence: Scores


def score_stream(state: DetectorState, images: Iterable[ImageRef], scorer: str | None) -> Stream:
    """Return the scores of images by one scorer; default: the detector's first.

    Raises:
        OODError: There is no such scorer.
    """
    name, stream = state.scorer(scorer).name, Stream()
    for shown in iter_batches(images, state.preprocessing, BATCH, state.device):
        for reason in shown.errors.values():
            stream.refuse(reason)
        readable = [image for place, image in enumerate(shown.names) if place not in shown.errors]
        values = score_images(state, shown.images, name).scores[name].tolist() if readable else []
        for image, value in zip(readable, values, strict=True):
            stream.add(value, f"{image}: scorer '{name}' gave")
    return stream


def read_scores(path: Path, scorer: str | None) -> Stream:
    """Return the scores in a table that `ood score` wrote, CSV or JSON Lines, in the order of its rows.

    They are those of the column `score` unless there is one of this scorer.

    Raises:
        OODError: There is no such file, no such column, or an entry that is no number.
    """
    stream = Stream()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = _json_lines(path, file) if path.suffix in (".jsonl", ".ndjson") else csv.DictReader(file)
            for number, row in enumerate(rows, 1):
                _add(stream, row, scorer, f"{path}, row {number}")
    except (OSError, csv.Error) as error:
        raise OODError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return stream


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise OODError(f"{path}, row {number}: is no JSON object")
        yield row | row.get("scores", {}) if isinstance(row.get("scores"), dict) else row


def _add(stream: Stream, row: Mapping[str, Any], scorer: str | None, where: str) -> None:
    column = scorer if scorer is not None and scorer in row else "score"
    if column not in row:
        raise OODError(f"{where}: has no column 'score'.{suggest('score', map(str, row))}")
    entry = row[column]
    if entry in (None, ""):  # an image that could not be scored
        stream.refuse(from_cell(str(row.get("error") or f"{where}: has no score")))
        return
    try:
        stream.add(float(entry), f"{where}: '{column}' is")
    except (TypeError, ValueError):
        raise OODError(f"{where}: '{column}' is no number: {entry!r}") from None


def compare(state: DetectorState, stream: Stream, scorer: str | None, sequential: Sequential) -> DriftResult:
    """Run both tests on the scores of a scorer; `sequential` has seen no image yet.

    Raises:
        OODError: There is no such scorer, or no image could be scored.
    """
    chosen = state.scorer(scorer)
    if not stream.scores:
        reason = f"no image could be scored; the first of {stream.unusable}: {stream.first_reason}"
        raise OODError(reason if stream.unusable else "there are no images to score")
    calibration, new = chosen.calibration.scores, np.array(stream.scores)
    log_evidence, ks = sequential.update(new), kolmogorov_smirnov(calibration, new)
    threshold = float(decision_rule(state, chosen.name, per_class=False).thresholds[0])
    return DriftResult(chosen.name, calibration, threshold, new, ks, sequential, log_evidence)

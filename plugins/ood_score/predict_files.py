"""Score files batch after batch; the scores are those of `Detector.score`, up to rounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import file_ref, iter_batches
from ood_core.detector.predictions import DecisionRule, Predictions, ScoredBatch, decide
from ood_core.detector.state import DetectorState
from ood_score.rows import Columns, Near, Row

NEAREST = 5
"""Number of nearest ID images to report."""


@dataclass(frozen=True)
class Request:
    """Options that decide the row of an image.

    Attributes:
        state: State of the detector.
        rule: Decision from the scores.
        columns: Columns of a row.
        batch_size: Number of images in a forward pass.
    """

    state: DetectorState
    rule: DecisionRule
    columns: Columns
    batch_size: int

    @property
    def only(self) -> str | None:
        """Name of the only scorer to compute, None for all."""
        return None if self.columns.scorers else self.rule.scorer


def predict_files(request: Request, paths: Iterable[str]) -> Iterator[list[Row]]:
    """Yield the rows of images in their order, a batch at a time; an image that cannot be scored has a row with why."""
    state = request.state
    for batch in iter_batches(map(file_ref, paths), state.preprocessing, request.batch_size, state.device):
        found = score_images(state, batch.images, request.only) if len(batch.images) else None
        errors = {place: reason.removeprefix(f"{batch.names[place]}: ") for place, reason in batch.errors.items()}
        places = [place for place in range(len(batch.names)) if place not in errors]
        reasons = [None if found is None else found.broken(row) for row in range(len(places))]
        errors |= {place: reason for place, reason in zip(places, reasons, strict=True) if reason is not None}
        rows = {place: Row(file=batch.names[place], error=reason) for place, reason in errors.items()}
        good = [row for row, reason in enumerate(reasons) if reason is None]
        if found is not None and good:
            kept = _only(found, good)
            predictions = decide(state, kept, request.rule)
            near = nearest(state, kept.embeddings) if request.columns.nearest else [()] * len(good)
            for row, place in enumerate(places[row] for row in good):
                rows[place] = _row(batch.names[place], request.columns, predictions, row, near[row])
        yield [rows[place] for place in range(len(batch.names))]


def _only(found: ScoredBatch, rows: Sequence[int]) -> ScoredBatch:
    if len(rows) == len(found):
        return found
    kept = np.array(rows)
    return ScoredBatch(
        {name: scores[kept] for name, scores in found.scores.items()},
        None if found.predicted is None else found.predicted[kept],
        found.embeddings[torch.from_numpy(kept)],
    )


def _row(file: str, columns: Columns, found: Predictions, row: int, near: tuple[Near, ...]) -> Row:
    return Row(
        file=file,
        is_ood=bool(found.is_ood[row]),
        score=float(found.score[row]),
        threshold=float(found.threshold[row]),
        p_value=float(found.p_value[row]),
        predicted=found.class_name(row),
        scores={name: float(found.scores[name][row]) for name in columns.scorers},
        nearest=near,
    )


def nearest(state: DetectorState, embeddings: Tensor) -> list[tuple[Near, ...]]:
    """Return for each embedding [N, D] the nearest ID training images; none if the detector has none."""
    if state.examples is None:
        return [()] * len(embeddings)
    distances, rows = state.examples.nearest(embeddings, NEAREST)
    classes = [[state.classes[label] for label in labels] for labels in state.examples.labels[rows].tolist()]
    return [tuple(map(Near, *of)) for of in zip(classes, distances.tolist(), strict=True)]

"""Paths to rows, batch after batch; the scores are those of `Detector.score`, up to rounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import ImageBatch, file_ref, iter_batches
from ood_core.detector.predictions import DecisionRule, Predictions, ScoredBatch, decide
from ood_core.detector.state import DetectorState
from ood_score.rows import Columns, Near, Row

NEAREST = 5
"""ID images that are told of an image, where somebody asks."""


@dataclass(frozen=True)
class Request:
    """What is wanted of images.

    Attributes:
        state: The detector's.
        rule: How scores become decisions.
        columns: What is shown of a row.
        batch_size: Images that pass through the network at once.
    """

    state: DetectorState
    rule: DecisionRule
    columns: Columns
    batch_size: int

    @property
    def only(self) -> str | None:
        """Name of the one scorer that has to be asked, None for all."""
        return None if self.columns.scorers else self.rule.scorer


def passed(request: Request, paths: Iterable[str]) -> Iterator[list[Row]]:
    """Yield the rows of the images in their order, a batch at a time; what cannot be scored is a row with an error."""
    state = request.state
    for shown in iter_batches(map(file_ref, paths), state.preprocessing, request.batch_size, state.device):
        found = score_images(request.state, shown.images, request.only) if len(shown.images) else None
        yield _rows(request, shown, found)


def _rows(request: Request, shown: ImageBatch, found: ScoredBatch | None) -> list[Row]:
    errors = {place: reason.removeprefix(f"{shown.names[place]}: ") for place, reason in shown.errors.items()}
    places = [place for place in range(len(shown.names)) if place not in errors]
    good = []  # rows of what was scored
    for row, place in enumerate(places):
        if (reason := found.broken(row) if found is not None else None) is None:
            good.append(row)
        else:
            errors[place] = reason
    rows = {place: Row(file=shown.names[place], error=reason) for place, reason in errors.items()}
    if found is not None and good:
        kept = _only(found, good)
        predictions = decide(request.state, kept, request.rule)
        near = nearest(request.state, kept.embeddings) if request.columns.nearest else [()] * len(good)
        for row, place in enumerate(places[row] for row in good):
            rows[place] = _row(shown.names[place], request.columns, predictions, row, near[row])
    return [rows[place] for place in range(len(shown.names))]


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
    """Return for each embedding [N, D] the nearest ID training images; none where the detector keeps none."""
    if state.examples is None:
        return [()] * len(embeddings)
    distances, rows = state.examples.nearest(embeddings, NEAREST)
    classes = [[state.classes[label] for label in labels] for labels in state.examples.labels[rows].tolist()]
    return [tuple(map(Near, *of)) for of in zip(classes, distances.tolist(), strict=True)]

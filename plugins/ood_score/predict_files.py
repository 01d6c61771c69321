"""Score files batch after batch; the scores are those of `Detector.score`, up to rounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import file_ref, iter_batches
from ood_core.detector.predictions import DecisionRule, decide
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
    state, columns = request.state, request.columns
    for batch in iter_batches(map(file_ref, paths), state.preprocessing, request.batch_size, state.device):
        errors = {place: reason.removeprefix(f"{batch.names[place]}: ") for place, reason in batch.errors.items()}
        places = [place for place in range(len(batch.names)) if place not in errors]
        good = {}
        if places:
            found = score_images(state, batch.images, request.only)
            reasons = {place: found.broken(row) for row, place in enumerate(places)}
            errors |= {place: reason for place, reason in reasons.items() if reason is not None}
            good = {place: row for row, place in enumerate(places) if place not in errors}
        rows = {place: Row(file=batch.names[place], error=reason) for place, reason in errors.items()}
        if good:
            found = found[list(good.values())]
            predictions = decide(state, found, request.rule)
            near = _nearest(state, found.embeddings) if columns.nearest else [()] * len(good)
            for row, place in enumerate(good):
                rows[place] = Row(
                    file=batch.names[place],
                    is_ood=bool(predictions.is_ood[row]),
                    score=float(predictions.score[row]),
                    threshold=float(predictions.threshold[row]),
                    p_value=float(predictions.p_value[row]),
                    predicted=predictions.class_name(row),
                    scores={name: float(predictions.scores[name][row]) for name in columns.scorers},
                    nearest=near[row],
                )
        yield [rows[place] for place in range(len(batch.names))]


def _nearest(state: DetectorState, embeddings: Tensor) -> list[tuple[Near, ...]]:
    """Return for each embedding [N, D] the nearest ID training images; none if the detector has none."""
    if state.examples is None:
        return [()] * len(embeddings)
    distances, rows = state.examples.nearest(embeddings, NEAREST)
    classes = [[state.classes[label] for label in labels] for labels in state.examples.labels[rows].tolist()]
    return [tuple(map(Near, *of)) for of in zip(classes, distances.tolist(), strict=True)]

"""The row of an image, its columns, counts of rows and the exit code that they give."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ood_core.errors import OODError, format_image_count

FOUND, UNSCORED = 1, 3
"""Exit codes: OOD images under --fail-on-ood; images that could not be scored."""

MOST = 200
"""Rows kept for the page of --explain, at most."""


@dataclass(frozen=True)
class Near:
    """An ID training image near to an image: its class, and the Euclidean distance of their embeddings."""

    class_name: str
    distance: float


@dataclass(frozen=True)
class Row:
    """One image; values are None if it could not be scored, or if there is no classifier.

    Attributes:
        file: Path as given.
        is_ood: The decision.
        score: Score of the deciding scorer; higher means more OOD.
        threshold: The score above which the image would be OOD.
        p_value: As in `Predictions`.
        predicted: Name of the most probable ID class.
        scores: Scores by scorer, of those with a column.
        nearest: Nearest ID training images, nearest first; empty unless requested.
        error: Reason why it could not be scored.
    """

    file: str
    is_ood: bool | None = None
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    predicted: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    nearest: tuple[Near, ...] = ()
    error: str | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key; the most OOD image is last."""
        return -(1.0 if self.p_value is None else self.p_value), 0.0 if self.score is None else self.score


DECISION = ("file", "is_ood", "score", "threshold", "p_value", "predicted")
"""The first columns; those of single scorers come after them, and `error` is the last."""

ERROR, NEAREST = "error", "nearest"


@dataclass(frozen=True)
class Columns:
    """Columns of the rows.

    Attributes:
        scorers: Scorers with a column each.
        nearest: Whether there is a column of the nearest ID images.

    Raises:
        OODError: A scorer has the name of another column.
    """

    scorers: tuple[str, ...] = ()
    nearest: bool = False

    def __post_init__(self) -> None:
        for name in self.scorers:
            if name in (*DECISION, ERROR, NEAREST):
                raise OODError(f"--all-scores: the scorer '{name}' is called as another column is; leave it out")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns in their order."""
        return (*DECISION, *self.scorers, *((NEAREST,) if self.nearest else ()), ERROR)

    def values(self, row: Row) -> dict[str, Any]:
        """Return the values of a row by column."""
        values = {name: getattr(row, name) for name in DECISION}
        values |= {name: row.scores.get(name) for name in self.scorers}
        if self.nearest:
            near = [{"class": of.class_name, "distance": of.distance} for of in row.nearest]
            values[NEAREST] = near if row.error is None else None
        return values | {ERROR: row.error}

    def row(self, values: Mapping[str, Any]) -> Row:
        """Return the row of these values.

        Raises:
            KeyError: A column is missing.
        """
        near = tuple(Near(of["class"], of["distance"]) for of in values.get(NEAREST) or ())
        scores = {name: values[name] for name in self.scorers if values[name] is not None}
        return Row(**{name: values[name] for name in DECISION}, scores=scores, nearest=near, error=values[ERROR])


@dataclass
class ScoreCounts:
    """Counts of rows, and those that are most OOD.

    Attributes:
        images: Number of rows.
        ood: Number that are OOD.
        unscored: Number that could not be scored.
        first: The first of those.
        most: Number of rows to keep for the page.
    """

    images: int = 0
    ood: int = 0
    unscored: int = 0
    first: Row | None = None
    most: int = MOST
    _heap: list[tuple[tuple[float, float], int, Row]] = field(default_factory=list)

    def add(self, rows: Iterable[Row]) -> None:
        """Count rows."""
        for row in rows:
            self.images += 1
            self.ood += row.is_ood is True
            if row.error is not None:
                self.unscored += 1
                self.first = self.first or row
                continue
            entry = (row.rank, -self.images, row)  # of equal rows the earlier one is kept
            heapq.heappush(self._heap, entry)
            if len(self._heap) > self.most:
                heapq.heappop(self._heap)

    def most_ood(self) -> list[Row]:
        """Return the rows that are most OOD, beginning with the most."""
        return [row for *_, row in sorted(self._heap, reverse=True)]

    def summary(self) -> str:
        """Return one line: how many images, and the number and share of OOD ones among those scored."""
        scored = self.images - self.unscored
        share = f" ({self.ood / scored:.1%})" if scored else ""
        return (
            f"{format_image_count(self.images)}, {self.ood} OOD{f' of {scored} scored' if self.unscored else ''}{share}"
        )

    def exit_code(self, fail_on_ood: bool) -> int:
        """Return 0 if all is well; OOD images outweigh those that could not be scored."""
        if fail_on_ood and self.ood:
            return FOUND
        return UNSCORED if self.unscored else 0

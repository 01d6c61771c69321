"""The row of an image, and its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ood_core.errors import OODError


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
    """

    scorers: tuple[str, ...] = ()
    nearest: bool = False

    def __post_init__(self) -> None:
        """Refuse a scorer whose name is that of another column.

        Raises:
            OODError: Names the scorer.
        """
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

"""What becomes of an image: a row."""

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
    """One image. What it lacks because it could not be scored, or because there is no classifier, is None.

    Attributes:
        file: As it was named.
        is_ood: The decision.
        score: Of the scorer that decides; higher means more OOD.
        threshold: The score above which the image would be OOD.
        p_value: As in `Predictions`.
        predicted: Name of the most probable ID class.
        scores: By the name of the scorer, of those that have a column.
        nearest: The nearest first; empty where nobody asked.
        error: Why it could not be scored.
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
        """By which images are sorted, the most OOD last."""
        return -(1.0 if self.p_value is None else self.p_value), 0.0 if self.score is None else self.score


DECISION = ("file", "is_ood", "score", "threshold", "p_value", "predicted")
"""The first columns; those of single scorers come after them, and `error` is the last."""

ERROR, NEAREST = "error", "nearest"


@dataclass(frozen=True)
class Columns:
    """What is shown of a row.

    Attributes:
        scorers: Names of those with a column each.
        nearest: Whether the nearest ID images are told, where the format can.
    """

    scorers: tuple[str, ...] = ()
    nearest: bool = False

    def __post_init__(self) -> None:
        """Refuse what would make two columns of one name.

        Raises:
            OODError: Names the scorer.
        """
        for name in self.scorers:
            if name in (*DECISION, ERROR, NEAREST):
                raise OODError(f"--all-scores: the scorer '{name}' is called as another column is; leave it out")

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns in their order."""
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
        """Return the row with such values.

        Raises:
            KeyError: A column is missing.
        """
        near = tuple(Near(of["class"], of["distance"]) for of in values.get(NEAREST) or ())
        scores = {name: values[name] for name in self.scorers if values[name] is not None}
        return Row(**{name: values[name] for name in DECISION}, scores=scores, nearest=near, error=values[ERROR])

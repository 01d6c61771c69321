"""Counts of scored images, the exit code they give, and the rows that are most OOD."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from ood_score.rows import Row

FOUND, UNSCORED = 1, 3
"""Exit codes: OOD images under --fail-on-ood; images that could not be scored."""

MOST = 200
"""Rows kept for the page of --explain, at most."""


@dataclass
class ScoreCounts:
    """Counts of rows.

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
            if len(self._heap) < self.most:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heappushpop(self._heap, entry)

    def most_ood(self) -> list[Row]:
        """Return the rows that are most OOD, beginning with the most."""
        return [row for *_, row in sorted(self._heap, reverse=True)]

    def summary(self) -> str:
        """Return one line: how many images, and the number and share of OOD ones among those scored."""
        scored = self.images - self.unscored
        share = f" ({self.ood / scored:.1%})" if scored else ""
        return f"{counted(self.images)}, {self.ood} OOD{f' of {scored} scored' if self.unscored else ''}{share}"

    def exit_code(self, fail_on_ood: bool) -> int:
        """Return 0 if all is well; OOD images outweigh those that could not be scored."""
        if fail_on_ood and self.ood:
            return FOUND
        return UNSCORED if self.unscored else 0


def counted(count: int) -> str:
    """Return "1 image" or "7 images"."""
    return f"{count} image{'' if count == 1 else 's'}"

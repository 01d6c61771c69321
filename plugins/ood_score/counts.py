"""How many images there were, what that means for the exit code, and which were most OOD."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from ood_score.rows import Row

FOUND, UNSCORED = 1, 3
"""Exit codes: there were OOD images and somebody wanted to know; there were images that could not be scored."""


MOST = 200
"""Rows that are kept for the page of --explain, at most."""


@dataclass
class Worst:
    """The rows that are most OOD.

    Attributes:
        most: How many are kept.
    """

    most: int = MOST
    _heap: list[tuple[tuple[float, float], int, Row]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)

    def add(self, row: Row) -> None:
        """Keep the row if it is more OOD than one that was kept; of equal ones the earlier is kept."""
        entry = (row.rank, -next(self._number), row)
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[Row]:
        """Return them, the most OOD first."""
        return [row for *_, row in sorted(self._heap, reverse=True)]


@dataclass
class Tally:
    """Counts of rows.

    Attributes:
        images: All of them.
        ood: How many are OOD.
        unscored: How many could not be scored.
        first: The first of those.
        worst: The rows that are most OOD.
    """

    images: int = 0
    ood: int = 0
    unscored: int = 0
    first: Row | None = None
    worst: Worst = field(default_factory=Worst)

    def add(self, rows: Iterable[Row]) -> None:
        """Count rows."""
        for row in rows:
            self.images += 1
            self.ood += row.is_ood is True
            if row.error is None:
                self.worst.add(row)
            else:
                self.unscored += 1
                self.first = self.first or row

    def summary(self) -> str:
        """Return one line: how many images, how many and what share of those that were scored are OOD."""
        scored = self.images - self.unscored
        share = f" ({self.ood / scored:.1%})" if scored else ""
        return f"{counted(self.images)}, {self.ood} OOD{f' of {scored} scored' if self.unscored else ''}{share}"

    def exit_code(self, fail_on_ood: bool) -> int:
        """Return 0 if all is well; OOD images outweigh those that could not be scored."""
        if fail_on_ood and self.ood:
            return FOUND
        return UNSCORED if self.unscored else 0


def counted(count: int) -> str:
    """Return so many images in words."""
    return f"{count} image{'' if count == 1 else 's'}"

"""How the classes of the OOD sets fare with each scorer, and for which ID classes they are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ood_core.records.findings import AcceptedPair, ClassRow, Findings, WhichRow
from ood_core.records.results import ResultRow
from ood_core.report.content.combinations import Combination, combinations, ranked
from ood_core.report.figures.figures import affordable

BYTES = 350_000
"""Of all tables together."""

LINES, COLUMNS = 30, 12
"""OOD classes and ID classes of a table, at most: those that are hardest to tell, and those they are most taken for."""

_CELL = 42  # bytes, about

OfRow = TypeVar("OfRow", bound=WhichRow)


@dataclass(frozen=True)
class ClassLine:
    """An OOD class: its row, and how many of its images are taken for each ID class of the table, and for others."""

    row: ClassRow
    taken: tuple[int, ...]
    others: int


@dataclass(frozen=True)
class Breakdown:
    """The OOD classes of one combination, those of each set from the hardest on.

    Attributes:
        id_classes: The columns; none where no classifier tells ID classes apart.
        left_out: How many OOD classes, which are easier, have no line.
    """

    combination: Combination
    id_classes: tuple[str, ...]
    lines: tuple[ClassLine, ...]
    left_out: int

    @property
    def others(self) -> bool:
        """Whether images are also taken for ID classes that have no column."""
        return any(line.others for line in self.lines)


def breakdowns(findings: Findings) -> list[Breakdown]:
    """Return a table for each combination, in the order of the result table, as far as they can be afforded."""
    rows, pairs = _by_row(findings.classes), _by_row(findings.accepted)
    found = [one for one in combinations(findings.rows) if any(place in rows for place in _places(one, findings))]

    def made(one: Combination) -> Breakdown:
        places = _places(one, findings)
        return _breakdown(one, [row for key in places for row in rows.get(key, [])], pairs)

    drawn = affordable(ranked(found, findings.baseline), made, _bytes, BYTES)
    kept = {table.combination: table for table in drawn if table.lines}
    return [kept[one] for one in found if one in kept]


def _breakdown(
    one: Combination, rows: Sequence[ClassRow], pairs: dict[tuple[object, ...], list[AcceptedPair]]
) -> Breakdown:
    hardest = sorted(rows, key=lambda row: row.auroc)[:LINES]
    order = list(dict.fromkeys(row.ood_set for row in rows))
    shown = sorted(hardest, key=lambda row: (order.index(row.ood_set), row.auroc))
    taken: dict[str, int] = {}
    for key in dict.fromkeys(_key(row) for row in shown):
        for pair in pairs.get(key, []):
            taken[pair.id_class] = taken.get(pair.id_class, 0) + pair.accepted
    columns = tuple(sorted(sorted(taken, key=lambda name: -taken[name])[:COLUMNS]))
    return Breakdown(
        one, columns, tuple(_line(row, columns, pairs.get(_key(row), [])) for row in shown), len(rows) - len(shown)
    )


def _line(row: ClassRow, columns: Sequence[str], pairs: Sequence[AcceptedPair]) -> ClassLine:
    counts = {pair.id_class: pair.accepted for pair in pairs if pair.ood_class == row.ood_class}
    taken = tuple(counts.get(name, 0) for name in columns)
    return ClassLine(row, taken, sum(counts.values()) - sum(taken))


def _by_row(rows: Iterable[OfRow]) -> dict[tuple[object, ...], list[OfRow]]:
    grouped: dict[tuple[object, ...], list[OfRow]] = {}
    for row in rows:
        grouped.setdefault(_key(row), []).append(row)
    return grouped


def _key(row: WhichRow | ResultRow) -> tuple[object, ...]:
    return row.variant, row.case, row.draw, row.seed, row.scorer, row.id_set, row.ood_set


def _places(one: Combination, findings: Findings) -> list[tuple[object, ...]]:
    rows = (findings.rows[index] for index in one.rows)
    return list(
        dict.fromkeys((row.variant, row.case, row.draw, row.seed, row.scorer, row.id_set, row.ood_set) for row in rows)
    )


def _bytes(table: Breakdown) -> int:
    return _CELL * len(table.lines) * (len(table.id_classes) + 5)

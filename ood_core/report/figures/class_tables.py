"""Tables of OOD classes: how well a scorer separates them from ID, and which ID classes they are taken for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ood_core.records.report_data import AcceptedPair, ClassRow, ClassRowKey, ReportData
from ood_core.report.content.combinations import Combination, combinations, draw_combinations

BYTES = 350_000
"""Of all tables together."""

LINES, COLUMNS = 30, 12
"""OOD classes and ID classes of a table, at most: the hardest ones, and those they are most taken for."""

_CELL = 42  # bytes, about

OfRow = TypeVar("OfRow", bound=ClassRowKey)


@dataclass(frozen=True)
class ClassLine:
    """An OOD class, and how many of its images are taken for each ID class of the table, and for others."""

    row: ClassRow
    taken: tuple[int, ...]
    others: int


@dataclass(frozen=True)
class ClassTable:
    """The OOD classes of one combination, of each set the hardest first; without a classifier no ID classes."""

    combination: Combination
    id_classes: tuple[str, ...]
    lines: tuple[ClassLine, ...]
    left_out: int
    columns_left_out: int

    @property
    def others(self) -> bool:
        """Whether images are also taken for ID classes without a column."""
        return any(line.others for line in self.lines)


def draw(report: ReportData) -> list[ClassTable]:
    """Return a table for each combination, in the order of the result table, within the budget."""
    rows, pairs = _by_key(report.classes), _by_key(report.accepted)

    def rows_of(one: Combination) -> list[ClassRow]:
        keys = dict.fromkeys(ClassRowKey.of(report.rows[index]) for index in one.rows)
        return [row for key in keys for row in rows.get(key, [])]

    def size(table: ClassTable) -> int:
        return _CELL * len(table.lines) * (len(table.id_classes) + 5)

    found = list(filter(rows_of, combinations(report.rows)))
    return draw_combinations(found, report.baseline, lambda one: _table(one, rows_of(one), pairs), size, BYTES)


def _table(one: Combination, rows: Sequence[ClassRow], pairs: dict[ClassRowKey, list[AcceptedPair]]) -> ClassTable:
    hardest = sorted(rows, key=lambda row: row.auroc)[:LINES]
    order = list(dict.fromkeys(row.ood_set for row in rows))
    shown = sorted(hardest, key=lambda row: (order.index(row.ood_set), row.auroc))
    taken: Counter[str] = Counter()
    for key in dict.fromkeys(map(ClassRowKey.of, shown)):
        for pair in pairs.get(key, []):
            taken[pair.id_class] += pair.accepted
    columns = tuple(sorted(sorted(taken, key=lambda name: -taken[name])[:COLUMNS]))
    lines = []
    for row in shown:
        of_class = [pair for pair in pairs.get(ClassRowKey.of(row), []) if pair.ood_class == row.ood_class]
        counts = {pair.id_class: pair.accepted for pair in of_class}
        in_columns = tuple(counts.get(name, 0) for name in columns)
        lines.append(ClassLine(row, in_columns, sum(counts.values()) - sum(in_columns)))
    return ClassTable(one, columns, tuple(lines), len(rows) - len(shown), len(taken) - len(columns))


def _by_key(rows: Iterable[OfRow]) -> dict[ClassRowKey, list[OfRow]]:
    grouped: dict[ClassRowKey, list[OfRow]] = {}
    for row in rows:
        grouped.setdefault(ClassRowKey.of(row), []).append(row)
    return grouped

"""Published tables, to print a run's numbers beside theirs: values, and the files of recipes/paper.

tables.csv has the numbers that the paper prints, titles.csv the titles of its tables, notes.csv footnotes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ood_core.runtime.shipped import shipped_folder

AVERAGES = ("avg", "average")
"""Names of averages over rows or columns; after ">" one over those with the same beginning."""

METRICS = ("auroc", "id_accuracy", "accepted")
"""Numbers of a cell; `accepted` is the percentage of images of `ood_class` accepted as `id_class`."""


@dataclass(frozen=True)
class Line:
    """A line of the result table over all seeds and draws; `exposed` networks were trained with OOD class names."""

    variant: str
    case: str
    scorer: str
    id_set: str
    ood_set: str
    exposed: bool = False


@dataclass(frozen=True)
class Cell:
    """A published number, as printed, and the lines of ours to print beside it.

    Attributes:
        value: "" if there is none, as is the deviation.
        exposed: Whether the published run was trained with names of the OOD classes.
        asked: Whether the recipe selects lines of ours.
        lines: Ours is the mean over these.
        mean_of: Places of the cells that an average is the mean of, instead of lines.
        metric: One of METRICS; classes are those of accepted images.
        instead: Whether ours is of other images or of another system.
        notes: Numbers of the footnotes, from 1.
    """

    value: str = ""
    deviation: str = ""
    exposed: bool = False
    asked: bool = False
    lines: tuple[Line, ...] = ()
    mean_of: tuple[tuple[int, int], ...] = ()
    metric: str = "auroc"
    ood_class: str = ""
    id_class: str = ""
    instead: bool = False
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Label:
    """The name of a row or column, with the numbers of its footnotes."""

    text: str
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A published table with the lines of ours for its cells.

    Attributes:
        footnotes: Numbered from 1.
        remarks: Sentences on the whole table.
    """

    name: str
    title: str
    columns: tuple[Label, ...]
    rows: tuple[tuple[Label, tuple[Cell, ...]], ...]
    footnotes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def renamed(self, names: Mapping[str, str], run: str) -> Table:
        """Return the table among those of several runs, with the new names of the variants."""

        def renamed(cell: Cell) -> Cell:
            lines = (replace(line, variant=names.get(line.variant, line.variant)) for line in cell.lines)
            return replace(cell, lines=tuple(lines))

        rows = tuple((label, tuple(map(renamed, cells))) for label, cells in self.rows)
        return replace(self, title=f"{run}: {self.title}", rows=rows)


@dataclass(frozen=True)
class Entry:
    """A cell of a published table, as printed; `seen` if ImageNet-21k had names of OOD classes for its network."""

    row: str = ""
    column: str = ""
    value: str = ""
    deviation: str = ""
    seen: bool = False


@dataclass(frozen=True)
class Note:
    """A footnote to a cell; to its row, its column or all of the table where the others are ""."""

    table: str
    row: str
    column: str
    note: str

    @property
    def of(self) -> tuple[str, str, str]:
        """Table, row and column."""
        return self.table, self.row, self.column


def entries() -> dict[str, list[Entry]]:
    """Return the cells of all tables, by the names of the tables."""
    found: dict[str, list[Entry]] = {}
    for line in _lines("tables.csv"):
        seen = line["seen"] == "yes"
        entry = Entry(line["row"], line["column"], line["value"], line["deviation"], seen)
        found.setdefault(line["table"], []).append(entry)
    return found


def titles() -> dict[str, str]:
    """Return what each table is about."""
    return {line["table"]: line["title"] for line in _lines("titles.csv")}


@cache
def notes() -> tuple[Note, ...]:
    """Return all footnotes."""
    return tuple(Note(**line) for line in _lines("notes.csv"))


def averaged(label: str, labels: Sequence[str]) -> list[str]:
    """Return which of the rows or columns one is the average of; none for most."""
    beginning, _, name = label.rpartition(">")
    if name.lower() not in AVERAGES:
        return []
    return [other for other in labels if other != label and other.rpartition(">")[0] == beginning]


def _lines(name: str) -> list[dict[str, str]]:
    with (shipped_folder() / "paper" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))

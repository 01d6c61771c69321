"""Published tables beside which a run puts its numbers, as values and as they lie in recipes/paper.

tables.csv has the numbers that the paper prints, titles.csv what tables are about, notes.csv what is known of them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ood_core.runtime.shipped import shipped_folder

AVERAGES = ("avg", "average")
"""What an average over rows or columns is called; behind ">" one over those with the same beginning."""


METRICS = ("auroc", "id_accuracy", "accepted")
"""What a cell may show; `accepted` are accepted images of `ood_class` taken for `id_class`, of a hundred."""


@dataclass(frozen=True)
class Line:
    """A line of the result table, whatever the seed and the draw.

    Attributes:
        exposed: Whether the network was trained with names of the OOD classes.
    """

    variant: str
    case: str
    scorer: str
    id_set: str
    ood_set: str
    exposed: bool = False


@dataclass(frozen=True)
class Cell:
    """A published number, as printed, and what of ours stands beside it.

    Attributes:
        value: "" where there is none.
        deviation: "" where there is none.
        exposed: Whether the published run was trained with names of the OOD classes.
        asked: Whether the recipe says what of ours belongs here.
        lines: Ours is the mean over these.
        mean_of: Places of the cells that an average is the mean of, instead of lines.
        metric: One of METRICS.
        ood_class: For accepted images.
        id_class: For accepted images.
        instead: Whether ours is something else, of other images or another system.
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

    def renamed(self, names: Mapping[str, str]) -> Cell:
        """Return the cell with other names of the variants."""
        lines = (replace(line, variant=names.get(line.variant, line.variant)) for line in self.lines)
        return replace(self, lines=tuple(lines))


@dataclass(frozen=True)
class Label:
    """The name of a row or column, with the numbers of its footnotes."""

    text: str
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A published table with what of ours belongs into its cells.

    Attributes:
        footnotes: Numbered from 1, by which rows, columns and cells name them.
        remarks: What concerns all of it.
    """

    name: str
    title: str
    columns: tuple[Label, ...]
    rows: tuple[tuple[Label, tuple[Cell, ...]], ...]
    footnotes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def renamed(self, names: Mapping[str, str], run: str) -> Table:
        """Return the table of a run among others, whose variants have other names there."""
        rows = tuple((label, tuple(cell.renamed(names) for cell in cells)) for label, cells in self.rows)
        return replace(self, title=f"{run}: {self.title}", rows=rows)


@dataclass(frozen=True)
class Entry:
    """A cell of a published table, as printed.

    Attributes:
        seen: Whether the network had been trained with the names of OOD classes, by those of ImageNet-21k.
    """

    row: str = ""
    column: str = ""
    value: str = ""
    deviation: str = ""
    seen: bool = False


@dataclass(frozen=True)
class Note:
    """A footnote to the whole table, to a row, to a column or to a cell; what is "" does not narrow it down."""

    table: str
    row: str
    column: str
    note: str

    @property
    def of(self) -> tuple[str, str, str]:
        """What it concerns."""
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


def folder() -> Path:
    """Return where the files lie."""
    return shipped_folder() / "paper"


def _lines(name: str) -> list[dict[str, str]]:
    with (folder() / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))

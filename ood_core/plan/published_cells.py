"""Reads the section `paper` of a recipe: published tables, and which lines belong into their cells.

    paper:
      exposed: true                             # the pretrained weights know the names of OOD classes
      remark: Half of the images.               # below every table
      columns: {C10>C100: {ood_set: CIFAR-100}} # of whichever table has it
      tables:
        T5a:                                    # of recipes/paper/tables.csv
          where: {ID set: CIFAR-10}             # holds for all of its cells
          rows: {Softmax: {scorer: softmax}}
          columns: {C10>SVHN: {ood_set: SVHN}}

A cell is the mean over all lines of the result table that its row and its column both select: docs/paper.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ood_core.errors import OODErrors, suggest
from ood_core.interfaces import PretextTask
from ood_core.plugins import Plugins
from ood_core.recipe.build import RecipeReader
from ood_core.recipe.read import Recipe
from ood_core.recipe.variants import text
from ood_core.recipe.yaml import LocatedValue
from ood_core.records import published
from ood_core.records.plan import Row, deduplicate
from ood_core.records.published import METRICS, Cell, Entry, Label, Line, Table
from ood_core.records.stages import TrainStage

FIELDS = ("variant", "scorer", "case", "id_set", "ood_set", "group")
"""Of a result row, by which lines are selected, besides the axes of the recipe."""

OF_CELL = ("metric", "ood_class", "id_class", "instead")
"""Keys of a selector that select no lines."""


def read(
    recipes: Sequence[Recipe], rows: Sequence[Row], resolved: Mapping[str, Any], plugins: Plugins
) -> tuple[Table, ...]:
    """Return the published tables that a recipe names; `recipes` are its variants and seeds.

    Raises:
        OODErrors: Table, row, column, field or value are unknown.
    """
    reader = RecipeReader(plugins)
    sections = {recipe.variant: _section(recipe, reader) for recipe in recipes}
    exposed = {
        variant
        for variant, section in sections.items()
        if "exposed" in section and reader.value(section["exposed"], bool, "'exposed'", False)
    }
    lines = []
    for row in rows:
        if row.spectrum == "standard":
            seen = row.variant in exposed or _trained_with_ood_labels(row)
            lines.append((row, Line(row.variant, row.case, row.scorer, row.id_set, row.ood_set, seen)))
    known = _KnownValues(recipes, rows, resolved)
    section, everything = next(iter(sections.values())), published.entries()
    remarks = (reader.value(section["remark"], str, "'remark'", ""),) if "remark" in section else ()
    labels = list(dict.fromkeys(entry.column for of in everything.values() for entry in of))
    shared = reader.keys(section["columns"], "'paper.columns'", labels) if "columns" in section else {}
    given = reader.keys(section["tables"], "'paper.tables'", tuple(everything)) if "tables" in section else {}
    found = [
        _TableMapping(reader, known, name, node, shared, remarks).table(lines)
        for name, node in given.items()
        if node.value is not None
    ]
    if reader.errors:
        raise OODErrors(deduplicate(reader.errors))
    return tuple(table for table in found if any(cell.asked for _, cells in table.rows for cell in cells))


def _section(recipe: Recipe, reader: RecipeReader) -> dict[str, LocatedValue]:
    section = recipe.root.value.get("paper") if isinstance(recipe.root.value, dict) else None
    if section is None or section.value is None:
        return {}
    return reader.keys(section, "'paper'", ("exposed", "remark", "columns", "tables"))


def _trained_with_ood_labels(row: Row) -> bool:
    """Return whether a training used labels of classes that measure as OOD in this row."""
    stage: TrainStage | None = row.measure.id_scores.fit.train.base.weights
    outside = set(row.measure.ood_scores.images.opened.classes)
    while stage is not None:
        labels = isinstance(stage.task, PretextTask) and stage.task.uses_labels
        if labels and not stage.id_classes and outside & set(stage.images.opened.classes):
            return True
        stage = stage.start
    return False


class _KnownValues:
    """The values that the fields of result rows have, and might have."""

    def __init__(self, recipes: Sequence[Recipe], rows: Sequence[Row], resolved: Mapping[str, Any]) -> None:
        self.coordinates = {recipe.variant: recipe.coordinates for recipe in recipes}
        kept = [*self.coordinates.values()]
        left_out = [of for recipe in recipes for of in recipe.left_out]
        self.axes = {axis: {of[axis] for of in (*kept, *left_out) if axis in of} for axis in kept[0]}
        self.fields = tuple(dict.fromkeys((*self.axes, *FIELDS)))
        self.whole = all(self.axes[axis] == {of[axis] for of in kept} for axis in self.axes)
        """Whether every value of every axis is there: then an unknown set or scorer is a mistake."""
        absent = {selected["name"] for of in resolved.values() for g in ("near", "far") for selected in of["data"][g]}
        self.values = {name: {str(getattr(row, name)) for row in rows} for name in FIELDS}
        self.values["ood_set"] |= absent

    def of(self, row: Row, name: str) -> str:
        return self.coordinates[row.variant][name] if name in self.axes else str(getattr(row, name))

    def missing(self, name: str, value: str) -> str:
        """Return the mistake of a value of a field, or ""."""
        known = self.axes[name] if name in self.axes else self.values[name]
        if value in known or (name not in self.axes and not self.whole):
            return ""
        return f"no row of the plan has the {name} '{value}'.{suggest(value, known)}"


@dataclass(frozen=True)
class _Selector:
    """The wanted values of each field, and the keys of the cell, of a row or a column."""

    wanted: dict[str, set[str]]
    of_cell: dict[str, str] = field(default_factory=dict)

    def and_(self, other: _Selector) -> _Selector:
        both = {
            name: self.wanted.get(name, values) & other.wanted.get(name, values)
            for name, values in (other.wanted | self.wanted).items()
        }
        return _Selector(both, self.of_cell | other.of_cell)


class _TableMapping:
    """One table of the paper, and the selectors that the recipe gives for its rows and columns."""

    def __init__(
        self,
        reader: RecipeReader,
        known: _KnownValues,
        name: str,
        node: LocatedValue,
        shared: Mapping[str, LocatedValue],
        remarks: tuple[str, ...],
    ) -> None:
        self.reader, self.known, self.name, self.remarks = reader, known, name, remarks
        entries = published.entries()[name]
        self.entries = {(entry.row, entry.column): entry for entry in entries}
        self.row_labels = list(dict.fromkeys(entry.row for entry in entries))
        self.column_labels = list(dict.fromkeys(entry.column for entry in entries))
        given = reader.keys(node, f"table {self.name}", ("where", "rows", "columns"))
        self.where = self._selector(given["where"]) if "where" in given else _Selector({})
        self.rows = self._selectors(self._labelled(given.get("rows"), "row", self.row_labels))
        own = self._labelled(given.get("columns"), "column", self.column_labels)
        shared = {label: of for label, of in shared.items() if label in self.column_labels}
        self.columns = self._selectors({**shared, **own})
        self.footnotes: dict[str, int] = {}

    def _labelled(self, node: LocatedValue | None, what: str, labels: Sequence[str]) -> dict[str, LocatedValue]:
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.reader.wrong(node, f"'{what}s' must be a mapping of the table's {what}s")
            return {}
        for label, entry in node.value.items():
            if label not in labels:
                self.reader.wrong(entry, f"table {self.name} has no {what} '{label}'.{suggest(label, labels)}")
        return {label: entry for label, entry in node.value.items() if label in labels}

    def _selectors(self, nodes: Mapping[str, LocatedValue]) -> dict[str, _Selector]:
        return {label: self._selector(node) for label, node in nodes.items() if node.value is not None}

    def _selector(self, node: LocatedValue) -> _Selector:
        entries = self.reader.keys(node, "a selector", (*self.known.fields, *OF_CELL))
        of_cell = {key: self.reader.value(entries[key], str, f"'{key}'", "") for key in OF_CELL if key in entries}
        if of_cell.get("metric", "auroc") not in METRICS:
            wrong = of_cell["metric"]
            self.reader.wrong(entries["metric"], f"no metric '{wrong}'.{suggest(wrong, METRICS)}")
        return _Selector({key: self._values(key, of) for key, of in entries.items() if key not in OF_CELL}, of_cell)

    def _values(self, name: str, node: LocatedValue) -> set[str]:
        values = {text(item) for item in (node.value if isinstance(node.value, list) else [node])}
        for value in sorted(values):
            if wrong := self.known.missing(name, value):
                self.reader.wrong(node, wrong)
        return values

    def table(self, lines: Sequence[tuple[Row, Line]]) -> Table:
        """Return the table with the lines that belong into its cells."""
        columns = tuple(Label(label, self._notes("", label, self.columns)) for label in self.column_labels)
        rows = []
        for row in self.row_labels:
            label = Label(row, self._notes(row, "", self.rows))
            rows.append((label, tuple(self._cell(row, column, lines) for column in self.column_labels)))
        own = self.where.of_cell.get("instead")
        remarks = (*self.remarks, *self._texts("", ""), *filter(None, [own]))
        return Table(self.name, published.titles()[self.name], columns, tuple(rows), tuple(self.footnotes), remarks)

    def _cell(self, row: str, column: str, lines: Sequence[tuple[Row, Line]]) -> Cell:
        entry = self.entries.get((row, column), Entry())
        notes = self._numbers(self._texts(row, column))
        cell = Cell(entry.value, entry.deviation, entry.seen, notes=notes)
        if row in self.rows and column in self.columns:
            selector = self.where.and_(self.rows[row]).and_(self.columns[column])
            fits = [
                line
                for planned, line in lines
                if all(self.known.of(planned, name) in values for name, values in selector.wanted.items())
            ]
            of_cell: dict[str, Any] = selector.of_cell | {"instead": "instead" in selector.of_cell}
            return replace(cell, asked=True, lines=tuple(dict.fromkeys(fits)), **of_cell)
        mean_of = tuple(self._averaged(row, column))
        return replace(cell, mean_of=mean_of, asked=bool(mean_of))

    def _averaged(self, row: str, column: str) -> list[tuple[int, int]]:
        """Return the cells that one is the average of, in its row or its column; none unless all are asked for."""
        if row in self.rows:
            places = [(row, label) for label in published.averaged(column, self.column_labels)]
        else:
            places = [(label, column) for label in published.averaged(row, self.row_labels)]
        asked = all(one in self.rows and other in self.columns for one, other in places)
        return [(self.row_labels.index(one), self.column_labels.index(other)) for one, other in places if asked]

    def _notes(self, row: str, column: str, selectors: Mapping[str, _Selector]) -> tuple[int, ...]:
        own = selectors.get(row or column, _Selector({})).of_cell.get("instead")
        return self._numbers([*self._texts(row, column), *filter(None, [own])])

    def _texts(self, row: str, column: str) -> list[str]:
        return [note.note for note in published.notes() if note.of == (self.name, row, column)]

    def _numbers(self, notes: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.footnotes.setdefault(note, len(self.footnotes) + 1) for note in notes)

"""Rows for a person: a table that grows batch by batch, so its columns have the widths they begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ood_core.escapes import printable
from ood_score.rows import Columns, Row

NUMBER, CLASS = 11, 20
"""Characters of a number's column, and of the class names' at most."""

PLAIN = 1 << 14
"""Characters of a line that is not shown at a terminal, so that none is broken."""


class Printed:
    """A table on a stream, without the nearest ID images; the names of the ID classes set the width of their column."""

    def __init__(self, stream: TextIO, columns: Columns, classes: Sequence[str]) -> None:
        self.stream, self.columns = stream, columns
        self.class_width = min(max(map(len, (*classes, "predicted"))), CLASS)
        self.console = Console(file=stream, width=None if stream.isatty() else PLAIN, highlight=False, markup=False)
        self.begun = False

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows, the first ones below a header."""
        table = Table(box=None, show_header=not self.begun, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", width=5, no_wrap=True)
        for name in ("score", "threshold", "p_value", *self.columns.scorers):
            table.add_column(name, width=max(NUMBER, len(name)), no_wrap=True, justify="right")
        table.add_column("predicted", width=self.class_width, no_wrap=True, overflow="ellipsis")
        table.add_column("file", overflow="fold")
        for row in rows:
            table.add_row(*self._cells(row))
        with self.console.capture() as captured:
            self.console.print(table)
        self.stream.write("".join(line.rstrip(" ") + "\n" for line in captured.get().splitlines()))
        self.stream.flush()
        self.begun = True

    def _cells(self, row: Row) -> list[Text]:
        if row.error is not None:
            empty = [Text()] * (4 + len(self.columns.scorers))
            return [Text("error", "yellow"), *empty, Text(printable(f"{row.file}: {row.error}"))]
        numbers = (row.score, row.threshold, row.p_value, *(row.scores.get(name) for name in self.columns.scorers))
        return [
            Text("OOD", "bold red") if row.is_ood else Text("ID", "green"),
            *(Text("" if number is None else f"{number:.5g}") for number in numbers),
            Text(printable(row.predicted or "")),
            Text(printable(row.file)),
        ]

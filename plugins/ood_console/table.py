"""Tables on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console as Screen
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ood_core.report.summary import Column


class Output(Screen):
    """Standard output, which somebody may have closed: `ood-run mood | head` must not lose the report."""

    def on_broken_pipe(self) -> None:
        """Send the rest nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(columns: Sequence[Column], lines: Sequence[Any], title: str | None = None) -> Table:
    """Return a table of what the columns say of each line."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", overflow="fold")
    for line in lines:
        table.add_row(*(escape(column.text(line)) for column in columns))
    return table

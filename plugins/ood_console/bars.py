"""The progress bars of stages, which fit a narrow terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

LEAST_BAR = 10
"""Characters of a bar."""

OTHER_COLUMNS = 26
"""Characters of counts, the remaining time and gaps, beside the bar and the name of a stage."""


def stage_bars(screen: Console) -> Progress:
    """Return bars whose tasks have a field `metrics`; that text gives way first, then the name of the stage."""
    bar = max(LEAST_BAR, screen.width // 4)
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(screen.width - bar - OTHER_COLUMNS, LEAST_BAR))
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(bar, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        Metrics(),
        console=screen,
        transient=True,
    )


class Metrics(ProgressColumn):
    """The metrics of the last epoch."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        """Return one line, which rich cuts off where the column is narrower."""
        return Text(task.fields["metrics"], no_wrap=True, overflow="ellipsis")

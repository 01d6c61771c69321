"""The lifecycle hooks that the console listens to; one object for each run, which holds what is on the screen."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console as Screen
from rich.progress import TaskID

from ood_console.bars import stage_bars
from ood_console.forecast import Forecast
from ood_console.table import Output, tables
from ood_core.escapes import printable, to_markup
from ood_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ood_core.records.facts import StageFacts
    from ood_core.records.plan import Plan
    from ood_core.records.report_data import ReportData
    from ood_core.records.stages import Stage

SHOWN = ("train", "extract", "fit")  # the other kinds of stages take milliseconds and come in dozens
LINE_SECONDS = 30.0  # interval between two lines of a training if there is no terminal for a bar
PIPED_WIDTH = 160  # width of the table in characters if there is no terminal


class Console:
    """Progress goes to stderr, the table to stdout."""

    def __init__(self) -> None:
        self._screen = Screen(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._progress = stage_bars(self._screen)
        self._tasks: dict[str, TaskID] = {}
        """The bar of each stage at work, by key."""
        self._stages, self._seeds = 0, 1
        self._numbers: dict[str, int] = {}
        """The place of each stage of a shown kind that has begun, or was stored, by key."""
        self._last_line = time.monotonic()
        self._forecast = Forecast(())

    @hookimpl
    def ood_before_run(self, plan: Plan) -> None:
        self._numbers.clear()
        self._forecast = Forecast(plan.stages)
        self._stages = sum(stage.kind in SHOWN for stage in plan.stages)
        self._seeds = len({row.seed for row in plan.rows})
        self._screen.print(f"[bold]{to_markup(plan.name)}[/]: {len(plan.stages)} stages for {len(plan.rows)} rows")
        self._print_notes(plan.notes)  # before hours of training; those of the report follow at its end
        if self._screen.is_terminal:
            self._progress.start()

    @hookimpl
    def ood_before_stage(self, stage: Stage, stored: bool) -> None:
        if stage.kind in SHOWN:
            self._numbers.setdefault(stage.key, len(self._numbers) + 1)
        if stored:
            self._forecast.discard(stage)
        else:
            self._tasks[stage.key] = self._progress.add_task(self._title(stage), total=None, metrics="")

    @hookimpl
    def ood_on_progress(self, stage: Stage, done: int, total: int) -> None:
        if stage.key in self._tasks:
            self._progress.update(self._tasks[stage.key], completed=done, total=total)
        if line := self._forecast.after_step(stage, done, total):
            self._screen.print(line)

    @hookimpl
    def ood_after_epoch(self, stage: Stage, metrics: Mapping[str, float]) -> None:
        """Show the epoch's metrics beside the bar; without a bar, a line now and then."""
        if stage.key in self._tasks:
            self._progress.update(self._tasks[stage.key], metrics=_metrics(metrics))
        if not self._screen.is_terminal and time.monotonic() - self._last_line > LINE_SECONDS:
            self._screen.print(f"{to_markup(self._title(stage))}  {_metrics(metrics)}")
            self._last_line = time.monotonic()

    @hookimpl
    def ood_after_stage(self, stage: Stage, facts: StageFacts) -> None:
        self._forecast.discard(stage)
        if stage.key not in self._tasks:
            return
        self._progress.remove_task(self._tasks.pop(stage.key))
        if stage.kind in SHOWN:
            self._screen.print(
                f"[green]done[/] {to_markup(self._title(stage))}  {facts['seconds']:.1f} s  {_outcome(stage, facts)}"
            )

    @hookimpl
    def ood_after_run(self) -> None:
        self._progress.stop()

    @hookimpl
    def ood_after_report(self, report: ReportData) -> None:
        self._screen.print(f"{to_markup(report.work)}, {report.seconds:.0f} s")
        self._print_notes(report.notes)
        for variant in report.missing:
            self._screen.print(f"[red]incomplete[/] {to_markup(variant)}")
        output = Output(width=None if sys.stdout.isatty() else PIPED_WIDTH)
        for part in tables(report, output.width):
            output.print(part)

    @hookimpl
    def ood_on_error(self, stage: Stage, error: BaseException) -> None:
        """Print a line; the command line prints the error when all others are done."""
        self._forecast.discard(stage)
        if stage.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(stage.key))
        if not isinstance(error, Exception):
            self._progress.stop()
        word = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        self._screen.print(f"[red]{word}[/] {to_markup(self._title(stage))}")

    def _print_notes(self, notes: Iterable[str]) -> None:
        for note in notes:
            self._screen.print(f"[yellow]note[/] {to_markup(note)}")

    def _title(self, stage: Stage) -> str:
        seed = getattr(stage, "seed", None)
        name = f"{stage}, seed {seed}" if self._seeds > 1 and seed is not None else str(stage)
        number = f"{self._numbers[stage.key]}/{self._stages} " if stage.key in self._numbers else ""
        return printable(number + name)


def _metrics(metrics: Mapping[str, float]) -> str:
    rest = " ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name not in ("epoch", "epochs"))
    return f"epoch {metrics['epoch']}/{metrics['epochs']} {rest}"


def _outcome(stage: Stage, facts: StageFacts) -> str:
    if stage.kind == "train":
        return " ".join(f"{name} {value:.4g}" for name, value in facts["epochs"][-1].items())
    if stage.kind == "extract":
        return f"{facts['images']} images, {facts['images_per_second']:.0f}/s"
    own = {name: value for name, value in facts["fitted"].items() if "." not in name}  # not of scores within
    return " ".join(f"{name} {str(of).lower() if isinstance(of, bool) else of}" for name, of in own.items())

"""The hooks. A plugin package implements any of them in its hooks.py, marked with `hookimpl`.

`plugins/README.md` has a section with an example for every hook; a test fails for a hook without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import pluggy

from ood_core.runtime.plugin_packages import GROUP

if TYPE_CHECKING:
    from ood_core.interfaces import Backbone, DatasetSource, PretextTask, Scorer, Tokenizer
    from ood_core.records.facts import StageFacts
    from ood_core.records.plan import Plan
    from ood_core.records.report_data import ReportData
    from ood_core.records.results import Results
    from ood_core.records.stages import Stage

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def ood_register_backbones() -> Iterable[type[Backbone]]:  # type: ignore[empty-body]
    """Return the backbones of this package."""


@hookspec
def ood_register_pretexts() -> Iterable[type[PretextTask]]:  # type: ignore[empty-body]
    """Return the pretext tasks of this package."""


@hookspec
def ood_register_tokenizers() -> Iterable[type[Tokenizer]]:  # type: ignore[empty-body]
    """Return the tokenizers of this package."""


@hookspec
def ood_register_scorers() -> Iterable[type[Scorer]]:  # type: ignore[empty-body]
    """Return the scorers of this package."""


@hookspec
def ood_register_datasets() -> Iterable[type[DatasetSource]]:  # type: ignore[empty-body]
    """Return the data sources of this package."""


@hookspec
def ood_register_commands() -> Mapping[str, Callable[..., None]]:  # type: ignore[empty-body]
    """Return sub-commands of `ood` by name: functions with typer's annotations.

    The package stands in the entry-point group `ood_commands`. `ood --help` imports all of that group: heavy imports
    belong into the functions.
    """


@hookspec
def ood_before_run(plan: Plan) -> None:
    """Observe that a run begins."""


@hookspec
def ood_before_stage(stage: Stage, stored: bool) -> None:
    """Observe that a stage begins, or that its result is `stored` already and will be reused."""


@hookspec
def ood_on_progress(stage: Stage, done: int, total: int) -> None:
    """Observe that so many of a stage's steps are done; called after every step."""


@hookspec
def ood_after_epoch(stage: Stage, metrics: Mapping[str, float]) -> None:
    """Observe the mean loss and other metrics of an epoch of training."""


@hookspec
def ood_after_stage(stage: Stage, facts: StageFacts) -> None:
    """Observe what a stage recorded: its seconds, and what is particular to its kind; also for a stored one."""


@hookspec
def ood_after_run(plan: Plan, results: Results) -> None:
    """Observe that a run ended, with its results; without rows where nothing could be measured."""


@hookspec
def ood_after_report(report: ReportData) -> None:
    """Observe what the reports of a run, or of several, show, when these are written."""


@hookspec
def ood_on_error(stage: Stage, error: BaseException) -> None:
    """Observe that a stage failed or was interrupted; the error goes on to the command line."""

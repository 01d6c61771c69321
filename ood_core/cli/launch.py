"""From the recipes that a command names to their reports: reads and plans all, then carries out one after another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ood_core import report
from ood_core.cli.echo import echo
from ood_core.cli.options import RUNS, RunOptions
from ood_core.cli.plan_tree import outline
from ood_core.data.open_sources import SourcePool
from ood_core.detector.bundle import save_detector
from ood_core.detector.from_run import build_detector, has_one_network
from ood_core.errors import OODError, OODErrors
from ood_core.escapes import printable
from ood_core.evaluation import TPR
from ood_core.pipeline.dispatch import follow
from ood_core.plan.make import make_plan
from ood_core.plugins import Plugins, find
from ood_core.recipe.read import Recipe, find_recipe, read_recipes
from ood_core.records.plan import Plan
from ood_core.records.results import FailureGroup, Results
from ood_core.run import lock
from ood_core.run.executors import local_executor, places
from ood_core.run.lock import Lock
from ood_core.run.schedule import execute, jobs
from ood_core.runtime import distributed
from ood_core.runtime.run_files import DETECTOR
from ood_core.runtime.shipped import shipped_folder
from ood_core.store.files import DamagedError, DiskFullError, require_utf8, require_writable
from ood_core.store.store import Store

SMOKE = "-smoke"
"""Ends the names of smoke runs and of their folders."""

PIPED_WIDTH = 200
"""Characters of a plan where there is no terminal to fit it into."""


@dataclass(frozen=True)
class PlannedRun:
    """A recipe with its plan, ready to be carried out."""

    recipes: list[Recipe]
    plan: Plan
    folder: Path
    lock: Lock | None
    plugins: Plugins


def plan_runs(names: Sequence[str], options: RunOptions) -> list[PlannedRun]:
    """Plan all recipes, before the first one is carried out.

    Raises:
        OODError: With the mistakes of a recipe, or the differences from a lock.
    """
    paths = [find_recipe(name) for name in names]
    folders = [_report_folder(path, options, len(paths) > 1) for path in paths]
    for folder in folders:
        if folders.count(folder) > 1:
            raise OODError(f"two of the recipes would write into {folder}; run them with an --out of their own")
    plugins, sources = find(), SourcePool()
    planned = []
    for path, folder in zip(paths, folders, strict=True):
        locked = None
        if not lock.is_lock(path):
            recipes = _read_recipes(path, options)
        elif options.overrides or options.only or options.smoke:
            without = "without --set, --only and --smoke; change its recipe instead"
            raise OODError(f"{path.name}: a lock is run as it is, {without}")
        else:
            locked = lock.read(path)
            recipes = locked.recipes
        plan = make_plan(recipes, plugins, sources)
        if locked is not None:
            lock.require_same(locked, plan)
        planned.append(PlannedRun(recipes, plan, folder, locked, plugins))
    return planned


def _read_recipes(path: Path, options: RunOptions) -> list[Recipe]:
    if not options.smoke:
        return read_recipes(path, options.overrides, options.only)
    recipes = read_recipes(path, (*options.overrides, "smoke=true"), options.only)
    return [replace(recipe, name=f"{recipe.name}{SMOKE}") for recipe in recipes]


def _report_folder(path: Path, options: RunOptions, several: bool) -> Path:
    """Return the folder of a recipe's reports: of shipped ones as their folders are, of a lock beside it."""
    out = options.out
    if out is not None and not several:
        return out
    if lock.is_lock(path):
        return (out or path.parent) / "again"
    shipped = shipped_folder().resolve()
    within = path.resolve().relative_to(shipped) if shipped in path.resolve().parents else Path(path.name)
    return (out or RUNS) / within.with_name(within.stem + (SMOKE if options.smoke else ""))


def show_plans(runs: Sequence[PlannedRun], options: RunOptions) -> None:
    """Print the plans as trees."""
    store = Store(options.store)
    for planned in runs:
        planned.plan.check()
        at_once, _ = places(jobs(planned.plan, store), options.jobs)
        width = None if sys.stdout.isatty() else PIPED_WIDTH
        Console(highlight=False, width=width).print(outline(planned.plan, store, at_once))


def execute_runs(runs: Sequence[PlannedRun], options: RunOptions) -> int:
    """Carry out all, write their reports, and return the exit code: 1 if anything failed."""
    distributed.init()
    store = Store(options.store)
    if distributed.rank() > 0:
        for planned in runs:
            follow(planned.plan.stages, store)
        distributed.shutdown()
        return 0
    require_utf8(options.store, "--store")
    require_writable(options.store, "--store")
    for planned in runs:
        require_utf8(planned.folder, "--out")
        require_writable(planned.folder, "--out")
        if jobs(planned.plan, store):
            planned.plan.check()
        report.prepare(planned.folder)
    store.prepare()
    code = max([_execute_run(planned, store, options.jobs, len(runs) > 1) for planned in runs])
    distributed.shutdown()
    return code


def _execute_run(planned: PlannedRun, store: Store, most_jobs: int | None, go_on: bool) -> int:
    """Carry out one recipe; a mistake is printed here if others are to go on."""
    plan, folder, locked, hooks = planned.plan, planned.folder, planned.lock, planned.plugins.hook
    try:
        threads = {} if locked is None else locked.threads
        results = execute(plan, store, hooks, local_executor(plan, store, hooks, jobs(plan, store), most_jobs, threads))
        tracebacks = report.write_failures(results, folder)
        _require_rows(results, tracebacks)
    except OODError as error:
        if not go_on or isinstance(error, DiskFullError):
            raise
        echo(*f"{printable(plan.name)}: {error}".split("\n"), err=True)
        return 2
    found = report.write(plan, results, store, folder)
    lock.write(plan, planned.recipes, results, folder)
    hooks.ood_after_report(report=found)
    for group, row in zip(results.failure_groups, found.failures, strict=True):
        variants = f" ({'; '.join(row.variants)})" if len(plan.coordinates) > 1 else ""
        echo(f"failed{printable(variants)}: {_line(group, tracebacks)}", err=True)
    same = True
    if locked is not None:
        same, verdict = lock.verdict(locked, results)
        echo(*lock.notes(locked), verdict)
    echo(f"report: {folder / 'report.html'}")
    _save_detector(planned, store)
    return 0 if same and not results.failures else 1


def _require_rows(results: Results, tracebacks: Path) -> None:
    """Raise OODErrors with all failures if nothing was measured; a fault of the core itself as it is."""
    if not results.rows:
        for failure in results.failures:
            if not isinstance(failure.error, OODError):
                raise failure.error
        raise OODErrors(OODError(_line(group, tracebacks)) for group in results.failure_groups)


def _line(group: FailureGroup, tracebacks: Path) -> str:
    return f"{group.message}; traceback: {tracebacks}" if group.traceback else group.message


def _save_detector(planned: PlannedRun, store: Store) -> None:
    """Write the detector of a run of one network, and print its folder; of several networks one is to be chosen."""
    if not has_one_network(planned.plan):
        echo(f"detector: `ood detector {planned.folder} --variant NAME` makes that of one network")
        return
    try:
        state = build_detector(planned.plan, store)
        save_detector(state, planned.folder / DETECTOR, planned.plugins)
        low = f", which accepts {state.tpr:.1%} of ID images: it has few to calibrate by" if state.tpr < TPR else ""
        echo(f"detector: {planned.folder / DETECTOR}{low}")
    except (DamagedError, DiskFullError):
        raise
    except OODError as error:
        echo(f"no detector: {error}", err=True)

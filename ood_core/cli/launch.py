"""From the recipes that a command names to their reports: reads, plans, carries out and files, one after another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from ood_core import report
from ood_core.cli.plan_tree import outline
from ood_core.detector.bundle import save_detector
from ood_core.detector.detector import DETECTOR
from ood_core.detector.from_run import build_detector, has_one_network
from ood_core.errors import OODError
from ood_core.pipeline.dispatch import follow
from ood_core.plan.make import make_plan
from ood_core.plugins import Plugins, find
from ood_core.recipe.read import Recipe, find_recipe, read_recipes
from ood_core.records.plan import Plan
from ood_core.run import lock
from ood_core.run.executors import local_executor, places
from ood_core.run.lock import Lock
from ood_core.run.schedule import jobs, run
from ood_core.runtime import distributed
from ood_core.runtime.shipped import shipped_folder
from ood_core.store.files import DamagedError, require_writable
from ood_core.store.store import Store

PIPED_WIDTH = 200
"""Characters of a plan where there is no terminal to fit it into."""


@dataclass(frozen=True)
class Wanted:
    """The options of a command.

    Attributes:
        overrides: Of --set.
        only: Of --only.
        out: Folder for the reports, of several recipes one within it; None is `runs`.
        store: The folder of finished stages.
        jobs: How many side by side; None leaves it to the machine.
    """

    overrides: tuple[str, ...]
    only: tuple[str, ...]
    out: Path | None
    store: Path
    jobs: int | None


@dataclass(frozen=True)
class Prepared:
    """A recipe that can be carried out."""

    recipes: list[Recipe]
    plan: Plan
    folder: Path
    lock: Lock | None
    plugins: Plugins


def prepare(names: Sequence[str], wanted: Wanted) -> list[Prepared]:
    """Plan all recipes, before the first one is carried out.

    Raises:
        OODError: With the mistakes of a recipe, or what differs from a lock.
    """
    paths = [find_recipe(name) for name in names]
    folders = [_folder(path, wanted, len(paths) > 1) for path in paths]
    for folder in folders:
        if folders.count(folder) > 1:
            raise OODError(f"two of the recipes would write into {folder}; run them with an --out of their own")
    return [_prepared(path, folder, wanted) for path, folder in zip(paths, folders, strict=True)]


def show(prepared: Sequence[Prepared], wanted: Wanted) -> None:
    """Print the plans as trees."""
    store = Store(wanted.store)
    for one in prepared:
        one.plan.check()
        at_once, _ = places(jobs(one.plan, store), wanted.jobs)
        width = None if sys.stdout.isatty() else PIPED_WIDTH
        Console(highlight=False, width=width).print(outline(one.plan, store, at_once))


def carry_out(prepared: Sequence[Prepared], wanted: Wanted) -> int:
    """Carry out all, write their reports, and return the exit code: 1 if anything failed."""
    distributed.init()
    store = Store(wanted.store)
    if distributed.rank() > 0:
        for one in prepared:
            follow(one.plan.stages, store)
        distributed.shutdown()
        return 0
    require_writable(wanted.store, "--store")
    for one in prepared:
        require_writable(one.folder, "--out")
        if jobs(one.plan, store):
            one.plan.check()
        report.prepare(one.folder)
    store.prepare()
    code = max([_one(one, store, wanted, len(prepared) > 1) for one in prepared])
    distributed.shutdown()
    return code


def _prepared(path: Path, folder: Path, wanted: Wanted) -> Prepared:
    plugins = find()
    if not lock.is_lock(path):
        recipes = read_recipes(path, wanted.overrides, wanted.only)
        return Prepared(recipes, make_plan(recipes, plugins), folder, None, plugins)
    if wanted.overrides or wanted.only:
        raise OODError(f"{path.name}: a lock is run as it is, without --set and --only; change its recipe instead")
    locked = lock.read(path)
    made = make_plan(locked.recipes, plugins)
    lock.require_same(locked, made)
    return Prepared(locked.recipes, made, folder, locked, plugins)


def _folder(path: Path, wanted: Wanted, several: bool) -> Path:
    """Return where the reports of a recipe go: of shipped ones as their folders are, of a lock beside it."""
    if wanted.out is not None and not several:
        return wanted.out
    if lock.is_lock(path):
        return (wanted.out or path.parent) / "again"
    shipped = shipped_folder().resolve()
    within = path.resolve().relative_to(shipped) if shipped in path.resolve().parents else Path(path.name)
    return (wanted.out or Path("runs")) / within.with_suffix("")


def _make_detector(one: Prepared, store: Store) -> None:
    """Write the detector of a run of one network, and say where; of several networks one is to be chosen."""
    if not has_one_network(one.plan):
        typer.echo(f"detector: `ood detector {one.folder} --variant NAME` makes that of one network")
        return
    try:
        save_detector(build_detector(one.plan, store), one.folder / DETECTOR, one.plugins)
    except DamagedError:
        raise
    except OODError as error:
        typer.echo(f"no detector: {error}", err=True)
        return
    typer.echo(f"detector: {one.folder / DETECTOR}")


def _one(one: Prepared, store: Store, wanted: Wanted, go_on: bool) -> int:
    """Carry out one recipe; a mistake is told here if others are to go on."""
    threads = {} if one.lock is None else one.lock.threads
    try:
        hooks = one.plugins.hook
        executor = local_executor(one.plan, store, hooks, jobs(one.plan, store), wanted.jobs, threads)
        results = run(one.plan, store, hooks, executor)
    except OODError as error:
        if not go_on:
            raise
        typer.echo(f"{one.plan.name}: {error}", err=True)
        return 2
    found = report.write(one.plan, results, store, one.folder)
    lock.write(one.plan, one.recipes, results, one.folder)
    one.plugins.hook.ood_after_report(report=found)
    for failure, of in zip(results.failures, found.failures, strict=True):
        whose = f" ({'; '.join(of.variants)})" if len(one.plan.coordinates) > 1 else ""
        lines = [f"failed{whose}: {failure.message}", *getattr(failure.error, "__notes__", [])]
        typer.echo("\n".join(lines), err=True)
    same = True
    if one.lock is not None:
        same, verdict = lock.verdict(one.lock, results)
        typer.echo("\n".join([*lock.notes(one.lock), verdict]))
    typer.echo(f"report: {one.folder / 'report.html'}")
    _make_detector(one, store)
    return 0 if same and not results.failures else 1

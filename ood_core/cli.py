"""The command line: `ood-run RECIPE`. Heavy imports wait until a run needs them, so that `--help` is quick."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ood_core.plugins import Plugins
    from ood_core.recipe import Recipe
    from ood_core.stages import Plan
    from ood_core.store import Store

STORE = "OOD_STORE"
"""Environment variable: the store's folder where --store is not given."""

SECOND_TO_SPEAK = 5.0
"""Seconds that other processes leave to the first one to say what is wrong."""

_application = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def run() -> None:
    """Run the command line; exits 2 after a mistake of the user, which is printed without traceback."""
    from ood_core.errors import OODError  # light, but nothing that --help needs

    try:
        _application()
    except OODError as error:
        typer.echo(_told_once(str(error)), err=True)
        raise SystemExit(2) from None


def _told_once(message: str) -> str:
    """Return the message; in a process that is not the first, after it had time to say the same and end them all."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        return message
    time.sleep(SECOND_TO_SPEAK)
    return f"process {rank}: {message}"


@_application.command(no_args_is_help=True)
def _command(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE...", help="A recipe file, or the name of a shipped one, as mood."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a value of the recipe.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUE,...", help="Keep the variants with these values of an axis; `variant=NAME` of a list."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings and extractions side by side; by default one for each GPU, or each core."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the reports, of several recipes one within it; runs/RECIPE unless given."),
    ] = None,
    store: Annotated[
        Path, typer.Option(envvar=STORE, help="Folder where finished stages are kept and found again.")
    ] = Path("runs/store"),
    plan: Annotated[bool, typer.Option("--plan", help="Check the recipe, show its stages, run nothing.")] = False,
    plugins: Annotated[bool, typer.Option("--plugins", help="List the installed plugins.")] = False,
    scorers: Annotated[
        bool, typer.Option("--scorers", help="List the installed scorers: formula, needs, costs, source (Markdown).")
    ] = False,
    datasets: Annotated[
        bool, typer.Option("--datasets", help="List the data sources, and the published sets by name (Markdown).")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Train, extract, score and report, as a recipe says; whatever is in the store is not done again."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"ood-run {installed('ood-framework')}")
    elif plugins:
        _list_plugins()
    elif scorers:
        _list_scorers()
    elif datasets:
        _list_datasets()
    elif not recipes:
        raise typer.BadParameter("name a recipe, --plugins, --scorers or --datasets", param_hint="RECIPE")
    else:
        wanted = _Wanted(tuple(overrides or ()), tuple(only or ()), out, store, jobs)
        try:
            raise typer.Exit(_run(recipes, wanted, plan))
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from here", err=True)
            raise typer.Exit(130) from None


@dataclass(frozen=True)
class _Wanted:
    """The options of a run."""

    overrides: tuple[str, ...]
    only: tuple[str, ...]
    out: Path | None
    store: Path
    jobs: int | None

    def folder(self, recipe: Path, several: bool) -> Path:
        """Return where the reports of a recipe go; of shipped ones as their folders are."""
        from ood_core.recipe import shipped_folder

        shipped = shipped_folder().resolve() in recipe.resolve().parents
        name = recipe.resolve().relative_to(shipped_folder().resolve()) if shipped else Path(recipe.name)
        if self.out is not None and not several:
            return self.out
        return (self.out or Path("runs")) / name.with_suffix("")


def _run(names: list[str], wanted: _Wanted, only_plan: bool) -> int:
    """Plan all recipes, then carry out one after another; return the exit code."""
    from ood_core import plan, recipe  # the plan imports torch and all plugins
    from ood_core.plugins import find

    paths = [recipe.find(name) for name in names]
    read = [recipe.read(path, wanted.overrides, wanted.only) for path in paths]
    plans = [plan.make(recipes, find()) for recipes in read]
    from ood_core.store import Store, require_writable

    store = Store(wanted.store)
    if only_plan:
        for made in plans:
            made.check()
            _show(made, store, wanted)
        return 0
    from ood_core import processes, report

    processes.join()
    if processes.rank() > 0:
        _follow(plans, store)
        return 0
    require_writable(wanted.store, "--store")
    folders = [wanted.folder(path, len(plans) > 1) for path in paths]
    for made, folder in zip(plans, folders, strict=True):
        require_writable(folder, "--out")
        _check(made, store)
        report.prepare(folder)
    runs = zip(read, plans, folders, strict=True)
    code = max(_carry_out(recipes, made, folder, wanted, len(plans) > 1) for recipes, made, folder in runs)
    processes.leave()
    return code


def _check(made: Plan, store: Store) -> None:
    from ood_core.run import missing

    if missing(made, store):
        made.check()


def _carry_out(recipes: list[Recipe], made: Plan, folder: Path, wanted: _Wanted, go_on: bool) -> int:
    """Run one plan and write its reports; a mistake is told here if others are to go on."""
    from ood_core import report
    from ood_core.errors import OODError
    from ood_core.executor import local
    from ood_core.run import jobs
    from ood_core.run import run as carry_out
    from ood_core.store import Store

    store = Store(wanted.store)
    try:
        results = carry_out(made, store, local(recipes, made, store, jobs(made, store), wanted.jobs))
    except OODError as error:
        if not go_on:
            raise
        typer.echo(f"{made.name}: {error}", err=True)
        return 2
    report.write(made, results, store, folder)
    for failure in results.failures:
        typer.echo(f"failed: {failure.message}", err=True)
        typer.echo("".join(getattr(failure.error, "__notes__", [])), err=True, nl=False)
    typer.echo(f"report: {os.path.relpath(folder / 'report.html')}")
    return 1 if results.failures else 0


def _follow(plans: list[Plan], store: Store) -> None:
    from ood_core import processes
    from ood_core.run import follow

    for made in plans:
        follow(made, store)
    processes.leave()


def _show(plan: Plan, store: Store, wanted: _Wanted) -> None:
    from rich.console import Console

    from ood_core.executor import places
    from ood_core.outline import outline
    from ood_core.run import jobs

    at_once, _ = places(jobs(plan, store), wanted.jobs)
    Console(highlight=False, soft_wrap=True).print(outline(plan, store, at_once))


def _list_plugins() -> None:
    from ood_core.catalog import first_line
    from ood_core.plugins import find

    found = find()
    for package in found.packages:
        typer.echo(str(package))
        for (kind, name), registered in sorted(found.registered.items()):
            if registered.package == package:
                typer.echo(f"    {kind:9} {name:20} {first_line(registered.cls)}")
    _show_disabled(found)


def _list_scorers() -> None:
    from ood_core.catalog import table
    from ood_core.plugins import find

    typer.echo(table(find()), nl=False)


def _list_datasets() -> None:
    from ood_core.catalog import datasets_table
    from ood_core.plugins import find

    typer.echo(datasets_table(find()), nl=False)


def _show_disabled(found: Plugins) -> None:
    from ood_core.plugins import DISABLE

    if disabled := os.environ.get(DISABLE):
        typer.echo(f"left out by {DISABLE}: {disabled}")

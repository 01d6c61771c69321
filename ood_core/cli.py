"""The command line: `ood-run RECIPE`. Heavy imports wait until a run needs them, so that `--help` is quick."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ood_core.plugins import Plugins
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
    recipe: Annotated[str | None, typer.Argument(help="A recipe file, or the name of a shipped one, as mood.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a value of the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the reports; runs/RECIPE unless given.")] = None,
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
    elif recipe is None:
        raise typer.BadParameter("name a recipe, --plugins, --scorers or --datasets", param_hint="RECIPE")
    else:
        try:
            _run(recipe, overrides or [], out, store, plan)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from here", err=True)
            raise typer.Exit(130) from None


def _run(name: str, overrides: list[str], out: Path | None, root: Path, only_plan: bool) -> None:
    from ood_core import plan, recipe  # the plan imports torch and all plugins
    from ood_core.plugins import find

    recipes = recipe.read(recipe.find(name), overrides)
    made = plan.make(recipes, find())
    from ood_core.store import Store, require_writable

    store, folder = Store(root), out or Path("runs") / made.name
    if only_plan:
        made.check()
        _show(made, store)
        return
    from ood_core import processes

    processes.join()
    if processes.rank() > 0:
        _follow(made, store)
        return
    require_writable(root, "--store")
    require_writable(folder, "--out")
    from ood_core import report
    from ood_core.run import missing
    from ood_core.run import run as carry_out

    if missing(made, store):
        made.check()
    report.prepare(folder)
    results = carry_out(made, store)
    report.write(made, results, store, folder)
    processes.leave()
    typer.echo(f"report: {os.path.relpath(folder / 'report.md')}")


def _follow(plan: Plan, store: Store) -> None:
    from ood_core import processes
    from ood_core.run import follow

    follow(plan, store)
    processes.leave()


def _show(plan: Plan, store: Store) -> None:
    stages = plan.stages
    for stage in stages:
        state = "stored" if store.facts(stage) is not None else "to do"
        typer.echo(f"{state:6}  {stage.key[:8]}  {stage}")
    to_do = sum(store.facts(stage) is None for stage in stages)
    for note in plan.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{plan.name}: {len(plan.rows)} rows, {len(stages)} stages, {to_do} to do")


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

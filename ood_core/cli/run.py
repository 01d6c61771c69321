"""The command line: `ood-run RECIPE`. Heavy imports wait until a run needs them, so that `--help` is quick."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ood_core.plugins import Plugins

STORE = "OOD_STORE"
"""Environment variable: the store's folder where --store is not given."""

RUNS_STORE = Path("runs/store")
"""Where the store is if nothing says otherwise."""

SECOND_TO_SPEAK = 5.0
"""Seconds that other processes leave to the first one to say what is wrong."""

_application = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line."""
    call(_application)


def call(application: Callable[[], None]) -> None:
    """Run a command line; exits 2 after a mistake of the user, which is printed without traceback."""
    from ood_core.errors import OODError  # light, but nothing that --help needs

    try:
        application()
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
def command(
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
    ] = RUNS_STORE,
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
        _launch(recipes, plan, overrides or (), only or (), out, store, jobs)


def _launch(
    recipes: list[str],
    only_plan: bool,
    overrides: Sequence[str],
    only: Sequence[str],
    out: Path | None,
    store: Path,
    jobs: int | None,
) -> None:
    from ood_core.cli import launch  # torch and all that is installed

    wanted = launch.Wanted(tuple(overrides), tuple(only), out, store, jobs)
    try:
        prepared = launch.prepare(recipes, wanted)
        if only_plan:
            launch.show(prepared, wanted)
        else:
            raise typer.Exit(launch.carry_out(prepared, wanted))
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None


def _list_plugins() -> None:
    from ood_core.cli.catalogue import first_line
    from ood_core.plugins import find

    found = find()
    for package in found.packages:
        typer.echo(str(package))
        for (kind, name), registered in sorted(found.registered.items()):
            if registered.package == package:
                typer.echo(f"    {kind:9} {name:20} {first_line(registered.cls)}")
    _show_disabled(found)


def _list_scorers() -> None:
    from ood_core.cli.catalogue import table
    from ood_core.plugins import find

    typer.echo(table(find()), nl=False)


def _list_datasets() -> None:
    from ood_core.cli.catalogue import datasets_table
    from ood_core.plugins import find

    typer.echo(datasets_table(find()), nl=False)


def _show_disabled(found: Plugins) -> None:
    from ood_core.plugins import DISABLE

    if disabled := os.environ.get(DISABLE):
        typer.echo(f"left out by {DISABLE}: {disabled}")

"""`ood run`, `ood plan`, and their short form `ood-run`. Heavy imports wait until a run needs them."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from ood_core.cli import catalogue
from ood_core.cli.echo import LineFormatter, echo
from ood_core.cli.options import STORE, Jobs, Only, Out, Overrides, Recipes, RunOptions, Smoke, StoreFolder

SECONDS_FOR_RANK_0 = 5.0
"""Seconds that other processes leave to the first one to report a mistake, before they do."""

_application = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line `ood-run`."""
    call(_application)


def call(application: Callable[[], None]) -> None:
    """Run a command line; exits 2 after a mistake of the user or on a full disk, printed without traceback."""
    from ood_core.errors import OODError  # light, but nothing that --help needs
    from ood_core.runtime.openmp import limit_spinning
    from ood_core.runtime.plugin_errors import RAISED, named, plugin_of

    limit_spinning()
    if logging.lastResort is not None:  # the handler of warnings where logging is not configured
        logging.lastResort.setFormatter(LineFormatter())
    try:
        application()
    except RAISED as error:
        if not isinstance(error, OODError) and plugin_of(error) is None:
            echo(_describe_file_error(error), err=True)
            raise SystemExit(2) from None
        line = (str(error) if isinstance(error, OODError) else named(error)) + _traceback_file(error)
        rank = os.environ.get("RANK", "0")
        if rank != "0":  # the first process says the same, and its end stops the others
            time.sleep(SECONDS_FOR_RANK_0)
        echo(*(line if rank == "0" else f"process {rank}: {line}").split("\n"), err=True)
        raise SystemExit(2) from None


def _describe_file_error(error: BaseException) -> str:
    """Return the line for a full disk or a name too long for a file; raise any other error again."""
    from ood_core.errors import FULL_DISK, abridge

    if not isinstance(error, OSError):
        raise error
    if error.errno == errno.ENAMETOOLONG:  # any name of a run, folder or file may be
        return f"{abridge(str(error.filename))}: {error.strerror}"
    if error.errno not in FULL_DISK:
        raise error
    try:
        sys.stdout.flush()
    except OSError:  # which Python would raise again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"{error.filename or 'stdout'}: cannot be written, the disk is full: {error.strerror}"


def _traceback_file(error: BaseException) -> str:
    """Write the tracebacks of plugins into the folder of the cache; return the end of the line that names the file."""
    from ood_core.errors import OODError, OODErrors
    from ood_core.runtime.plugin_errors import PluginError, full_traceback

    errors = error.errors if isinstance(error, OODErrors) else (error,)
    texts = [full_traceback(one) for one in errors if isinstance(one, PluginError) or not isinstance(one, OODError)]
    if not texts:
        return ""
    from ood_core.data.cache import folder

    try:
        if (cache := folder()) is None:
            return ""
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / "traceback.txt"
        path.write_text("\n".join(texts), encoding="utf-8", errors="backslashreplace")
        return f"; traceback: {path}"
    except OSError:  # the line itself is more important
        return ""


def run(
    recipes: Recipes,
    overrides: Overrides = None,
    only: Only = None,
    jobs: Jobs = None,
    out: Out = None,
    store: StoreFolder = STORE,
    smoke: Smoke = False,
) -> None:
    """Train, extract, score and report as a recipe says; finished stages are reused."""
    _launch(recipes, False, RunOptions(tuple(overrides or ()), tuple(only or ()), out, store, jobs, smoke))


def plan(
    recipes: Recipes,
    overrides: Overrides = None,
    only: Only = None,
    jobs: Jobs = None,
    store: StoreFolder = STORE,
    smoke: Smoke = False,
) -> None:
    """Check a recipe and show its stages, which of them are stored, and what the others will cost. Runs nothing."""
    _launch(recipes, True, RunOptions(tuple(overrides or ()), tuple(only or ()), None, store, jobs, smoke))


@_application.command(no_args_is_help=True)
def ood_run(
    recipes: Recipes = [],  # noqa: B006 - typer's default of an argument that may be missing
    overrides: Overrides = None,
    only: Only = None,
    jobs: Jobs = None,
    out: Out = None,
    store: StoreFolder = STORE,
    smoke: Smoke = False,
    plan: Annotated[bool, typer.Option("--plan", help="As `ood plan`: show the stages, run nothing.")] = False,
    plugins: Annotated[bool, typer.Option("--plugins", help="As `ood list plugins`.")] = False,
    scorers: Annotated[bool, typer.Option("--scorers", help="As `ood list scorers`; Markdown in a pipe.")] = False,
    datasets: Annotated[bool, typer.Option("--datasets", help="As `ood list datasets`; Markdown in a pipe.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Train, extract, score and report as a recipe says; finished stages are reused. Short form of `ood run`."""
    if version:
        show_version()
    elif plugins:
        catalogue.list_plugins()
    elif scorers or datasets:
        catalogue.list_in_full("scorers" if scorers else "datasets")
    elif not recipes:
        raise typer.BadParameter("name a recipe, --plugins, --scorers or --datasets", param_hint="RECIPE")
    else:
        _launch(recipes, plan, RunOptions(tuple(overrides or ()), tuple(only or ()), out, store, jobs, smoke))


def show_version() -> None:
    """Print the version of the distribution."""
    import ood_core

    echo(f"ood-framework {ood_core.__version__}")


def _launch(recipes: list[str], only_plan: bool, options: RunOptions) -> None:
    from ood_core.cli import launch  # torch and all that is installed

    try:
        planned = launch.plan_runs(recipes, options)
        if only_plan:
            launch.show_plans(planned, options)
        else:
            raise typer.Exit(launch.execute_runs(planned, options))
    except KeyboardInterrupt:
        echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None

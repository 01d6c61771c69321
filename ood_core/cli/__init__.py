"""The command line `ood`, a module for each sub-command of the core; packages register others. Heavy imports wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from ood_core.cli import catalogue, detector, report, run
from ood_core.errors import OODError
from ood_core.plugins import find_commands

_CORE: dict[str, Callable[..., None]] = {
    "run": run.run,
    "plan": run.plan,
    "list": catalogue.list_installed,
    "show": catalogue.show,
    "copy": catalogue.copy_recipe,
    "report": report.command,
    "detector": detector.command,
}


def main() -> None:
    """Run the command line; exits 2 after a mistake of the user, which is printed without traceback."""
    run.call(lambda: _application()())


def _application() -> typer.Typer:
    application = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, no_args_is_help=True)
    application.callback(invoke_without_command=True)(_ood)
    commands = find_commands()
    for name in sorted(_CORE.keys() & commands.keys()):
        raise OODError(f"a plugin registers the command '{name}', which the core has")
    for name, command in (_CORE | commands).items():
        application.command(name, no_args_is_help=True)(command)
    return application


def _ood(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Out-of-distribution detection: recipes, reports, detectors, new images."""
    if version:
        run.show_version()

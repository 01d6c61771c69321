"""The command line `ood`, a module for each sub-command of the core; packages register others. Heavy imports wait."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ood_core.cli import detector, report, run
from ood_core.errors import OODError
from ood_core.plugins import find_commands

_CORE: dict[str, Callable[..., None]] = {"run": run.command, "report": report.command, "detector": detector.command}


def main() -> None:
    """Run the command line; exits 2 after a mistake of the user, which is printed without traceback."""
    application = typer.Typer(
        add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True
    )
    application.callback()(_ood)
    run.call(lambda: _register(application)())


def _register(application: typer.Typer) -> typer.Typer:
    commands = find_commands()
    for name in _CORE.keys() & commands:
        raise OODError(f"a plugin registers the command '{name}', which is of the core")
    for name, command in (_CORE | commands).items():
        application.command(name, no_args_is_help=True)(command)
    return application


def _ood() -> None:
    """Out-of-distribution detection: runs and their reports, fitted detectors and new images."""

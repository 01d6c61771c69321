"""The command line `ood`: everything that has a sub-command, each in a module of its own. Heavy imports wait."""

from __future__ import annotations

import typer

from ood_core.cli import detector, report
from ood_core.cli import run as cli
from ood_drift import command
from ood_export import command as export
from ood_score import command as score
from ood_serve import command as serve

_application = typer.Typer(
    add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True
)
_application.command("run", no_args_is_help=True)(cli.command)
_application.command("report", no_args_is_help=True)(report.command)
_application.command("detector", no_args_is_help=True)(detector.command)
_application.command("drift", no_args_is_help=True)(command.command)
_application.command("export", no_args_is_help=True)(export.command)
_application.command("serve", no_args_is_help=True)(serve.command)
_application.command("score", no_args_is_help=True)(score.command)


def main() -> None:
    """Run the command line; exits 2 after a mistake of the user, which is printed without traceback."""
    cli.call(_application)


@_application.callback()
def _ood() -> None:
    """Out-of-distribution detection: runs and their reports, fitted detectors and new images."""

"""The command line `ood`: everything that has a sub-command. Heavy imports wait, as in `cli`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ood_core import cli

RUNS = Path("runs")
"""Where runs lie that are named without their folder."""

_application = typer.Typer(
    add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True
)
_application.command("run", no_args_is_help=True)(cli.command)


def run() -> None:
    """Run the command line; exits 2 after a mistake of the user, which is printed without traceback."""
    cli.call(_application)


@_application.callback()
def _ood() -> None:
    """Out-of-distribution detection: runs, and reports of runs."""


@_application.command("report", no_args_is_help=True)
def _report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="The folder of a run, or its name below `runs/`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = RUNS / "report",
    baseline: Annotated[
        str | None,
        typer.Option(metavar="VARIANT", help="What all others are compared with; that of the first run unless given."),
    ] = None,
) -> None:
    """Make one report of runs that are done, and compare them."""
    from ood_core import report
    from ood_core.errors import OODError
    from ood_core.plugins import find
    from ood_core.report import filed, merge

    folders = [_folder(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise OODError("a run is named twice")
    if len(folders) > 1 and out.resolve() in {folder.resolve() for folder in folders}:
        raise OODError(f"--out {out}: is one of the runs; name another folder for the report of all")
    loaded = [
        merge.Run(name, folder, filed.load(folder)) for name, folder in zip(merge.named(folders), folders, strict=True)
    ]
    merged = merge.merge(loaded, baseline)
    report.prepare(out)
    merge.copy_files(loaded, out)
    report.write_findings(merged, out)
    find().hook.ood_after_report(findings=merged)
    typer.echo(f"report: {os.path.relpath(out / 'report.html')}")


def _folder(run: str) -> Path:
    """Return the folder of a run.

    Raises:
        OODError: There is none of this name.
    """
    from ood_core.errors import OODError, suggest
    from ood_core.report.filed import DOCUMENT

    for folder in (Path(run), RUNS / run):
        if folder.is_dir():
            return folder
    known = [file.parent.relative_to(RUNS).as_posix() for file in RUNS.rglob(DOCUMENT)]
    raise OODError(f"no run '{run}', neither a folder nor below {RUNS}/.{suggest(run, known)}")

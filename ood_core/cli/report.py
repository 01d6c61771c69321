"""`ood report`: one report of several runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ood_core.cli.echo import echo
from ood_core.cli.options import RUNS, RunNames
from ood_core.cli.runs import run_folder


def command(
    runs: RunNames,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = RUNS / "report",
    baseline: Annotated[
        str | None,
        typer.Option(metavar="VARIANT", help="Compare all others with it. [default: that of the first run]"),
    ] = None,
) -> None:
    """Make one report of finished runs, and compare them."""
    from ood_core import report
    from ood_core.errors import OODError
    from ood_core.plugins import find
    from ood_core.report.content import merge
    from ood_core.report.formats.run_folder import load

    folders = [run_folder(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise OODError("a run is named twice")
    if len(folders) > 1 and out.resolve() in {folder.resolve() for folder in folders}:
        raise OODError(f"--out {out}: is one of the runs; name another folder for the report of all")
    names = merge.unique_names(folders)
    loaded = [merge.Run(name, folder, load(folder)) for name, folder in zip(names, folders, strict=True)]
    merged = merge.merge(loaded, baseline)
    report.prepare(out)
    merge.copy_files(loaded, out)
    report.write_files(merged, out)
    find().hook.ood_after_report(report=merged)
    echo(f"report: {os.path.relpath(out / 'report.html')}")

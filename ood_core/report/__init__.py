"""Writes the reports of a run: page, Markdown, LaTeX and CSV, and the files that hold their content.

`collect` takes the content from the plan, the results and the store; everything else is rendered from it alone, so that
`ood report` does the same with the files of several runs. docs/report.md describes the files.
"""

from __future__ import annotations

from pathlib import Path

from ood_core.errors import OODError, listed
from ood_core.records.plan import Plan
from ood_core.records.report_data import ReportData
from ood_core.records.results import ResultRow, Results
from ood_core.report.content.collect import FAILURES, PICTURES, collect
from ood_core.report.content.gallery import FOLDER as GALLERY
from ood_core.report.content.published import tables
from ood_core.report.content.summary_rows import summarise
from ood_core.report.formats import csv_tables, latex, markdown, page, run_folder
from ood_core.runtime.run_files import DOCUMENT, LOCK
from ood_core.store.files import write_text, writing
from ood_core.store.store import Store

REPORTS = ("report.md", "report.html", "report.tex", "report.csv", "summary.csv")
"""Rendered files, beside those of `run_folder.save`."""

PUBLISHED = "published.csv"
"""Only for recipes that name published tables."""


def prepare(folder: Path) -> None:
    """Make the folder for the reports before the run, not after hours of it.

    Raises:
        OODError: It cannot be made or written into, or holds files of these names and no run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_own(folder)
        for name in (*REPORTS, PUBLISHED, FAILURES, *run_folder.FILES):
            if (folder / name).is_dir():
                raise OODError(f"--out {folder}: {name} is a folder there")
        write_text(folder / ".probe", "")
        (folder / ".probe").unlink()
    except OSError as error:
        raise OODError(f"--out {folder}: cannot be written into: {error.strerror}") from None


def _require_own(folder: Path) -> None:
    """Raise OODError if reports would replace files that no run has written; a killed one has left its pictures."""
    if not any((folder / name).exists() for name in (DOCUMENT, LOCK, GALLERY, PICTURES)):
        files = (*REPORTS, PUBLISHED, FAILURES, *run_folder.FILES)
        if found := [name for name in files if (folder / name).is_file()]:
            raise OODError(f"--out {folder}: has {listed(found)}, and holds no run; name another folder")


def write(plan: Plan, results: Results, store: Store, folder: Path) -> ReportData:
    """Write the reports of a run into a folder, each file whole or not at all, with its pictures and gallery."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        report = collect(plan, results, store, folder)
        write_files(report, folder)
    return report


def write_failures(results: Results, folder: Path) -> Path:
    """Write the tracebacks of a run into a file, or remove that of an earlier run; return the file's path."""
    path = folder / FAILURES
    tracebacks = [f"{group.message}\n\n{group.traceback}" for group in results.failure_groups if group.traceback]
    with writing(folder):
        if tracebacks:
            write_text(path, "\n".join(tracebacks))
        else:
            path.unlink(missing_ok=True)
    return path


def write_files(report: ReportData, folder: Path) -> None:
    """Render the reports and save their content; the pictures and the gallery are in the folder already."""
    texts = {
        "report.md": markdown.render(report),
        "report.html": page.render(report, folder),
        "report.tex": latex.render(report),
        "report.csv": csv_tables.of_records(report.rows, ResultRow),
        "summary.csv": csv_tables.of_summary(summarise(report.rows, report.scores, report.baseline)),
    }
    if report.published:
        texts[PUBLISHED] = csv_tables.of_published(tables(report))
    for name, text in texts.items():
        write_text(folder / name, text)
    run_folder.save(report, folder)

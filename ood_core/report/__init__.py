"""Writes what a run found: files that hold it whole, and the same numbers as page, Markdown, LaTeX and CSV.

`gather` takes it from the plan, the results and the store; everything else is rendered from the findings alone, so that
`ood report` does the same with what lies in the folders of runs. docs/report.md describes the files.
"""

from __future__ import annotations

from pathlib import Path

from ood_core.errors import OODError
from ood_core.records.findings import Findings
from ood_core.records.results import ResultRow, Results
from ood_core.records.stages import Plan
from ood_core.report.content.collect import gather
from ood_core.report.content.published import tables
from ood_core.report.content.summary_rows import summarise
from ood_core.report.formats import csv_tables, latex, markdown, page, run_folder
from ood_core.store.store import Store, write_text, writing

REPORTS = ("report.md", "report.html", "report.tex", "report.csv", "summary.csv")
"""What is rendered; beside it lies what `filed.save` files."""

PUBLISHED = "published.csv"
"""Only where a recipe names published tables."""


def prepare(folder: Path) -> None:
    """Make the folder for the reports before the run, not after hours of it.

    Raises:
        OODError: It cannot be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*REPORTS, PUBLISHED, *run_folder.FILES):
            if (folder / name).is_dir():
                raise OODError(f"--out {folder}: {name} is a folder there")
        write_text(folder / ".probe", "")
        (folder / ".probe").unlink()
    except OSError as error:
        raise OODError(f"--out {folder}: cannot be written into: {error.strerror}") from None


def write(plan: Plan, results: Results, store: Store, folder: Path) -> Findings:
    """Write all that a run found into a folder, each file whole or not at all, and the pictures it shows beside it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        found = gather(plan, results, store, folder)
        write_findings(found, folder)
    return found


def write_findings(findings: Findings, folder: Path) -> None:
    """Render what was found, and file it; the pictures it names are in the folder already."""
    lines = summarise(findings.rows, findings.scores, findings.baseline)
    texts = {
        "report.md": markdown.render(findings),
        "report.html": page.render(findings, folder),
        "report.tex": latex.render(findings),
        "report.csv": csv_tables.sheet(findings.rows, ResultRow),
        "summary.csv": csv_tables.summary(lines),
    }
    if findings.published:
        texts[PUBLISHED] = csv_tables.published(tables(findings))
    for name, text in texts.items():
        write_text(folder / name, text)
    run_folder.save(findings, folder)

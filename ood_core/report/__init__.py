"""Writes what a run found: report.md for people, report.csv for tables, report.json for programs.

report.json is a stable format (see docs/report.md); its "format" number grows when a field changes its meaning.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from ood_core.errors import OODError
from ood_core.report.accepted import AcceptedPair, accepted_pairs, most_frequent, table
from ood_core.report.notes import duplicates, skipped
from ood_core.report.pictures import Picture, copy_pictures
from ood_core.report.summary import TITLES, by_case, case_columns, columns, percent, summarise, tables
from ood_core.report.versions import versions
from ood_core.run import ResultRow, Results
from ood_core.stages import Plan
from ood_core.store import Store, write_text

FORMAT = 2
REPORTS = ("report.json", "report.csv", "accepted.csv", "report.md")


def prepare(folder: Path) -> None:
    """Make the folder for the reports before the run, not after hours of it.

    Raises:
        OODError: It cannot be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in REPORTS:
            if (folder / name).is_dir():
                raise OODError(f"--out {folder}: {name} is a folder there")
        write_text(folder / ".probe", "")
        (folder / ".probe").unlink()
    except OSError as error:
        raise OODError(f"--out {folder}: cannot be written into: {error.strerror}") from None


def write(plan: Plan, results: Results, store: Store, folder: Path) -> None:
    """Write the reports into a folder, each whole or not at all, and the pictures they show beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = copy_pictures(results, store, folder)
    document = json.dumps(_finite(_document(plan, results)), indent=1, allow_nan=False) + "\n"
    accepted = accepted_pairs(plan, store)
    texts = (document, _csv(results), table(accepted), _markdown(plan, results, pictures, accepted))
    for name, text in zip(REPORTS, texts, strict=True):
        write_text(folder / name, text)


def _finite(value: Any) -> Any:
    """Return plain values in which what is not finite, and so no JSON, is written out as a word."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _document(plan: Plan, results: Results) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "recipe": plan.name,
        "notes": _notes(plan, results),
        "rows": [asdict(row) for row in results.rows],
        "resolved": plan.resolved,
        "versions": versions(plan.plugins),
        "seconds": round(results.seconds, 3),
        "stages": [{"kind": record.stage.kind, "stored": record.stored, **record.facts} for record in results.records],
    }


def _csv(results: Results) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(ResultRow)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in results.rows)
    return text.getvalue()


def _notes(plan: Plan, results: Results) -> list[str]:
    return [*plan.notes, *skipped(results), *duplicates(results)]


def _case_tables(plan: Plan, results: Results) -> list[tuple[str, dict[str, Any]]]:
    found = {name: by_case(results.rows, name, plan.averaged) for name in ("auroc", "fpr95")}
    return [
        (TITLES[name], {"lines": lines, "columns": case_columns(lines)})
        for name, of in found.items()
        for lines in tables(of)
    ]


def _markdown(plan: Plan, results: Results, pictures: Sequence[Picture], accepted: Sequence[AcceptedPair]) -> str:
    environment = Environment(loader=PackageLoader("ood_core.report"), trim_blocks=True, lstrip_blocks=True)
    lines = summarise(results.rows)
    return environment.get_template("report.md.j2").render(
        plan=plan,
        results=results,
        pictures=pictures,
        notes=_notes(plan, results),
        case_tables=_case_tables(plan, results),
        accepted=most_frequent(accepted),
        columns=columns(lines),
        lines=lines,
        calibrated=[row for row in results.rows if row.threshold is not None],
        percent=percent,
        cell=lambda text: " ".join(str(text).split()).replace("|", "\\|"),
        versions=versions(plan.plugins),
        resolved=json.dumps(plan.resolved, indent=1),
    )

"""Writes what a run found: report.md for people, report.csv for tables, report.json for programs.

report.json is a stable format (see docs/report.md); its "format" number grows when a field changes its meaning.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from ood_core.report.summary import columns, percent, summarise
from ood_core.report.versions import versions
from ood_core.run import ResultRow, Results
from ood_core.stages import Plan
from ood_core.store import write_text

FORMAT = 1


def write(plan: Plan, results: Results, folder: Path) -> None:
    """Write the three reports into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(_document(plan, results), indent=1, allow_nan=False) + "\n")
    write_text(folder / "report.csv", _csv(results))
    write_text(folder / "report.md", _markdown(plan, results))


def _document(plan: Plan, results: Results) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "recipe": plan.name,
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


def _markdown(plan: Plan, results: Results) -> str:
    environment = Environment(loader=PackageLoader("ood_core.report"), trim_blocks=True, lstrip_blocks=True)
    lines = summarise(results.rows)
    return environment.get_template("report.md.j2").render(
        plan=plan,
        results=results,
        columns=columns(lines),
        lines=lines,
        calibrated=[row for row in results.rows if row.threshold is not None],
        percent=percent,
        versions=versions(plan.plugins),
        resolved=json.dumps(plan.resolved, indent=1),
    )

"""report.md: all numbers of a run as Markdown tables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from ood_core.records.findings import Findings, StageRecord
from ood_core.report.content import published
from ood_core.report.content.confusions import hardest, most_frequent
from ood_core.report.content.costs import by_kind, cost
from ood_core.report.content.summary_rows import TITLES, by_case, summarise, tables
from ood_core.report.formats.columns import Column, case_columns, columns, legend, percent

EACH = ("train", "extract", "fit")
"""Kinds of stages with a line for each; the others take milliseconds and come in hundreds."""


_MARKUP = re.compile(r"[|*`]|(?<!\w)_|_(?!\w)")
"""What would end a cell or set it off; an underscore within a word does not."""


def render(findings: Findings) -> str:
    """Return the report."""
    environment = Environment(loader=PackageLoader("ood_core.report"), trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell, "percent": percent, "number": _number}
    lines = summarise(findings.rows, findings.scores, findings.baseline)
    return environment.get_template("report.md.j2").render(
        findings=findings,
        case_tables=[_table(title, case_columns(of), of, legend(of)) for title, of in _of_cases(findings)],
        rates=_table("All rates", columns(lines, wide=True), lines, legend(lines, wide=True)),
        published=published.tables(findings),
        accepted=most_frequent(findings.accepted),
        hardest=hardest(findings.classes),
        calibrated=[row for row in findings.rows if row.threshold is not None],
        kinds=by_kind(findings.stages),
        stages=[(stage, cost(stage), _recorded(stage)) for stage in findings.stages if stage.kind in EACH],
        resolved=json.dumps(findings.resolved, indent=1),
    )


def cell(value: Any) -> str:
    """Return what can stand in a cell of a table, as it is: nothing in it is markup."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")
    return _MARKUP.sub(r"\\\g<0>", text)


def _of_cases(findings: Findings) -> list[tuple[str, Any]]:
    return [
        (f"{TITLES[metric]}, a column for each case", lines)
        for metric in ("auroc", "fpr95")
        for lines in tables(by_case(findings.rows, metric, findings.averaged, findings.scores, findings.baseline))
    ]


def _table(title: str, shown: Sequence[Column], lines: Sequence[Any], explained: str) -> dict[str, Any]:
    return {
        "title": title,
        "columns": shown,
        "lines": [[_marked(column, line) for column in shown] for line in lines],
        "legend": cell(explained),
    }


def _marked(column: Column, line: Any) -> str:
    text = cell(column.text(line))
    return f"**{text}**" if column.best(line) else text


def _recorded(stage: StageRecord) -> str:
    """Return what else is known of a stage, in words."""
    facts = stage.facts
    if stage.kind == "extract":
        return f"{facts['images']} images"
    values = facts["fitted"] if stage.kind == "fit" else (facts["epochs"] or [{}])[-1]
    words = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return ", ".join([*words, f"{facts['steps']} steps"] if stage.kind == "train" else words)


def _number(value: float | None, digits: str) -> str:
    return "" if value is None else format(value, digits)

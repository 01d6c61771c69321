"""report.md: all numbers of a run as Markdown tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from ood_core.records.report_data import ReportData
from ood_core.report.content import published
from ood_core.report.content.confusions import Hardest, hardest, most_frequent
from ood_core.report.content.costs import StageCost, by_kind, by_stage
from ood_core.report.content.summary_rows import CASE_METRICS, TITLES, case_tables, summarise
from ood_core.report.formats.columns import (
    Column,
    case_columns,
    columns,
    legend,
    number_column,
    percent,
    percent_column,
    text_column,
)

EACH = ("train", "extract", "fit")
"""Kinds of stages with a line for each; the others take milliseconds and come in hundreds."""

_MARKUP = re.compile(r"[|*`]|(?<!\w)_|_(?!\w)")
"""Characters that end or format a cell; an underscore within a word does not."""


def render(report: ReportData) -> str:
    """Return the report."""
    environment = Environment(loader=PackageLoader("ood_core.report"), trim_blocks=True, lstrip_blocks=True)
    tables = []
    for metric in CASE_METRICS:
        for of in case_tables(report.rows, metric, report.averaged, report.scores, report.baseline):
            title = f"{TITLES[metric]}, a column for each case"
            tables.append((title, _table(case_columns(of), of), escape(legend(of))))
    lines = summarise(report.rows, report.scores, report.baseline)
    tables.append(("All rates", _table(columns(lines, wide=True), lines), escape(legend(lines, wide=True))))
    row = [text_column("variant"), text_column("case"), number_column("seed"), text_column("scorer")]
    row.append(text_column("ood_set", "OOD set"))
    taken = [text_column("ood_class", "OOD class"), text_column("id_class", "taken for")]
    counts = [number_column("accepted"), number_column("images", "of")]
    accepted = [percent_column("id_accepted", "ID accepted"), percent_column("ood_accepted", "OOD accepted")]
    calibrated = [of for of in report.rows if of.threshold is not None]
    return environment.get_template("report.md.j2").render(
        report=report,
        tables=tables,
        published=[(of, _published(of)) for of in published.tables(report)],
        accepted=report.accepted and _table([*row, *taken, *counts], most_frequent(report.accepted)),
        hardest=_hardest(hardest(report.classes)),
        calibrated=calibrated and _table([*row, number_column("threshold", form="{:.6g}"), *accepted], calibrated),
        costs=_costs(report),
        resolved=json.dumps(report.resolved, indent=1),
    )


def escape(value: Any) -> str:
    """Return the text of a cell of a table, without markup."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")
    return _MARKUP.sub(r"\\\g<0>", text)


def _table(columns: Sequence[Column], lines: Iterable[Any]) -> str:
    """Return the table, its best numbers bold."""
    rows = []
    for line in lines:
        texts = ((escape(column.text(line)), column.best(line)) for column in columns)
        rows.append([f"**{text}**" if best else text for text, best in texts])
    rules = ["---:" if column.number else "---" for column in columns]
    return _pipes([[escape(column.title) for column in columns], rules, *rows])


def _pipes(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _published(table: published.PublishedTable) -> str:
    """Return a published table; its footnotes are HTML."""

    def noted(text: str, notes: Sequence[int]) -> str:
        return escape(text) + (f"<sup>{', '.join(map(str, notes))}</sup>" if notes else "")

    head = [published.HEADER, *(noted(column.text, column.notes) for column in table.columns)]
    rows = (
        [noted(row.heading.text, row.heading.notes), *(noted(cell.text, cell.notes) for cell in row.cells)]
        for row in table.rows
    )
    return _pipes([head, ["---", *["---:"] * len(table.columns)], *rows])


def _hardest(lines: Sequence[Hardest]) -> str:
    """Return the table of the hardest classes, "" for none."""

    def names(line: Hardest) -> str:
        return ", ".join(f"{name} {percent(auroc)}" for name, auroc in line.classes)

    row = [text_column("variant"), text_column("case"), text_column("scorer"), text_column("id_set", "ID set")]
    row += [text_column("ood_set", "OOD set"), number_column("of", "classes"), Column("hardest", names)]
    return _table(row, lines) if lines else ""


def _costs(report: ReportData) -> list[str]:
    """Return the costs of the kinds of stages, and of the stages that have a line."""
    seconds, of_all = (
        number_column("cost.seconds", "seconds", "{:.1f}"),
        [
            number_column("cost.speed", "images/s", "{:.0f}"),
            number_column("cost.memory", "MiB", "{:.0f}"),
            number_column("cost.gpu_memory", "GPU MiB", "{:.0f}"),
        ],
    )
    kinds = [text_column("kind"), number_column("carried_out", "carried out"), number_column("stored", "in the store")]
    stages = [
        Column("stage", lambda of: f"{of.stage.title}{' (stored)' * of.stage.stored}"),
        number_column("stage.seed", "seed"),
        Column("key", lambda of: of.stage.key[:8]),
        number_column("cost.seconds", "seconds", "{:.3f}"),
        *of_all,
        Column("recorded", _recorded),
    ]
    each = [stage for stage in report.stages if stage.kind in EACH]
    return [_table([*kinds, seconds, *of_all], by_kind(report.stages)), _table(stages, by_stage(each))]


def _recorded(of: StageCost) -> str:
    """Return the other facts of a stage, in words."""
    facts = of.stage.facts
    if of.stage.kind == "extract":
        return f"{facts['images']} images"
    values = facts["fitted"] if of.stage.kind == "fit" else (facts["epochs"] or [{}])[-1]
    words = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return ", ".join([*words, f"{facts['steps']} steps"] if of.stage.kind == "train" else words)

"""report.md: all numbers of a run as Markdown tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from ood_core.escapes import printable
from ood_core.records.report_data import ReportData, StageRecord
from ood_core.report.content import published
from ood_core.report.content.confusions import HARDEST, Hardest, hardest, most_frequent
from ood_core.report.content.costs import by_kind
from ood_core.report.formats.columns import (
    Column,
    legend,
    number_column,
    pair_columns,
    percent,
    percent_column,
    result_tables,
    text_column,
)

EACH = ("train", "extract", "fit")
"""Kinds of stages with a line for each; the others take milliseconds and come in hundreds."""

_MARKUP = re.compile(r"[|*`]|(?<!\w)_|_(?!\w)")
"""Characters that end or format a cell; an underscore within a word does not."""


def render(report: ReportData) -> str:
    """Return the report."""

    def names(line: Hardest) -> str:
        return ", ".join(f"{name} {percent(auroc)}" for name, auroc in line.classes)

    environment = Environment(loader=PackageLoader("ood_core.report"), trim_blocks=True, lstrip_blocks=True)
    environment.filters["text"] = escape
    tables = [
        (title, _table(of, lines), escape(legend(lines, wide=True))) for title, of, lines in result_tables(report)
    ]
    case, ood_set = [text_column("variant"), text_column("case")], text_column("ood_set", "OOD set")
    row = [*case, number_column("seed"), text_column("scorer"), ood_set]
    of_set = [*case, text_column("scorer"), text_column("id_set", "ID set"), ood_set]
    accepted = [percent_column("id_accepted", "ID accepted"), percent_column("ood_accepted", "OOD accepted")]
    found = hardest(report.classes)
    calibrated = [of for of in report.rows if of.threshold is not None]
    return environment.get_template("report.md.j2").render(
        report=report,
        tables=tables,
        published=[(of, _published(of)) for of in published.tables(report)],
        accepted=report.accepted and _table([*row, *pair_columns()], most_frequent(report.accepted)),
        pairs=len(most_frequent(report.accepted)),
        hardest=found and _table([*of_set, number_column("of", "classes"), Column("hardest", names)], found),
        calibrated=calibrated and _table([*row, number_column("threshold", form="{:.6g}"), *accepted], calibrated),
        costs=_costs(report),
        each=sum(stage.kind in EACH for stage in report.stages),
        most_hardest=HARDEST,
        resolved=json.dumps(report.resolved, indent=1),
    )


def escape(value: Any) -> str:
    """Return a text of one line, or of a cell of a table, without markup."""
    text = printable(" ".join(str(value).split())).replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")
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

    head, *rows = published.texts(table, noted)
    return _pipes([head, ["---", *["---:"] * len(table.columns)], *rows])


def _costs(report: ReportData) -> list[str]:
    """Return the costs of the kinds of stages, and of the stages that have a line."""
    seconds = number_column("cost.seconds", "seconds", "{:.1f}")
    of_all = [
        number_column(f"cost.{name}", title, "{:.0f}")
        for name, title in (("speed", "images/s"), ("memory", "MiB"), ("gpu_memory", "GPU MiB"))
    ]
    kinds = [text_column("kind"), number_column("carried_out", "carried out"), number_column("stored", "in the store")]
    stages = [
        Column("stage", lambda of: f"{of.title}{' (stored)' * of.stored}"),
        number_column("seed"),
        Column("key", lambda of: of.key[:8]),
        number_column("cost.seconds", "seconds", "{:.3f}"),
        *of_all,
        Column("recorded", _recorded),
    ]
    each = [stage for stage in report.stages if stage.kind in EACH]
    return [_table([*kinds, seconds, *of_all], by_kind(report.stages)), _table(stages, each)]


def _value(value: object) -> str:
    """Return a number, word or truth value, the last as a recipe has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _recorded(of: StageRecord) -> str:
    """Return the other facts of a stage, in words."""
    facts = of.facts
    if of.kind == "extract":
        return f"{facts['images']} images"
    values = facts["fitted"] if of.kind == "fit" else (facts["epochs"] or [{}])[-1]
    words = [f"{name} {_value(value)}" for name, value in values.items()]
    return ", ".join([*words, f"{facts['steps']} steps"] if of.kind == "train" else words)

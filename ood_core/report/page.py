"""The page: one HTML file that holds all it shows, and works without a network."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ood_core.report import breakdown, costs, drawing, figures, scatter, trainings
from ood_core.report.accepted import most_frequent
from ood_core.report.combinations import Combination, combinations
from ood_core.report.findings import Findings, Strip
from ood_core.report.summary import by_case, case_columns, columns, legend, percent, summarise, tables

CASE_METRICS = {"auroc": "AUROC", "fpr95": "FPR@95"}

ENDS = ("most ID-like OOD", "most OOD-like ID", "most typical ID", "most typical OOD")
"""Of a scorer's scores, those first where it is mistaken."""

LINES = 3000
"""Of one table, at most."""

STAGES = 1200
"""Stages whose cost is listed one by one, at most."""

PICTURES = 900_000
"""Bytes of the pictures that trainings have left, all together."""

OPTIONS = 300_000
"""Characters of the resolved options."""


@dataclass(frozen=True)
class Table:
    """Lines under columns; `left_out` counts the lines that are too many."""

    title: str
    columns: Sequence[Any]
    lines: Sequence[Any]
    left_out: int
    legend: str


@dataclass(frozen=True)
class Gallery:
    """The ends of one combination's scores: each end of each OOD set, and those of the ID set."""

    combination: Combination
    strips: tuple[tuple[str, Strip], ...]


def render(findings: Findings, folder: Path) -> str:
    """Return the page.

    Args:
        findings: What was found.
        folder: Where the files of its pictures and its gallery lie; they become part of the page.
    """
    environment = Environment(
        loader=PackageLoader("ood_core.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "number": _number, "bare": Markup}
    embedded = _Embedded(folder)
    source = environment.loader.get_source if environment.loader is not None else None
    assert source is not None, "the templates are part of the package"
    return environment.get_template("page.html.j2").render(
        findings=findings,
        style=Markup(source(environment, "page.css")[0]),
        script=Markup(source(environment, "page.js")[0]),
        tables=_tables(findings),
        breakdowns=breakdown.breakdowns(findings),
        pairs=most_frequent(findings.accepted),
        combinations=combinations(findings.rows),
        several=[name for name in ("variant", "case") if len({getattr(row, name) for row in findings.rows}) > 1],
        panels=figures.panels(findings),
        galleries=galleries(findings),
        maps=scatter.panels(findings.maps),
        trainings=trainings.panels(findings.stages),
        training_count=trainings.count(findings.stages),
        pictures=[(picture.title, embedded(picture.file)) for picture in embedded.within(findings.pictures, PICTURES)],
        kinds=costs.by_kind(findings.stages),
        stages=[(stage, costs.cost(stage)) for stage in findings.stages[:STAGES]],
        options=_options(findings.resolved),
        embedded=embedded,
        drawing=drawing,
    )


class _Embedded:
    """Files of a folder as data URIs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, file: str) -> str:
        """Return a file as a data URI."""
        kind = mimetypes.guess_type(file)[0] or "image/webp"
        return f"data:{kind};base64,{base64.b64encode((self.folder / file).read_bytes()).decode()}"

    def within(self, pictures: Sequence[Any], budget: int) -> list[Any]:
        """Return the first pictures that are no more than so many bytes together."""
        kept = []
        for picture in pictures:
            budget -= (self.folder / picture.file).stat().st_size * 4 // 3
            if budget < 0:
                break
            kept.append(picture)
        return kept


def galleries(findings: Findings) -> list[Gallery]:
    """Return the strips by combination; where there are several OOD sets, an end says whose it is."""
    found = []
    for one in combinations(findings.rows):
        strips = [strip for end in ENDS for strip in findings.gallery if strip.row in one.rows and strip.what == end]
        if strips:
            found.append(Gallery(one, tuple((_end(strip, findings), strip) for strip in strips)))
    return found


def _end(strip: Strip, findings: Findings) -> str:
    row = findings.rows[strip.row]
    return f"{strip.what}: {row.ood_set if strip.what.endswith('OOD') else row.id_set}"


def _tables(findings: Findings) -> list[Table]:
    """Return the table of all rates, and before it those with a column for each case."""
    found = []
    for name, title in CASE_METRICS.items():
        lines = by_case(findings.rows, name, findings.averaged, findings.scores, findings.baseline)
        found += [_table(f"{title}, a column for each case", case_columns(of), of) for of in tables(lines)]
    all_lines = summarise(findings.rows, findings.scores, findings.baseline)
    return [*found, _table("All rates", columns(all_lines, wide=True), all_lines)]


def _table(title: str, of: Sequence[Any], lines: Sequence[Any]) -> Table:
    return Table(title, of, lines[:LINES], max(len(lines) - LINES, 0), legend(lines))


def _options(resolved: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the options of each variant and seed as JSON, as far as there is room."""
    found, left = [], OPTIONS
    for name, options in resolved.items():
        text = json.dumps(options, indent=1, ensure_ascii=False, default=str)
        left -= len(text)
        if left < 0:
            break
        found.append((name, text))
    return found


def _number(value: float | None, digits: str = ".4g") -> str:
    return "" if value is None else format(value, digits)

"""The page: one HTML file that holds all it shows, and works without a network."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ood_core.errors import OODError
from ood_core.records.findings import Findings, Picture, Shown, Strip
from ood_core.report.content import costs, published
from ood_core.report.content.combinations import Combination, combinations, ranked
from ood_core.report.content.confusions import most_frequent
from ood_core.report.figures import breakdown, drawing, figures, scatter, trainings
from ood_core.report.formats.columns import by_case, case_columns, columns, legend, percent, summarise, tables

CASE_METRICS = {"auroc": "AUROC", "fpr95": "FPR@95"}

ENDS = ("most ID-like OOD", "most OOD-like ID", "most typical ID", "most typical OOD")
"""Of a scorer's scores, those first where it is mistaken."""

LINES = 1500
"""Of one table, at most."""

STAGES = 600
"""Stages whose cost is listed one by one, at most."""

GALLERY, PICTURES, OPTIONS = 900_000, 500_000, 150_000
"""Bytes: of the images at the ends of scores, of the pictures that trainings have left, of the resolved options.

With those of the drawings and of the tables of classes this makes less than five megabytes.
"""


@dataclass(frozen=True)
class Table:
    """Lines under columns; `left_out` counts the lines that are too many."""

    title: str
    columns: Sequence[Any]
    lines: Sequence[Any]
    left_out: int
    legend: str


@dataclass(frozen=True)
class End:
    """Images at an end of a scorer's scores, each with its data URI."""

    title: str
    images: Sequence[tuple[Shown, str]]


@dataclass(frozen=True)
class Gallery:
    """The ends of one combination's scores: those of each OOD set, and those of the ID set."""

    combination: Combination
    ends: Sequence[End]


def render(findings: Findings, folder: Path) -> str:
    """Return the page.

    Args:
        findings: What was found.
        folder: Where the files of its pictures and its gallery lie; they become part of the page.
    """
    loader = PackageLoader("ood_core.report")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "number": _number, "bare": Markup}
    embedded = _Embedded(folder)
    return environment.get_template("page.html.j2").render(
        findings=findings,
        style=Markup(loader.get_source(environment, "page.css")[0]),
        script=Markup(loader.get_source(environment, "page.js")[0]),
        tables=_tables(findings),
        published=published.tables(findings),
        breakdowns=breakdown.breakdowns(findings),
        pairs=most_frequent(findings.accepted),
        combinations=combinations(findings.rows),
        several=[name for name in ("variant", "case") if len({getattr(row, name) for row in findings.rows}) > 1],
        panels=figures.panels(findings),
        galleries=galleries(findings, embedded),
        maps=scatter.panels(findings.maps),
        trainings=trainings.panels(findings.stages),
        training_count=trainings.count(findings.stages),
        pictures=figures.affordable(findings.pictures, embedded.picture, lambda made: len(made[1]), PICTURES),
        kinds=costs.by_kind(findings.stages),
        on_gpu=any(costs.cost(stage).gpu_memory for stage in findings.stages),
        stages=[(stage, costs.cost(stage)) for stage in findings.stages[:STAGES]],
        options=_options(findings.resolved),
        drawing=drawing,
    )


class _Embedded:
    """Files of a folder as data URIs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, file: str) -> str:
        """Return a file as a data URI.

        Raises:
            OODError: It is not there.
        """
        try:
            content = (self.folder / file).read_bytes()
        except OSError as error:
            raise OODError(f"{self.folder / file}, a picture of the report, cannot be read: {error.strerror}") from None
        kind = mimetypes.guess_type(file)[0] or "image/webp"
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    def picture(self, picture: Picture) -> tuple[str, str]:
        """Return the title and the data URI of a picture."""
        return picture.title, self(picture.file)


def galleries(findings: Findings, embedded: Callable[[str], str]) -> list[Gallery]:
    """Return the strips by combination in the order of the table, as far as they can be afforded.

    Where there are several OOD sets, an end says whose it is.
    """
    found = combinations(findings.rows)
    wanted = [one for one in ranked(found, findings.baseline) if _strips(one, findings)]
    drawn = figures.affordable(wanted, lambda one: _gallery(one, findings, embedded), _weight, GALLERY)
    return sorted(drawn, key=lambda gallery: found.index(gallery.combination))


def _strips(one: Combination, findings: Findings) -> list[Strip]:
    """Return what a combination has in the gallery, in the order of the ends."""
    shown = [strip for strip in findings.gallery if strip.row in one.rows and strip.images]
    return sorted(shown, key=lambda strip: (ENDS.index(strip.what), strip.row))


def _gallery(one: Combination, findings: Findings, embedded: Callable[[str], str]) -> Gallery:
    ends = [
        End(_end(strip, findings), [(shown, embedded(shown.file)) for shown in strip.images])
        for strip in _strips(one, findings)
    ]
    return Gallery(one, ends)


def _weight(gallery: Gallery) -> int:
    return sum(len(source) for end in gallery.ends for _, source in end.images)


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

"""report.html: one file that holds all it shows, and works without a network."""

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
from ood_core.escapes import printable_lines
from ood_core.records.report_data import AcceptedPair, GalleryImage, GalleryRow, ReportData, StageRecord
from ood_core.report.content import gallery, published
from ood_core.report.content.combinations import Combination, combinations, draw_combinations, within_budget
from ood_core.report.content.confusions import most_frequent
from ood_core.report.content.costs import by_kind
from ood_core.report.figures import class_tables, panels, scatter, training_curves
from ood_core.report.figures.drawing import ID_STYLE
from ood_core.report.figures.training_curves import shorten_variants
from ood_core.report.formats.columns import (
    Column,
    legend,
    number_column,
    pair_columns,
    percent,
    result_tables,
    text_column,
)

ENDS = ("most ID-like OOD", "most OOD-like ID", "most typical ID", "most typical OOD")
"""Ends of the scores in the order in which they are shown: mistakes first."""

LINES = 1500
"""Of one table, at most."""

STAGES = 600
"""Stages whose cost is listed one by one, at most."""

GALLERY, PICTURES, OPTIONS = 900_000, 500_000, 150_000
"""Bytes: of the images at the ends of scores, of the pictures of trainings, of the resolved options.

With those of the drawings and of the tables of classes this makes less than five megabytes.
"""


@dataclass(frozen=True)
class Table:
    """Lines below columns; the titles of some can be filtered by their values, some lines may be too many."""

    title: str
    columns: Sequence[Column]
    lines: Sequence[Any]
    left_out: int = 0
    legend: str = ""
    filters: Sequence[str] = ()


@dataclass(frozen=True)
class Gallery:
    """The ends of a combination's scores: a title, and images with their data URIs."""

    combination: Combination
    ends: Sequence[tuple[str, Sequence[tuple[GalleryImage, str]]]]


def render(report: ReportData, folder: Path) -> str:
    """Return the page; the files of its pictures and its gallery, in this folder, become part of it."""
    loader = PackageLoader("ood_core.report")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=printable_lines
    )
    environment.filters |= {"percent": percent, "number": "{:.4g}".format, "bare": Markup}

    def embed(file: str) -> str:
        return _data_uri(folder / file)

    options = [
        (name, json.dumps(of, indent=1, ensure_ascii=False, default=str)) for name, of in report.resolved.items()
    ]
    return environment.get_template("page.html.j2").render(
        report=report,
        style=Markup(loader.get_source(environment, "page.css")[0]),
        script=Markup(loader.get_source(environment, "page.js")[0]),
        tables=[_table(*of) for of in result_tables(report)],
        published=published.tables(report),
        class_tables=class_tables.draw(report),
        pairs=_pairs(report, most_frequent(report.accepted)),
        combinations=combinations(report.rows),
        panels=panels.draw(report),
        galleries=galleries(report, embed),
        each=gallery.EACH,
        maps=scatter.draw(report.maps),
        trainings=training_curves.draw(report.stages),
        training_count=training_curves.count(report.stages),
        pictures=within_budget(report.pictures, lambda of: (of, embed(of.file)), lambda made: len(made[1]), PICTURES),
        kinds=_kinds(report.stages),
        stages=_stages(report.stages),
        options=within_budget(options, lambda of: of, lambda of: len(of[1]), OPTIONS),
        id_colour=ID_STYLE.colour,
    )


def galleries(report: ReportData, embed: Callable[[str], str]) -> list[Gallery]:
    """Return the gallery by combination in the order of the table, within its budget; embed returns a data URI."""

    def title(row: GalleryRow) -> str:
        of = report.rows[row.row]
        return f"{row.what}: {of.ood_set if row.what.endswith('OOD') else of.id_set}"

    def draw(one: Combination) -> Gallery:
        shown = [row for row in report.gallery if row.row in one.rows and row.images]
        shown.sort(key=lambda row: (ENDS.index(row.what), row.row))
        ends = [(title(row), [(image, embed(image.file)) for image in row.images]) for row in shown]
        return Gallery(one, ends)

    def size(made: Gallery) -> int:
        return sum(len(uri) for _, images in made.ends for _, uri in images)

    drawn = draw_combinations(combinations(report.rows), report.baseline, draw, size, GALLERY)
    return [made for made in drawn if made.ends]


def _data_uri(path: Path) -> str:
    """Return a file as a data URI.

    Raises:
        OODError: It cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OODError(f"{path}, a picture of the report, cannot be read: {error.strerror}") from None
    kind = mimetypes.guess_type(path.name)[0] or "image/webp"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _table(title: str, columns: Sequence[Column], lines: Sequence[Any]) -> Table:
    filters = [column.title for column in columns if not column.number]
    return Table(title, columns, lines[:LINES], max(len(lines) - LINES, 0), legend(lines), filters)


def _pairs(report: ReportData, pairs: Sequence[AcceptedPair]) -> Table:
    several = [name for name in ("variant", "case") if len({getattr(row, name) for row in report.rows}) > 1]
    shown = [*map(text_column, several), number_column("seed"), text_column("scorer")]
    shown += [text_column("ood_set", "OOD set"), *pair_columns()]
    title = "OOD images that are accepted when 95 % of ID is, by their class and the ID class they are taken for"
    if len(pairs) < len(report.accepted):
        title += f"; {len(pairs)} of {len(report.accepted)} pairs are shown, the most frequent; accepted.csv has all"
    return Table(title, shown, pairs)


def _kinds(stages: Sequence[StageRecord]) -> Table:
    shown = [text_column("kind"), number_column("carried_out", "carried out"), number_column("stored", "reused")]
    title = "By kind of stage; a stage that was reused counts with what it cost when it was carried out"
    return Table(title, [*shown, *_costs(stages, "{:.1f}")], by_kind(stages))


def _stages(stages: Sequence[StageRecord]) -> Table:
    shown = [
        text_column("kind"),
        text_column("title", "stage"),
        Column("variants", shorten_variants),
        number_column("seed"),
        Column("reused", lambda of: "yes" if of.stored else "no"),
        *_costs(stages, "{:.3f}"),
        Column("key", lambda of: Markup("<code>{}</code>").format(of.key)),
    ]
    left_out = max(len(stages) - STAGES, 0)
    title = "Every stage, with the key of its artifact in the store"
    return Table(title, shown, stages[:STAGES], left_out, filters=("kind", "reused"))


def _costs(stages: Sequence[StageRecord], seconds: str) -> list[Column]:
    """Return the columns of a cost; that of the GPU if a stage was on one."""
    shown = [
        number_column("cost.seconds", "seconds", seconds),
        number_column("cost.speed", "images/s", "{:.0f}"),
        number_column("cost.memory", "peak memory, MiB", "{:.0f}"),
    ]
    on_gpu = any(stage.cost.gpu_memory for stage in stages)
    return [*shown, number_column("cost.gpu_memory", "peak GPU memory, MiB", "{:.0f}")] if on_gpu else shown

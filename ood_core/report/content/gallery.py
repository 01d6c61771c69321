"""The images at the ends of a scorer's scores: its worst mistakes, and the images it is most certain of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ood_core.pipeline.extract import ROWS
from ood_core.pipeline.measure import load_measured
from ood_core.records.plan import Baseline, Plan
from ood_core.records.report_data import GalleryImage, GalleryRow
from ood_core.records.results import ResultRow
from ood_core.records.stages import Images, MeasureStage
from ood_core.report.content.combinations import Combination, combinations, ranked
from ood_core.store.files import load_array, replacing
from ood_core.store.store import Store

FOLDER = "gallery"

EACH = 8
"""Images of an end."""

IMAGES = 480
"""Of all galleries together."""

SIDE = 64
"""Pixels of the longer side; larger images are reduced to it, smaller ones stay as they are."""

_LOSSLESS = 16  # pixels; below it lossy compression is visible


def collect(plan: Plan, rows: Sequence[ResultRow], store: Store, folder: Path) -> tuple[GalleryRow, ...]:
    """Write the images into `gallery/` in this folder, and return the rows to show.

    For each variant and case these are the baseline's scorer and the best one, at their first seed and draw, the most
    interesting ones first, until there are too many images.
    """
    stages = {row.key: row.measure for row in plan.rows}
    gallery: list[GalleryRow] = []
    for one in chosen(combinations(rows), plan.baseline):
        for index in one.rows:
            measure = stages[rows[index].key]
            gallery += _ends(index, index == one.rows[0], measure, store, folder)
        if sum(len(row.images) for row in gallery) + 2 * EACH * (len(one.rows) + 1) > IMAGES:
            break
    return tuple(gallery)


def chosen(found: Sequence[Combination], baseline: Baseline) -> list[Combination]:
    """Return the combinations to show, the most interesting first: of each variant and case two scorers."""
    standard = [one for one in found if one.spectrum == "standard"]
    best: dict[tuple[str, str], Combination] = {}
    first: dict[tuple[str, str], Combination] = {}
    for one in standard:
        place = (one.variant, one.case)
        best[place] = max(best.get(place, one), one, key=lambda other: other.auroc)
        if baseline.scorer in ("", one.scorer):
            first.setdefault(place, one)
    wanted = {*best.values(), *first.values()}
    return [one for one in ranked(standard, baseline) if one in wanted]


def _ends(index: int, with_id: bool, stage: MeasureStage, store: Store, folder: Path) -> Iterator[GalleryRow]:
    """Yield the ends of an OOD set, and those of the ID set if wanted."""
    measured = load_measured(stage, store)
    id_rows, ood_rows = (
        load_array(store.file(scored.outputs.base, ROWS)).numpy() for scored in (stage.id_scores, stage.ood_scores)
    )
    ood = stage.ood_scores.images, ood_rows[measured.compared], measured.ood_scores
    of_id = stage.id_scores.images, id_rows, measured.id_scores
    ends = [("most ID-like OOD", *ood, 1), ("most typical OOD", *ood, -1)]
    ends += [("most OOD-like ID", *of_id, -1), ("most typical ID", *of_id, 1)] if with_id else []
    for what, images, rows, scores, sign in ends:
        shown = []
        for place in np.argsort(sign * scores, kind="stable")[:EACH]:
            row = int(rows[place])
            label = images.opened.classes[int(images.opened.labels[row])]
            shown.append(GalleryImage(_write_thumbnail(images, row, folder), label, float(scores[place])))
        yield GalleryRow(index, what, tuple(shown))


def _write_thumbnail(images: Images, row: int, folder: Path) -> str:
    """Write an image unless it is there, and return its file relative to the report."""
    name = f"{FOLDER}/{images.opened.fingerprint[:12]}-{row}.webp"
    if not (folder / name).is_file():
        picture = Image.fromarray(images.opened.pixels(row).permute(1, 2, 0).numpy())
        picture.thumbnail((SIDE, SIDE))
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as temporary:
            picture.save(temporary, "webp", lossless=max(picture.size) <= _LOSSLESS, quality=80, method=6)
    return name

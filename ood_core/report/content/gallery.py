"""The images at the ends of a scorer's scores: those that fool it most, and those it is surest of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ood_core.pipeline.extract import ROWS
from ood_core.pipeline.measure import compared
from ood_core.records.findings import Shown, Strip
from ood_core.records.results import ResultRow
from ood_core.records.stages import Baseline, Images, MeasureStage, Plan, Row, ScoreStage
from ood_core.report.content.combinations import Combination, combinations, ranked
from ood_core.store.store import Store, load_array, replacing

FOLDER = "gallery"

EACH = 8
"""Images of an end."""

IMAGES = 480
"""Of all galleries together."""

SIDE = 64
"""Pixels of the longer side; larger images are reduced to it, smaller ones stay as they are."""

_LOSSLESS = 16  # pixels; below it lossy compression shows


@dataclass(frozen=True)
class _Scored:
    """A set of images with the score of each, and the row of each in the set."""

    images: Images
    scores: NDArray[np.float64]
    rows: NDArray[np.int64]

    def lowest(self) -> list[int]:
        """Return the places of the lowest scores, the lowest first."""
        return [int(place) for place in np.argsort(self.scores, kind="stable")[:EACH]]

    def highest(self) -> list[int]:
        """Return the places of the highest scores, the highest first."""
        return [int(place) for place in np.argsort(-self.scores, kind="stable")[:EACH]]


def gather(plan: Plan, rows: Sequence[ResultRow], store: Store, folder: Path) -> tuple[Strip, ...]:
    """Write the images into `gallery/` in this folder, and return what to show.

    For each variant and case these are the baseline's scorer and the best one, at their first seed and draw; the most
    wanted come first until there are too many images.
    """
    stages = {_which(row, row.measure.spectrum): row.measure for row in plan.rows}
    strips: list[Strip] = []
    for one in chosen(combinations(rows), plan.baseline):
        measures = [stages[_which(rows[index], rows[index].spectrum)] for index in one.rows]
        strips += _strips(one, measures, store, folder)
        if sum(len(strip.images) for strip in strips) + 2 * EACH * (len(one.rows) + 1) > IMAGES:
            break
    return tuple(strips)


def chosen(found: Sequence[Combination], baseline: Baseline) -> list[Combination]:
    """Return the combinations to show, the most wanted first: of each variant and case two scorers."""
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


def _which(row: Row | ResultRow, spectrum: str) -> tuple[object, ...]:
    return row.variant, row.case, row.draw, row.seed, row.scorer, spectrum, row.id_set, row.ood_set, row.group


def _strips(one: Combination, measures: Sequence[MeasureStage], store: Store, folder: Path) -> Iterator[Strip]:
    """Yield the ends of the OOD sets, and once those of the ID set that they share."""
    for index, measure in zip(one.rows, measures, strict=True):
        found = compared(measure, store)
        outside = _Scored(measure.ood_scores.images, found.outside.numpy(), _rows(measure.ood_scores, store))
        outside = _Scored(outside.images, outside.scores, outside.rows[found.kept.numpy()])
        yield _strip(index, "most ID-like OOD", outside, outside.lowest(), folder)
        yield _strip(index, "most typical OOD", outside, outside.highest(), folder)
        if index == one.rows[0]:
            inside = _Scored(measure.id_scores.images, found.inside.numpy(), _rows(measure.id_scores, store))
            yield _strip(index, "most OOD-like ID", inside, inside.highest(), folder)
            yield _strip(index, "most typical ID", inside, inside.lowest(), folder)


def _rows(stage: ScoreStage, store: Store) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = load_array(store.file(stage.outputs.base, ROWS)).numpy()
    return rows


def _strip(index: int, what: str, scored: _Scored, places: Sequence[int], folder: Path) -> Strip:
    opened = scored.images.opened
    shown = []
    for place in places:
        row = int(scored.rows[place])
        label = opened.classes[int(opened.labels[row])]
        shown.append(Shown(_thumbnail(scored.images, row, folder), label, float(scored.scores[place])))
    return Strip(index, what, tuple(shown))


def _thumbnail(images: Images, row: int, folder: Path) -> str:
    """Write an image, if it is not there, and return its file as seen from the report."""
    name = f"{FOLDER}/{images.opened.fingerprint[:12]}-{row}.webp"
    if not (folder / name).is_file():
        picture = Image.fromarray(images.opened.pixels(row).permute(1, 2, 0).numpy())
        picture.thumbnail((SIDE, SIDE))
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as temporary:
            picture.save(temporary, "webp", lossless=max(picture.size) <= _LOSSLESS, quality=80, method=6)
    return name

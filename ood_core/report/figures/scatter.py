"""Drawings of the maps of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ood_core.records.report_data import EmbeddingMap, EmbeddingPoints
from ood_core.report.content.combinations import within_budget
from ood_core.report.figures import drawing
from ood_core.report.figures.drawing import HALO, ID_STYLE, Drawing, Style

BYTES = 600_000
"""Of all maps together."""

_POINT = 38  # bytes of one marker, about
_FEWEST, _MOST = 80, 400  # points of a set
_NAMED = 12  # ID classes that are named on a map, at most
_TAIL = 0.005  # share of all points on either side that may lie beyond the map


@dataclass(frozen=True)
class MapPanel:
    """A map, its title among the others, and of each set its style, name, and numbers of images, shown and there."""

    map: EmbeddingMap
    title: str
    drawing: Drawing
    key: tuple[tuple[Style, str, int, int], ...]


def draw(maps: Sequence[EmbeddingMap]) -> list[MapPanel]:
    """Return the maps within the budget; of many, each has fewer points."""
    sets = sum(len(one.sets) for one in maps)
    points = min(max(BYTES // (_POINT * max(sets, 1)), _FEWEST), _MOST)
    several = len({one.variant for one in maps}) > 1
    return within_budget(maps, lambda one: _panel(one, points, several), lambda panel: len(panel.drawing.svg), BYTES)


def _panel(one: EmbeddingMap, most: int, several: bool) -> MapPanel:
    points = np.concatenate([of.points for of in one.sets]).astype(np.float64)
    corners = np.quantile(points, (_TAIL, 1 - _TAIL), axis=0)  # few points far away are put on the edge
    margin = 0.04 * np.maximum(corners[1] - corners[0], 1e-9)
    (left, low), (right, high) = corners[0] - margin, corners[1] + margin
    made = drawing.axes("first principal component", "second principal component")
    made.set_xlim(left, right)
    made.set_ylim(low, high)
    made.set_xticks([])
    made.set_yticks([])
    key = []
    for index, of in enumerate(one.sets):
        style = drawing.style(index - 1) if index else ID_STYLE
        places = np.unique(np.linspace(0, len(of.points) - 1, min(most, len(of.points))).astype(np.int64))
        drawing.dots(made, np.clip(of.points[places], (left, low), (right, high)), style, 3.2)
        key.append((style, of.name, len(places), max(of.images, len(of.points))))
    labels = np.asarray(one.sets[0].labels)
    if 1 < len(classes := sorted(set(one.sets[0].labels))) <= _NAMED:
        for name in classes:
            x, y = np.median(one.sets[0].points[labels == name], axis=0)
            drawing.word(made, float(x), float(y), name, ha="center", va="center", gid=HALO)
    name = " · ".join(part for part in (one.variant if several else "", one.case) if part)
    title = f"Map of the embeddings, {name}" if name else "Map of the embeddings"
    return MapPanel(one, name, drawing.finish(made, title, _words(one.sets)), tuple(key))


def _words(sets: Sequence[EmbeddingPoints]) -> list[str]:
    """Return the distance of each set from the middle of the ID images, in spreads of these."""
    points = sets[0].points.astype(np.float64)
    middle = np.median(points, axis=0)
    spread = float(np.median(np.linalg.norm(points - middle, axis=1))) or 1.0
    words = [f"Half of the {len(points)} shown images of {sets[0].name} lie within a distance of one from their middle"]
    for one in sets[1:]:
        distance = float(np.median(np.linalg.norm(one.points - middle, axis=1))) / spread
        words.append(f"those of {one.name} at {distance:.1f} (median)")
    return words

"""Draws maps of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ood_core.records.findings import EmbeddingMap, MapSet
from ood_core.report.figures import drawing
from ood_core.report.figures.drawing import INSIDE, Drawing, Style
from ood_core.report.figures.figures import affordable
from ood_core.report.figures.vectors import HALO

BYTES = 600_000
"""Of all maps together."""

_POINT = 38  # bytes of one marker, about
_FEWEST, _MOST = 80, 400  # points of a set
_NAMED = 12  # ID classes that are named on a map, at most
_TAIL = 0.005  # share of all points on either side that need not lie on the map


@dataclass(frozen=True)
class MapPanel:
    """A map, its name among the others, and for each set how it is drawn, its name, and how many images are shown."""

    map: EmbeddingMap
    title: str
    drawing: Drawing
    key: tuple[tuple[Style, str, int], ...]


def panels(maps: Sequence[EmbeddingMap]) -> list[MapPanel]:
    """Return the maps as far as they can be afforded; where there are many, each has fewer points."""
    sets = sum(len(one.sets) for one in maps)
    points = min(max(BYTES // (_POINT * max(sets, 1)), _FEWEST), _MOST)
    several = len({one.variant for one in maps}) > 1
    return affordable(maps, lambda one: _panel(one, points, several), lambda panel: len(panel.drawing.svg), BYTES)


def _panel(one: EmbeddingMap, most: int, several: bool) -> MapPanel:
    sets = [_thinned(of_map, most) for of_map in one.sets]
    (left, low), (right, high) = _corners(np.concatenate([of_map.points for of_map in one.sets]))
    made = drawing.axes("first principal component", "second principal component")
    made.set_xlim(left, right)
    made.set_ylim(low, high)
    made.set_xticks([])
    made.set_yticks([])
    styles = [INSIDE, *(drawing.style(index) for index in range(len(sets) - 1))]
    for of_map, style in zip(sets, styles, strict=True):
        drawing.dots(made, np.clip(of_map.points, (left, low), (right, high)), style, 3.2)
    for name, (x, y) in _centres(one.sets[0]):
        drawing.word(made, x, y, name, ha="center", va="center", gid=HALO)
    name = " · ".join(part for part in (one.variant if several else "", one.case) if part)
    title = f"Map of the embeddings, {name}" if name else "Map of the embeddings"
    key = tuple((style, of_map.name, len(of_map.points)) for style, of_map in zip(styles, sets, strict=True))
    return MapPanel(one, name, drawing.finish(made, title, _words(one.sets)), key)


def _thinned(of_map: MapSet, most: int) -> MapSet:
    places = np.unique(np.linspace(0, len(of_map.points) - 1, min(most, len(of_map.points))).astype(np.int64))
    labels = tuple(of_map.labels[place] for place in places)
    return MapSet(of_map.name, of_map.inside, of_map.points[places], labels)


def _corners(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the corners of the map, [2, 2]; few points far away are put on its edge."""
    corners = np.quantile(points.astype(np.float64), (_TAIL, 1 - _TAIL), axis=0)
    margin = 0.04 * np.maximum(corners[1] - corners[0], 1e-9)
    return np.stack([corners[0] - margin, corners[1] + margin])


def _centres(inside: MapSet) -> list[tuple[str, tuple[float, float]]]:
    """Return where the ID classes have their middle, if they are few enough to be named."""
    names = sorted(set(inside.labels))
    if not 1 < len(names) <= _NAMED:
        return []
    labels = np.asarray(inside.labels)
    centres = [np.median(inside.points[labels == name], axis=0) for name in names]
    return [(name, (float(x), float(y))) for name, (x, y) in zip(names, centres, strict=True)]


def _words(sets: Sequence[MapSet]) -> str:
    """Say how far from the middle of the ID images each set lies, in spreads of these."""
    inside = sets[0].points.astype(np.float64)
    middle = np.median(inside, axis=0)
    spread = float(np.median(np.linalg.norm(inside - middle, axis=1))) or 1.0
    far = {one.name: float(np.median(np.linalg.norm(one.points - middle, axis=1))) / spread for one in sets[1:]}
    begin = f"Half of the {len(inside)} shown images of {sets[0].name} lie within a distance of one from their middle"
    return drawing.listed([begin, *(f"those of {name} at {distance:.1f} (median)" for name, distance in far.items())])

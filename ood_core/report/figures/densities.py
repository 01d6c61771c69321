"""Score densities: of the ID set as an area, of OOD sets as outlines, with the threshold that accepts 95 % of ID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ood_core.evaluation import TPR
from ood_core.evaluation.metrics import Scores, threshold
from ood_core.report.figures import drawing
from ood_core.report.figures.drawing import Drawing

BINS = 56
TAIL = 0.005
"""Share of a set's scores at either end that may lie beyond the axis."""

REACH = 3
"""How many widths of the ID scores the axis goes beyond them; OOD scores can be a thousand widths away."""

OODSets = Sequence[tuple[str, Scores]]
"""Names and scores."""


@dataclass(frozen=True)
class Density:
    """Shares of a set in equal bins between two scores, and its shares beyond either end."""

    shares: Scores
    below: float
    above: float


def axis(id_scores: Scores, ood_sets: OODSets) -> tuple[float, float]:
    """Return the range of scores to show: that of the ID scores, and as much of the others as leaves those visible."""
    low, high = np.quantile(id_scores, (TAIL, 1 - TAIL))
    width = high - low or abs(high) * 0.01 or 1.0
    ends = [np.quantile(scores, (TAIL, 1 - TAIL)) for _, scores in ood_sets]
    lowest = max(min([low, *(float(end[0]) for end in ends)]), low - REACH * width)
    highest = min(max([high, *(float(end[1]) for end in ends)]), high + REACH * width)
    margin = 0.02 * (highest - lowest) or width / 2
    return float(lowest - margin), float(highest + margin)


def density(scores: Scores, low: float, high: float) -> Density:
    """Return the shares of the scores in bins."""
    counts, _ = np.histogram(scores, BINS, (low, high))
    return Density(counts / len(scores), float((scores < low).mean()), float((scores > high).mean()))


def draw(title: str, id_scores: Scores, ood_sets: OODSets) -> Drawing:
    """Return the densities of an ID set and of OOD sets by name."""
    low, high = axis(id_scores, ood_sets)
    edges = np.linspace(low, high, BINS + 1)
    of_id = density(id_scores, low, high)
    of_ood = [density(scores, low, high) for _, scores in ood_sets]
    top = 1.08 * max(one.shares.max() for one in (of_id, *of_ood))
    made = drawing.axes("score, higher is more out-of-distribution", "share of the set's images")
    made.set_xlim(low, high)
    made.set_ylim(0, top)
    made.set_yticks([])
    colour = drawing.ID_STYLE.colour
    area: dict[str, Any] = {"facecolor": (colour, 0.45), "edgecolor": colour, "linewidth": 0.8}
    made.stairs(of_id.shares, edges, fill=True, clip_on=False, **area)
    for index, one in enumerate(of_ood):
        drawing.line(made, edges.repeat(2)[1:-1], one.shares.repeat(2), drawing.style(index))
    limit = threshold(id_scores)
    drawing.rule(made, [limit] * 2, [0, top])
    right = limit > low + 0.7 * (high - low)
    place = {"ha": "right" if right else "left", "va": "top"}
    drawing.word(made, limit + (high - low) * (-0.01 if right else 0.01), top, f"TPR {100 * TPR:.0f} %", **place)
    words = [
        f"The {len(id_scores)} ID images have a median score of {np.median(id_scores):.4g}, "
        f"and {100 * TPR:.0f} % of them are accepted up to {limit:.4g}"
    ]
    for name, scores in ood_sets:
        share = f"{100 * float((scores <= limit).mean()):.2f} % of {len(scores)} images accepted as well"
        words.append(f"{name}: median {np.median(scores):.4g}, {share}")
    return drawing.finish(made, title, [*words, *beyond(id_scores, ood_sets)])


def beyond(id_scores: Scores, ood_sets: OODSets) -> list[str]:
    """Return a clause for each OOD set of which a notable share lies beyond the axis."""
    low, high = axis(id_scores, ood_sets)
    return [
        f"{100 * share:.0f} % of {name} lie beyond the {side} end of the scores shown"
        for name, scores in ood_sets
        for one in [density(scores, low, high)]
        for share, side in ((one.below, "lower"), (one.above, "upper"))
        if share >= 2 * TAIL
    ]

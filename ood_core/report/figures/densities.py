"""Score densities: of the ID set as an area, of OOD sets as outlines, with the threshold that accepts 95 % of ID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ood_core.evaluation.metrics import RECALL
from ood_core.report.figures import drawing
from ood_core.report.figures.drawing import Drawing

BINS = 56
TAIL = 0.005
"""Share of a set's scores at either end that need not lie on the axis."""

REACH = 3
"""How many widths of the ID scores the axis goes beyond them; OOD scores can be a thousand widths away."""


@dataclass(frozen=True)
class Density:
    """Shares of a set in equal bins between two scores, and the shares that lie beyond either end."""

    shares: NDArray[np.float64]
    below: float
    above: float


def axis(inside: NDArray[np.float64], outside: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the range of scores to show: that of the ID scores, and as much of the others as leaves those visible."""
    low, high = np.quantile(inside, (TAIL, 1 - TAIL))
    width = high - low or abs(high) * 0.01 or 1.0
    ends = [np.quantile(scores, (TAIL, 1 - TAIL)) for scores in outside]
    lowest = max(min([low, *(float(end[0]) for end in ends)]), low - REACH * width)
    highest = min(max([high, *(float(end[1]) for end in ends)]), high + REACH * width)
    margin = 0.02 * (highest - lowest) or width / 2
    return float(lowest - margin), float(highest + margin)


def density(scores: NDArray[np.float64], low: float, high: float) -> Density:
    """Return the shares of the scores in bins."""
    counts, _ = np.histogram(scores, BINS, (low, high))
    return Density(counts / len(scores), float((scores < low).mean()), float((scores > high).mean()))


def draw(title: str, inside: NDArray[np.float64], outside: Sequence[tuple[str, NDArray[np.float64]]]) -> Drawing:
    """Return the densities of an ID set and of OOD sets by name."""
    low, high = axis(inside, [scores for _, scores in outside])
    edges = np.linspace(low, high, BINS + 1)
    known = density(inside, low, high)
    foreign = [density(scores, low, high) for _, scores in outside]
    top = 1.08 * max(one.shares.max() for one in (known, *foreign))
    made = drawing.axes("score, higher is more out-of-distribution", "share of the set's images")
    made.set_xlim(low, high)
    made.set_ylim(0, top)
    made.set_yticks([])
    drawing.area(made, known.shares, edges, drawing.INSIDE)
    for index, one in enumerate(foreign):
        drawing.line(made, edges.repeat(2)[1:-1], one.shares.repeat(2), drawing.style(index))
    threshold = float(np.quantile(inside, RECALL))
    drawing.rule(made, [threshold] * 2, [0, top])
    right = threshold > low + 0.7 * (high - low)
    place = {"ha": "right" if right else "left", "va": "top"}
    drawing.word(made, threshold + (high - low) * (-0.01 if right else 0.01), top, f"TPR {100 * RECALL:.0f} %", **place)
    words = [_known(inside, threshold), *(_foreign(name, scores, threshold) for name, scores in outside)]
    return drawing.finish(made, title, drawing.listed([*words, *beyond(inside, outside)]))


def beyond(inside: NDArray[np.float64], outside: Sequence[tuple[str, NDArray[np.float64]]]) -> list[str]:
    """Return in words how much of each OOD set is not on the axis, where it is worth a word."""
    low, high = axis(inside, [scores for _, scores in outside])
    return [
        f"{100 * share:.0f} % of {name} lie beyond the {side} end of the scores shown"
        for name, scores in outside
        for one in [density(scores, low, high)]
        for share, side in ((one.below, "lower"), (one.above, "upper"))
        if share >= 2 * TAIL
    ]


def _known(inside: NDArray[np.float64], threshold: float) -> str:
    return (
        f"The {len(inside)} ID images have a median score of {np.median(inside):.4g}, "
        f"and {100 * RECALL:.0f} % of them are accepted up to {threshold:.4g}"
    )


def _foreign(name: str, scores: NDArray[np.float64], threshold: float) -> str:
    accepted = float((scores <= threshold).mean())
    return f"{name}: median {np.median(scores):.4g}, {100 * accepted:.2f} % of {len(scores)} images accepted as well"

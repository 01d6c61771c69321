"""ROC and precision-recall curves, with no more points than a screen can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ood_core.evaluation.metrics import RECALL
from ood_core.records.results import ResultRow
from ood_core.report.figures import drawing
from ood_core.report.figures.drawing import Drawing

Floats = NDArray[np.float64]

POINTS = 240
"""Of a curve at most, evenly along it: a step is then smaller than a hundredth of the axes."""


@dataclass(frozen=True)
class Accepted:
    """Images accepted as ID at each threshold, from none to all; int64."""

    inside: NDArray[np.int64]
    outside: NDArray[np.int64]

    @property
    def roc(self) -> tuple[Floats, Floats]:
        """Shares of OOD and of ID images that are accepted; straight between thresholds, as AUROC counts ties."""
        return thinned(self.outside / self.outside[-1], self.inside / self.inside[-1])

    @property
    def finding_inside(self) -> tuple[Floats, Floats]:
        """Recall and precision of finding ID images."""
        return _precision(self.inside, self.outside)

    @property
    def finding_outside(self) -> tuple[Floats, Floats]:
        """Recall and precision of finding OOD images."""
        return _precision(*((counts[-1] - counts)[::-1] for counts in (self.outside, self.inside)))


def accepted(inside: Floats, outside: Floats) -> Accepted:
    """Return how many images have a score up to each threshold that makes a difference."""
    known, foreign = np.sort(inside), np.sort(outside)
    thresholds = np.unique(np.concatenate([known, foreign]))
    counts = [np.searchsorted(scores, thresholds, side="right") for scores in (known, foreign)]
    return Accepted(*(np.concatenate([[0], found]) for found in counts))


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return points of a curve, first and last among them, that lie evenly along it."""
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    if len(x) <= POINTS:
        return x, y
    evenly = np.searchsorted(length, np.linspace(0, length[-1], POINTS))
    kept = np.unique(np.concatenate([[0], evenly, [len(x) - 1]]))
    return x[kept], y[kept]


def roc(title: str, rows: Sequence[ResultRow], counts: Sequence[Accepted]) -> Drawing:
    """Return the ROC curves of rows that share their ID scores, with the point at the TPR of 95 %."""
    made = drawing.axes("OOD images accepted, %", "ID images accepted, %")
    drawing.shares(made)
    drawing.rule(made, [0, 1], [0, 1], dotted=False)
    drawing.rule(made, [0, 1], [RECALL] * 2)
    drawing.word(made, 1, RECALL - 0.03, f"TPR {100 * RECALL:.0f} %", ha="right", va="top")
    for index, of_row in enumerate(counts):
        drawing.line(made, *of_row.roc, drawing.style(index))
    words = [
        f"{row.ood_set}: AUROC {100 * row.auroc:.2f}, and {100 * row.fpr95:.2f} % of it accepted at the TPR of 95 %"
        for row in rows
    ]
    return drawing.finish(made, title, drawing.listed(words))


def precision_inside(title: str, rows: Sequence[ResultRow], counts: Sequence[Accepted]) -> Drawing:
    """Return the precision-recall curves of finding ID images."""
    words = [f"{row.ood_set}: AUPR-In {100 * row.aupr_in:.2f}" for row in rows]
    return _precisions(title, "ID", [of_row.finding_inside for of_row in counts], words)


def precision_outside(title: str, rows: Sequence[ResultRow], counts: Sequence[Accepted]) -> Drawing:
    """Return the precision-recall curves of finding OOD images."""
    words = [f"{row.ood_set}: AUPR-Out {100 * row.aupr_out:.2f}" for row in rows]
    return _precisions(title, "OOD", [of_row.finding_outside for of_row in counts], words)


def _precisions(title: str, what: str, curves: Sequence[tuple[Floats, Floats]], words: Sequence[str]) -> Drawing:
    made = drawing.axes(f"{what} images found (recall), %", f"{what} among what is found, %")
    drawing.shares(made)
    for index, curve in enumerate(curves):
        drawing.line(made, *curve, drawing.style(index))
    return drawing.finish(made, title, drawing.listed(words))


def _precision(found: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return recall and precision as the steps whose area is the average precision."""
    recall = found / found[-1]
    precision = found[1:] / (found[1:] + others[1:])
    steps = np.repeat(recall, 2)[1:-1], np.repeat(precision, 2)
    return thinned(*steps)

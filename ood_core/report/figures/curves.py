"""ROC and precision-recall curves, with no more points than a screen can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ood_core.evaluation import TPR
from ood_core.evaluation.metrics import Counts, Scores, rank_counts
from ood_core.records.results import ResultRow
from ood_core.report.content.summary_rows import TITLES
from ood_core.report.figures import drawing
from ood_core.report.figures.drawing import Drawing

Curve = tuple[Scores, Scores]

POINTS = 240
"""Of a curve at most, evenly along it: a step is then smaller than a hundredth of the axes."""


@dataclass(frozen=True)
class Accepted:
    """Numbers of ID and OOD images accepted at each threshold, from none to all."""

    of_id: Counts
    of_ood: Counts

    @property
    def roc(self) -> Curve:
        """Shares of OOD and of ID images that are accepted; straight between thresholds, as AUROC counts ties."""
        return thinned(self.of_ood / self.of_ood[-1], self.of_id / self.of_id[-1])

    @property
    def finding_id(self) -> Curve:
        """Recall and precision of finding ID images."""
        return _precision(self.of_id, self.of_ood)

    @property
    def finding_ood(self) -> Curve:
        """Recall and precision of finding OOD images."""
        return _precision(*((counts[-1] - counts)[::-1] for counts in (self.of_ood, self.of_id)))


def count_accepted(id_scores: Scores, ood_scores: Scores) -> Accepted:
    """Return how many images have a score up to each threshold that makes a difference."""
    thresholds = np.unique(np.concatenate([id_scores, ood_scores]))
    counts = [rank_counts(thresholds, np.sort(scores))[1] for scores in (id_scores, ood_scores)]
    return Accepted(*(np.concatenate([[0], upto]) for upto in counts))


def thinned(x: Scores, y: Scores) -> Curve:
    """Return points of a curve, first and last among them, that lie evenly along it."""
    if len(x) <= POINTS:
        return x, y
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    evenly = np.searchsorted(length, np.linspace(0, length[-1], POINTS))
    kept = np.unique(np.concatenate([[0], evenly, [len(x) - 1]]))
    return x[kept], y[kept]


def roc(title: str, rows: Sequence[ResultRow], counts: Sequence[Accepted]) -> Drawing:
    """Return the ROC curves of rows that share their ID scores, with the point at the TPR of 95 %."""
    made = drawing.axes("OOD images accepted, %", "ID images accepted, %")
    drawing.shares(made)
    drawing.rule(made, [0, 1], [0, 1], dotted=False)
    drawing.rule(made, [0, 1], [TPR] * 2)
    drawing.word(made, 1, TPR - 0.03, f"TPR {100 * TPR:.0f} %", ha="right", va="top")
    for index, of_row in enumerate(counts):
        drawing.line(made, *of_row.roc, drawing.style(index))
    words = [
        f"{row.ood_set}: AUROC {100 * row.auroc:.2f}, and {100 * row.fpr95:.2f} % of it accepted at the TPR of 95 %"
        for row in rows
    ]
    return drawing.finish(made, title, words)


def precision_recall(title: str, rows: Sequence[ResultRow], counts: Sequence[Accepted], of_id: bool) -> Drawing:
    """Return the precision-recall curves of finding ID or OOD images."""
    positives, metric = ("ID", "aupr_in") if of_id else ("OOD", "aupr_out")
    made = drawing.axes(f"{positives} images found (recall), %", f"{positives} among what is found, %")
    drawing.shares(made)
    for index, of_row in enumerate(counts):
        drawing.line(made, *(of_row.finding_id if of_id else of_row.finding_ood), drawing.style(index))
    words = [f"{row.ood_set}: {TITLES[metric]} {100 * getattr(row, metric):.2f}" for row in rows]
    return drawing.finish(made, title, words)


def _precision(positives: Counts, negatives: Counts) -> Curve:
    """Return recall and precision as the steps whose area is the average precision."""
    recall = positives / positives[-1]
    precision = positives[1:] / (positives[1:] + negatives[1:])
    return thinned(np.repeat(recall, 2)[1:-1], np.repeat(precision, 2))

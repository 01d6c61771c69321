"""The figures of each combination of variant, case and scorer, as many as the page can hold."""

from __future__ import annotations

from dataclasses import dataclass

from ood_core.records.report_data import ReportData
from ood_core.records.results import ResultRow
from ood_core.report.content.combinations import Combination, combinations, draw_combinations
from ood_core.report.figures import curves, densities, drawing
from ood_core.report.figures.drawing import Drawing, Style

BYTES = 1_900_000
"""Of all panels together; some 80 of four drawings against three OOD sets."""


@dataclass(frozen=True)
class Panel:
    """All figures of one combination; its series are the OOD sets, its remarks are printed below."""

    combination: Combination
    series: tuple[tuple[Style, ResultRow], ...]
    drawings: tuple[Drawing, ...]
    remarks: tuple[str, ...]


def draw(report: ReportData) -> list[Panel]:
    """Return the panels in the order of the table; those that exceed the budget are the least interesting ones."""

    def size(panel: Panel) -> int:
        return sum(len(drawn.svg) for drawn in panel.drawings)

    found = combinations(report.rows)
    return draw_combinations(found, report.baseline, lambda one: _panel(one, report), size, BYTES)


def _panel(one: Combination, report: ReportData) -> Panel:
    rows = [report.rows[index] for index in one.rows]
    scores = [report.scores[index] for index in one.rows]
    counts = [curves.count_accepted(of_row.id_scores, of_row.ood_scores) for of_row in scores]
    id_scores = scores[0].id_scores
    ood_sets = [(row.ood_set, of_row.ood_scores) for row, of_row in zip(rows, scores, strict=True)]
    return Panel(
        one,
        tuple((drawing.style(index), row) for index, row in enumerate(rows)),
        (
            densities.draw(f"Score densities, {one.title}", id_scores, ood_sets),
            curves.roc(f"ROC curves, {one.title}", rows, counts),
            curves.precision_recall(f"Precision and recall of ID images, {one.title}", rows, counts, of_id=True),
            curves.precision_recall(f"Precision and recall of OOD images, {one.title}", rows, counts, of_id=False),
        ),
        tuple(densities.beyond(id_scores, ood_sets)),
    )

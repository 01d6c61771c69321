"""The figures of each combination of variant, case and scorer, as many as the page can carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ood_core.records.findings import Findings
from ood_core.records.results import ResultRow
from ood_core.report.content.combinations import Combination, combinations, ranked
from ood_core.report.figures import curves, densities, drawing
from ood_core.report.figures.drawing import Drawing, Style

BYTES = 1_900_000
"""Of all panels together; some 80 of four drawings against three OOD sets."""

Wanted = TypeVar("Wanted")
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Series:
    """A line of a panel's key: how an OOD set is drawn, and its row of the table."""

    style: Style
    row: ResultRow


@dataclass(frozen=True)
class Panel:
    """All figures of one combination, and what has to be said to them."""

    combination: Combination
    series: tuple[Series, ...]
    drawings: tuple[Drawing, ...]
    remarks: tuple[str, ...]


def panels(findings: Findings) -> list[Panel]:
    """Return the panels in the order of the table; what is left out is what a reader wants least."""
    found = combinations(findings.rows)
    drawn = affordable(
        ranked(found, findings.baseline),
        lambda one: _panel(one, findings),
        lambda panel: sum(len(drawing.svg) for drawing in panel.drawings),
        BYTES,
    )
    by_combination = {panel.combination: panel for panel in drawn}
    return [by_combination[one] for one in found if one in by_combination]


def affordable(
    wanted: Iterable[Wanted], draw: Callable[[Wanted], Drawn], size: Callable[[Drawn], int], budget: int
) -> list[Drawn]:
    """Return what is drawn of the wanted, in their order, until the next one costs more bytes than are left."""
    drawn: list[Drawn] = []
    for one in wanted:
        made = draw(one)
        budget -= size(made)
        if budget < 0:
            break
        drawn.append(made)
    return drawn


def _panel(one: Combination, findings: Findings) -> Panel:
    rows = [findings.rows[index] for index in one.rows]
    scores = [findings.scores[index] for index in one.rows]
    counts = [curves.accepted(of_row.inside, of_row.outside) for of_row in scores]
    outside = [(row.ood_set, of_row.outside) for row, of_row in zip(rows, scores, strict=True)]
    return Panel(
        one,
        tuple(Series(drawing.style(index), row) for index, row in enumerate(rows)),
        (
            densities.draw(f"Score densities, {one.title}", scores[0].inside, outside),
            *_curves(one.title, rows, counts),
        ),
        tuple(densities.beyond(scores[0].inside, outside)),
    )


def _curves(title: str, rows: Sequence[ResultRow], counts: Sequence[curves.Accepted]) -> list[Drawing]:
    return [
        curves.roc(f"ROC curves, {title}", rows, counts),
        curves.precision_inside(f"Precision and recall of ID images, {title}", rows, counts),
        curves.precision_outside(f"Precision and recall of OOD images, {title}", rows, counts),
    ]

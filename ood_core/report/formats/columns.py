"""The columns of the result tables, and the legends of the marks in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

from ood_core.evaluation.metrics import RATES
from ood_core.records.report_data import ReportData
from ood_core.report.content.comparisons import BETTER, LEVEL, WORSE, Comparison
from ood_core.report.content.summary_rows import (
    CASE_METRICS,
    TITLES,
    CaseLine,
    Cell,
    Line,
    case_tables,
    summarise,
)

MEAN = "mean"
REPEATED = "±: standard deviation over the repeats (seeds, draws)."
UNTESTED = "Means over several sets of images are compared over repeats only."


@dataclass(frozen=True)
class Column:
    """A column of a table: functions of a line that return its text, the number to sort it by, and its rate."""

    title: str
    text: Callable[[Any], str]
    number: bool = False
    sort: Callable[[Any], float | None] | None = None
    cell: Callable[[Any], Cell | None] | None = None

    def value(self, line: Any) -> float | str | None:
        """Return the value to sort by."""
        return self.text(line) if self.sort is None else self.sort(line)

    def best(self, line: Any) -> bool:
        """Return whether no comparable line has a better number here."""
        cell = None if self.cell is None else self.cell(line)
        return cell is not None and cell.best


def columns(lines: Sequence[Line], wide: bool = False) -> list[Column]:
    """Return the columns, rates in percent; names that are the same in all lines are left out.

    A wide table shows intervals, and differences to the baseline with their p-values.
    """
    several = {name: len({getattr(line, name) for line in lines}) > 1 for name in ("variant", "case", "id_set")}
    shown = [
        *(text_column(name) for name in ("variant", "case") if several[name]),
        text_column("scorer"),
        *([text_column("id_set", "ID set")] if several["id_set"] and not several["case"] else []),
        text_column("ood_set", "OOD set"),
        text_column("group"),
    ]
    for name, title in TITLES.items():
        shown.append(_rate(title, partial(_cell_of, name=name)))
        interval = partial(_interval_of, name=name)
        if wide and name in RATES and any(map(interval, lines)):
            shown.append(_numbers(f"{title} 95 %", interval, _interval, itemgetter(0)))
        if wide and name == "auroc" and any(line.comparison for line in lines):
            comparison = attrgetter("comparison")
            size, p = attrgetter("found.difference"), attrgetter("adjusted")
            shown.append(_numbers("difference", comparison, lambda of: f"{100 * of.found.difference:+.2f}", size))
            shown.append(_numbers("p (Holm)", comparison, _p_value, p))
    return shown


def case_columns(lines: Sequence[CaseLine]) -> list[Column]:
    """Return the columns of the table over cases."""
    several = {name: len({getattr(line, name) for line in lines}) > 1 for name in ("variant", "ood_set")}
    return [
        *([text_column("variant")] if several["variant"] else []),
        text_column("scorer"),
        *([text_column("ood_set", "OOD set")] if several["ood_set"] else []),
        *(
            _rate(case, partial(_cell_of, name=case))
            for case in dict.fromkeys(case for of in lines for case in of.cells)
        ),
        *([_rate(MEAN, attrgetter("mean"))] if any(line.mean for line in lines) else []),
    ]


def result_tables(report: ReportData) -> Iterator[tuple[str, list[Column], Sequence[Line] | Sequence[CaseLine]]]:
    """Yield the title, columns and lines of the tables with a column for each case, then of that of all rates."""
    for metric in CASE_METRICS:
        for of_cases in case_tables(report.rows, metric, report.averaged, report.scores, report.baseline):
            yield f"{TITLES[metric]}, a column for each case", case_columns(of_cases), of_cases
    lines = summarise(report.rows, report.scores, report.baseline)
    yield "All rates", columns(lines, wide=True), lines


def pair_columns() -> list[Column]:
    """Return the columns of accepted pairs of classes behind those of the row."""
    taken = [text_column("ood_class", "OOD class"), text_column("id_class", "taken for")]
    return [*taken, number_column("accepted"), number_column("images", "of")]


def legend(lines: Sequence[Line] | Sequence[CaseLine], wide: bool = False, metric: str | None = None) -> str:
    """Return the sentences that belong below a table of all rates or one: on bold numbers, intervals and marks."""
    cells, means = [], []
    for line in lines:
        if isinstance(line, CaseLine):
            cells += [*line.cells.values(), line.mean]
            means.append(line.mean)
        else:
            cells += [cell for name, cell in line.cells.items() if metric in (None, name)]
            means += [line.cells["auroc"]] if line.sets > 1 else []
    found = [cell for cell in cells if cell is not None]
    sentences = ["Bold: the best on the same images."] if any(cell.best for cell in found) else []
    if any(cell.deviation is not None for cell in found):
        sentences.append(REPEATED)
    over = {cell.deviation is not None for cell in found if cell.interval is not None}
    if wide and over and isinstance(lines[0], Line):  # cases have no columns of intervals
        words = {True: "Student's t over the repeats", False: "bootstrap over the images of the one run"}
        sentences.append(f"Intervals: 95 %, {', else '.join(words[of] for of in sorted(over, reverse=True))}.")
    comparisons = [cell.comparison for cell in found if cell.comparison is not None]
    if comparisons:
        first, tests = comparisons[0], " or ".join(dict.fromkeys(comparison.test for comparison in comparisons))
        sentences.append(
            f"{BETTER} / {WORSE}: AUROC better / worse than that of {first.against}, p < {LEVEL:g} ({tests}; "
            f"Holm's correction for {first.of} comparison{'s' * (first.of > 1)})."
        )
        over_sets = [mean for mean in means if mean is not None]
        if over_sets and not any(mean.comparison for mean in over_sets):
            sentences.append(UNTESTED)
    return " ".join(sentences)


def text_column(path: str, title: str | None = None) -> Column:
    """Return a column of an attribute that is a text; the path may have dots."""
    return Column(title or path, attrgetter(path))


def number_column(path: str, title: str | None = None, form: str = "{}") -> Column:
    """Return a column of an attribute that is a number; "" for None."""
    get = attrgetter(path)
    return Column(title or path, lambda line: "" if get(line) is None else form.format(get(line)), True)


def percent_column(path: str, title: str) -> Column:
    """Return a column of an attribute that is a rate; "-" for None."""
    get = attrgetter(path)
    return Column(title, lambda line: percent(get(line)), True)


def percent(rate: float | None) -> str:
    """Return a rate in percent, "-" for none."""
    return "-" if rate is None else f"{100 * rate:.2f}"


def _rate(title: str, cell: Callable[[Any], Cell | None]) -> Column:
    return replace(_numbers(title, cell, str, attrgetter("mean"), "-"), cell=cell)


def _numbers(
    title: str,
    get: Callable[[Any], Any],
    text: Callable[[Any], str],
    number: Callable[[Any], float],
    missing: str = "",
) -> Column:
    """Return a column of numbers, each of a value that a line may lack."""

    def text_of(line: Any) -> str:
        value = get(line)
        return missing if value is None else text(value)

    def number_of(line: Any) -> float | None:
        value = get(line)
        return None if value is None else number(value)

    return Column(title, text_of, True, number_of)


def _cell_of(line: Line | CaseLine, name: str) -> Cell | None:
    return line.cells.get(name)


def _interval_of(line: Line, name: str) -> tuple[float, float] | None:
    cell = line.cells[name]
    return None if cell is None else cell.interval


def _interval(ends: tuple[float, float]) -> str:
    return f"[{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]"


def _p_value(comparison: Comparison) -> str:
    return "< 0.0001" if comparison.adjusted < 0.0001 else f"{comparison.adjusted:.4f}"

"""The result tables as people read them: what their columns say of each line, and what the marks in them mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from ood_core.report.content.comparisons import BETTER, LEVEL, WORSE, Comparison
from ood_core.report.content.summary_rows import (
    NOT_OF_A_SCORER,
    TITLES,
    CaseLine,
    Cell,
    Line,
    by_case,
    summarise,
    tables,
)

__all__ = [
    "Column",
    "by_case",
    "case_columns",
    "columns",
    "interval",
    "legend",
    "p_value",
    "percent",
    "summarise",
    "tables",
]

MEAN = "mean"
REPEATED = "±: standard deviation over the repeats (seeds, draws)."
UNTESTED = "Means over several sets of images are compared over repeats only."


@dataclass(frozen=True)
class Column:
    """A column: its title, what a line has there, and whether that is a number.

    Attributes:
        sort: By what the lines are sorted, where not by the text; None where a line has nothing there.
        cell: The rate behind it, where it is one.
    """

    title: str
    text: Callable[[Any], str]
    number: bool = False
    sort: Callable[[Any], float | None] | None = None
    cell: Callable[[Any], Cell | None] | None = None

    def value(self, line: Any) -> float | str | None:
        """Return what the column is sorted by."""
        return self.text(line) if self.sort is None else self.sort(line)

    def best(self, line: Any) -> bool:
        """Return whether no comparable line has a better number here."""
        cell = None if self.cell is None else self.cell(line)
        return cell is not None and cell.best


def columns(lines: Sequence[Line], wide: bool = False) -> list[Column]:
    """Return the columns, rates in percent; what is the same everywhere and says nothing is left out.

    Args:
        lines: Of the table.
        wide: Whether there is room for intervals, and for the differences to the baseline with their p-values.
    """
    several = {name: len({getattr(line, name) for line in lines}) > 1 for name in ("variant", "case", "id_set")}
    titles = {"variant": "variant", "case": "case", "id_set": "ID set"}
    shown = [
        *(Column(titles[name], attrgetter(name)) for name in ("variant", "case") if several[name]),
        Column("scorer", attrgetter("scorer")),
        *([Column(titles["id_set"], attrgetter("id_set"))] if several["id_set"] and not several["case"] else []),
        Column("OOD set", attrgetter("ood_set")),
        Column("group", attrgetter("group")),
    ]
    for name, title in TITLES.items():
        shown.append(_rate(title, partial(_cell_of, name=name)))
        if (
            wide
            and name != NOT_OF_A_SCORER
            and any(cell is not None and cell.interval for cell in (line.cells[name] for line in lines))
        ):
            shown.append(_interval(f"{title} 95 %", partial(_cell_of, name=name)))
        if wide and name == "auroc" and any(line.comparison for line in lines):
            shown += _differences()
    return shown


def case_columns(lines: Sequence[CaseLine]) -> list[Column]:
    """Return the columns of the table over cases."""
    cases = list(dict.fromkeys(case for line in lines for case in line.cells))
    several = {name: len({getattr(line, name) for line in lines}) > 1 for name in ("variant", "ood_set")}
    return [
        *([Column("variant", attrgetter("variant"))] if several["variant"] else []),
        Column("scorer", attrgetter("scorer")),
        *([Column("OOD set", attrgetter("ood_set"))] if several["ood_set"] else []),
        *(_rate(case, partial(_case_of, case=case)) for case in cases),
        *([_rate(MEAN, attrgetter("mean"))] if any(line.mean for line in lines) else []),
    ]


def legend(lines: Sequence[Line] | Sequence[CaseLine], wide: bool = False, metric: str | None = None) -> str:
    """Return the sentences that belong below a table: what bold numbers, deviations, intervals and marks are.

    Args:
        lines: Of the table.
        wide: Whether it has the columns of a wide one.
        metric: Of which rate it is; None for all.
    """
    cells = [cell for line in lines for cell in _cells(line, metric)]
    means = _means(lines)
    comparisons = [cell.comparison for cell in cells if cell.comparison is not None]
    said = [
        "Bold: the best on the same images." if any(cell.best for cell in cells) else "",
        REPEATED if any(cell.deviation is not None for cell in cells) else "",
        _intervals(cells) if wide else "",
        _marks(comparisons) if comparisons else "",
        UNTESTED if comparisons and means and not any(mean.comparison for mean in means) else "",
    ]
    return " ".join(sentence for sentence in said if sentence)


def _intervals(cells: Sequence[Cell]) -> str:
    over = {cell.deviation is not None for cell in cells if cell.interval is not None}
    meant = {True: "Student's t over the repeats", False: "bootstrap over the images of the one run"}
    return f"Intervals: 95 %, {', else '.join(meant[of] for of in sorted(over, reverse=True))}." if over else ""


def _marks(comparisons: Sequence[Comparison]) -> str:
    first = comparisons[0]
    tests = " or ".join(dict.fromkeys(comparison.test for comparison in comparisons))
    return (
        f"{BETTER} / {WORSE}: AUROC better / worse than that of {first.against}, p < {LEVEL:g} ({tests}; "
        f"Holm's correction for {first.of} comparison{'s' * (first.of > 1)})."
    )


def _means(lines: Sequence[Line] | Sequence[CaseLine]) -> list[Cell]:
    """Return the AUROCs that are means over several sets of images."""
    means = [line.mean for line in lines if isinstance(line, CaseLine)]
    means += [line.cells["auroc"] for line in lines if isinstance(line, Line) and line.sets > 1]
    return [mean for mean in means if mean is not None]


def _cells(line: Line | CaseLine, metric: str | None) -> list[Cell]:
    if isinstance(line, CaseLine):
        cells: list[Cell | None] = [*line.cells.values(), line.mean]
    else:
        cells = [cell for name, cell in line.cells.items() if metric in (None, name)]
    return [cell for cell in cells if cell is not None]


# ------------------------------------------------------------------------------------------------------- columns


def _rate(title: str, cell: Callable[[Any], Cell | None]) -> Column:
    def text(line: Any) -> str:
        found = cell(line)
        return "-" if found is None else str(found)

    def mean(line: Any) -> float | None:
        found = cell(line)
        return None if found is None else found.mean

    return Column(title, text, True, mean, cell)


def _interval(title: str, cell: Callable[[Any], Cell | None]) -> Column:
    def text(line: Any) -> str:
        found = cell(line)
        return interval(None if found is None else found.interval)

    def low(line: Any) -> float | None:
        found = cell(line)
        return None if found is None or found.interval is None else found.interval[0]

    return Column(title, text, True, low)


def interval(ends: tuple[float, float] | None) -> str:
    """Return an interval in percent, "" for none."""
    return "" if ends is None else f"[{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]"


def _differences() -> list[Column]:
    """Return the columns of a comparison with the baseline."""

    def told(say: Callable[[Comparison], Any], otherwise: Any, line: Line) -> Any:
        return otherwise if line.comparison is None else say(line.comparison)

    def difference(found: Comparison) -> float:
        return found.found.difference

    def adjusted(found: Comparison) -> float:
        return found.adjusted

    return [
        Column(
            "difference",
            partial(told, lambda found: f"{100 * difference(found):+.2f}", ""),
            True,
            partial(told, difference, None),
        ),
        Column(
            "p (Holm)", partial(told, lambda found: p_value(found.adjusted), ""), True, partial(told, adjusted, None)
        ),
    ]


def percent(rate: float | None) -> str:
    """Return a rate in percent, "-" for none."""
    return "-" if rate is None else f"{100 * rate:.2f}"


def p_value(p: float) -> str:
    """Return a p-value as it is printed."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _cell_of(line: Line, name: str) -> Cell | None:
    return line.cells[name]


def _case_of(line: CaseLine, case: str) -> Cell | None:
    return line.cells.get(case)

"""The table of scorers, and the page that holds it."""

import re
import runpy
from pathlib import Path

from ood_core import catalog

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scorers.md"


def rows(text):
    """Return the cells of each scorer's row, by name."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells] for cells in lines}


def test_every_installed_scorer_has_a_row_with_all_cells(plugins):
    found = rows(catalog.table(plugins))
    assert found.keys() == plugins.classes("scorer").keys()
    for name, (_, _, formula, needs, fit, score, paper) in found.items():
        assert all((formula, needs, fit, score)), name
        assert re.search(r"\b(19|20)\d\d\b", paper) or "no one paper" in paper, f"{name} has no source with a year"


def test_options_are_shown_with_their_defaults(plugins):
    assert rows(catalog.table(plugins))["gram"][1] == "layers=[], powers=10"
    assert rows(catalog.table(plugins))["rank-fusion"][1] == "scorers, weights=[]"


def test_needs_are_those_of_the_class(plugins):
    assert rows(catalog.table(plugins))["gram"][3] == "logits, held-out, layers"


def test_the_page_holds_the_table_of_the_installed_scorers():
    written = runpy.run_path(str(ROOT / "docs" / "scorers.py"))["written"]
    text = PAGE.read_text()
    assert written(text) == text, "run: python docs/scorers.py"

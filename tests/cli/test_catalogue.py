"""The tables of scorers and of data sets, and the pages that hold them."""

import re
import runpy
from pathlib import Path

import yaml

from ood_core.cli import catalogue

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scorers.md"
SETS_PAGE = ROOT / "docs" / "datasets_published.md"


def rows(text):
    """Return the cells of each scorer's row, by name."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells] for cells in lines}


def test_every_installed_scorer_has_a_row_with_all_cells(plugins):
    found = rows(catalogue.scorers_table(plugins))
    assert found.keys() == plugins.classes("scorer").keys()
    for name, (_, _, formula, needs, fit, score, paper) in found.items():
        assert all((formula, needs, fit, score)), name
        assert re.search(r"\b(19|20)\d\d\b", paper) or "no one paper" in paper, f"{name} has no source with a year"


def test_options_are_shown_with_their_defaults(plugins):
    assert rows(catalogue.scorers_table(plugins))["gram"][1] == "layers=[], powers=10"
    assert rows(catalogue.scorers_table(plugins))["rank-fusion"][1] == "scorers, weights=[]"


def test_needs_are_those_of_the_class(plugins):
    assert rows(catalogue.scorers_table(plugins))["gram"][3] == "logits, held-out, layers"


def test_the_page_holds_the_table_of_the_installed_scorers():
    written = runpy.run_path(str(ROOT / "docs" / "scorers.py"))["written"]
    text = PAGE.read_text()
    assert written(text) == text, "run: python docs/scorers.py"


# --------------------------------------------------------------------------------------------------------- data sets


def test_every_source_has_a_row_with_its_options(plugins):
    sources, _, sets = catalogue.datasets_table(plugins).partition("### ")
    found = rows(sources)
    assert found.keys() == plugins.classes("dataset").keys()
    assert found["noise"][1] == "size=32, count=500, mean=0.5, std=0.25, seed=0"
    assert found["folder"][2].startswith("Pictures in one folder a class")
    assert sets.startswith("`{use: published, dataset: ...}`")


def test_every_set_that_a_source_knows_by_name_has_a_row_of_facts(plugins):
    known = plugins.get("dataset", "published").catalogue()
    found = rows(catalogue.datasets_table(plugins).partition("### ")[2])
    assert found.keys() == known.keys()
    assert found["cifar10"][1:4] == ["CIFAR-10", "10", "train 50000, test 10000"]
    assert all(len(cells) == 6 and all(cells) for cells in found.values())


def test_the_page_of_data_sets_holds_the_tables_of_what_is_installed():
    written = runpy.run_path(str(ROOT / "docs" / "datasets_published.py"))["written"]
    text = SETS_PAGE.read_text()
    assert written(text) == text, "run: python docs/datasets_published.py"


def test_recipes_on_the_page_of_data_sets_name_sets_that_there_are(plugins):
    known = plugins.get("dataset", "published").catalogue()
    blocks = re.findall(r"```yaml\n(.*?)```", SETS_PAGE.read_text(), flags=re.DOTALL)
    named = [name for block in blocks for name in re.findall(r"dataset: ([\w-]+)", block)]
    assert len(named) >= 6
    assert set(named) <= known.keys()
    assert all(isinstance(yaml.safe_load(block), dict) for block in blocks)

"""The tables of scorers and of data sets, and the pages that hold them."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from ood_core.cli import catalogue
from ood_core.cli.options import complete_run

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


# ---------------------------------------------------------------------------------------------- runs, own recipes


def write_run(folder, text):
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(text)


def test_runs_are_listed_with_date_rows_detector_and_recipe(ood, tmp_path):
    assert ood("list", "runs") == (0, "", "there are no runs\n")
    runs = tmp_path / "runs"
    write_run(runs / "ablations" / "scorers", '{"name": "scorers", "started": "2026-11-30T20:49:15Z", "rows": [1, 2]}')
    write_run(runs / "own", '{"name": "mood", "started": "2026-12-01T20:49:15Z", "rows": []}')
    (runs / "own" / "detector").mkdir()
    write_run(runs / "damaged", "{")
    write_run(runs / "store" / "train", "{}")
    code, out, err = ood("list", "runs")
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "ablations/scorers  2026-11-30   2 rows          scorers",
        "damaged            report.json cannot be read",
        "own                2026-12-01   0 rows detector mood",
    ]
    assert complete_run("o") == ["own"]
    assert complete_run("ablations/") == ["ablations/scorers"]


def test_a_shipped_recipe_is_copied_once_and_can_be_planned(ood, tmp_path):
    code, out, err = ood("copy", "ablations/scorers", "my.yaml")
    assert (code, out, err) == (0, "my.yaml: change it, and run it by `ood run my.yaml`\n", "")
    assert "\nbase: mood\n" in (tmp_path / "my.yaml").read_text()
    code, out, err = ood("plan", "my.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("my\n")


@pytest.mark.parametrize(
    ("recipe", "file", "message"),
    [
        ("mood", "here.yaml", "here.yaml: exists already; name another file"),
        ("mood", "none/my.yaml", "none/my.yaml: cannot be written: No such file or directory"),
        ("mood", "-", "-: must end in .yaml, and not in .lock.yaml; `ood show mood` prints the recipe"),
        ("mood", "my.lock.yaml", "my.lock.yaml: must end in .yaml, and not in .lock.yaml; `ood show mood` prints the "),
        ("moood", "my.yaml", "no recipe 'moood', neither a file nor shipped. Did you mean 'mood'?"),
    ],
)
def test_a_recipe_that_cannot_be_copied_is_one_line_and_changes_nothing(ood, tmp_path, recipe, file, message):
    (tmp_path / "here.yaml").write_text("mine")
    code, out, err = ood("copy", recipe, file)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("here.yaml", "mine")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ood co", {"copy"}),
        ("ood copy ablations/g", {"ablations/grid"}),
        ("ood run moo", {"mood"}),
        ("ood run --sm", {"--smoke"}),
        ("ood list r", {"recipes", "runs"}),
        ("ood show moo", {"mood"}),
    ],
)
def test_the_shell_completes_commands_options_and_names(ood, monkeypatch, words, expected):
    monkeypatch.setenv("_OOD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    code, out, _ = ood()
    assert (code, set(out.split())) == (0, expected)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_the_completion_is_shown(ood, monkeypatch, shell):
    monkeypatch.setenv("_OOD_COMPLETE", f"source_{shell}")
    code, out, _ = ood()
    assert code == 0
    assert f"_OOD_COMPLETE=complete_{shell}" in out

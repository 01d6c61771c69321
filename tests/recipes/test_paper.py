"""The recipes of the paper's tables and figures, their small twins, and the numbers that stand beside theirs."""

import csv
import re
from pathlib import Path

import pytest

from ood_core.plan.make import make_plan
from ood_core.recipe.read import find_recipe, read_recipes
from ood_core.records import published
from ood_core.records.stages import TrainStage
from ood_core.report.content.collect import collect
from ood_core.report.content.published import NOT_RUN, tables
from ood_core.run.schedule import run
from ood_core.runtime.shipped import shipped_folder
from ood_core.store.store import Store

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "reference" / "paper_tables.csv"
DATA = SHARED / "data"

NAMES = [*(f"table{number}" for number in range(1, 10)), *(f"figure{number}" for number in range(1, 4))]
FILES = ("vit-b-300ep.pth.tar", "beit_large_patch16_224_pt22k.pth")

SHOWN = {
    "table1": {"T1a", "T1b"},
    "table2": {"T2"},
    "table3": {"T3"},
    "table4": {"T4a", "T4b"},
    "table5": {"T5a", "T5b"},
    "table6": {"T6a", "T6b", "T6c"},
    "table7": {"T7a", "T7b", "T7c"},
    "table8": {"T8"},
    "table9": {"T9"},
    "figure1": {"F1"},
    "figure2": {"T7a", "T7b"},
    "figure3": {"F3"},
}

WRITTEN = {
    "OCGANOCGAN": "OCGAN",
    "Dear": "Deer",
    "Trunk": "Truck",
    "MIM/MOOD (text only; row row missing in its text)": "MIM",
}
"""What the reference has as the paper writes it, and the recipes do not."""

STAGES = ("MIM-pt", "inter-ft", "ft")


# ------------------------------------------------------------------------------------------------------ the numbers


def reference():
    """Yield (table, row, column, number) of the transcription of the paper."""
    header = []
    for line in csv.reader(REFERENCE.read_text().splitlines()):
        if line[0].startswith("#"):
            header = [name.split("   ")[0] for name in line]
            continue
        table, *cells = (WRITTEN.get(cell, cell) for cell in line)
        for row, column, value in READ.get(table, plain)(table, cells, [WRITTEN.get(name, name) for name in header]):
            if value not in ("", "-"):
                yield table, row, column, value


def plain(table, cells, header):
    return [(cells[0], column, value) for column, value in zip(header[2:], cells[1:], strict=True)]


def accuracies(table, cells, header):
    return [(cells[0], "test accuracy", cells[1]), (cells[0], "AUROC", cells[2])]


def means(table, cells, header):
    return [(cells[0], "mean", cells[1])]


def on(flags):
    return " + ".join(name for name, flag in zip(STAGES, flags, strict=True) if flag == "1")


def one_class_stages(table, cells, header):
    return [(f"{cells[0]} / {on(cells[1:4])}", "AUROC", cells[4])]


def stages(table, cells, header):
    return [(on(cells[:3]), column, value) for column, value in zip(header[4:], cells[3:], strict=True)]


def pairs(table, cells, header):
    row = " / ".join(filter(None, cells[:2]))
    return list(zip([row] * 3, ("CSI", "MOOD", "improvement"), cells[2:], strict=True))


def shots(table, cells, header):
    if cells[1] == "-":
        return [("(improve)", "0 a class", cells[2])]
    return [(cells[0].removesuffix(" (improve)"), f"{cells[1]} a class", cells[2])]


READ = {"T2": accuracies, "T3": one_class_stages, "T4a": stages, "T4b": stages, "T6b": means, "T6c": means}
READ |= {"T8": pairs, "T9": shots}


def shipped():
    return [
        (table, entry.row, entry.column, entry.value + (f"±{entry.deviation}" if entry.deviation else ""))
        for table, entries in published.entries().items()
        for entry in entries
    ]


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the transcription of the paper is not beside this repository")
def test_every_number_of_the_tables_is_that_of_the_transcription():
    assert [cell for cell in shipped() if cell[0].startswith("T")] == list(reference())


def test_only_the_tables_whose_own_mistakes_are_noted_have_averages_that_do_not_reproduce():
    numbers = {(table, row, column): float(value.partition("±")[0]) for table, row, column, value in shipped()}
    wrong = set()
    for table, row, column in numbers:
        labels = [label for of, at, label in numbers if (of, at) == (table, row)]
        parts = [numbers[table, row, label] for label in published.averaged(column, labels)]
        if parts and not row.startswith("(") and abs(numbers[table, row, column] - sum(parts) / len(parts)) > 0.1001:
            wrong.add((table, row, column))
    assert wrong == {
        ("T4a", "MIM-pt + inter-ft", "C100>avg"),
        ("T4b", "MIM-pt + inter-ft", "IN30>Avg"),
        ("T4b", "MIM-pt + ft", "IN30>Avg"),
        ("T6a", "ours", "Average"),
    }
    assert wrong <= {note.of for note in published.notes()}


def test_every_footnote_concerns_something_that_is_there():
    cells = {(table, row, column) for table, row, column, _ in shipped()}
    known = cells | {(table, row, "") for table, row, _ in cells} | {(table, "", column) for table, _, column in cells}
    known |= {(table, "", "") for table, _, _ in cells}
    assert {note.of for note in published.notes()} <= known


def test_every_table_has_a_title():
    assert set(published.titles()) == set(published.entries())


# ------------------------------------------------------------------------------------------------------ the recipes


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder to run in that has the files of weights; no plan reads more than their digests."""
    for name in FILES:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)


def planned(plugins, name, root, *overrides):
    return make_plan(read_recipes(find_recipe(f"paper/{name}"), [f"data.root={root}", *overrides]), plugins)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_planned_at_full_scale_and_says_what_stands_beside_the_paper(plugins, weights, paper_sets, name):
    made = planned(plugins, name, paper_sets)
    assert {table.name for table in made.published} == SHOWN[name]
    for table in made.published:
        asked = [cell for _, cells in table.rows for cell in cells if cell.asked]
        assert any(cell.lines and cell.value for cell in asked)


def test_the_bases_of_the_tables_are_recipes_themselves(plugins, paper_sets):
    assert {row.id_set for row in planned(plugins, "multiclass", paper_sets).rows} >= {"CIFAR-10", "ImageNet-30"}
    if DATA.is_dir():
        assert len(planned(plugins, "small/mood", DATA).rows) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_timm_has_the_networks_of_a_recipe(plugins, weights, paper_sets, name, monkeypatch):
    monkeypatch.setattr("ood_timm.checkpoint.check", lambda *arguments: None)  # the files here are empty
    planned(plugins, name, paper_sets).check()


def test_in_the_whole_table_every_cell_of_mood_has_lines(plugins, weights, paper_sets):
    made = planned(plugins, "table7", paper_sets)
    for table in made.published:
        ((_, ours),) = [row for row in table.rows if row[0].text == "ours"]
        assert all(cell.lines or cell.mean_of for cell in ours)


def test_networks_that_know_the_names_of_ood_classes_are_told_from_others(plugins, weights, paper_sets):
    (table, _) = planned(plugins, "table4", paper_sets).published
    exposed = {label.text: {line.exposed for cell in cells for line in cell.lines} for label, cells in table.rows}
    assert exposed == {
        "MIM-pt": {False},
        "MIM-pt + inter-ft": {True},
        "MIM-pt + ft": {False},
        "MIM-pt + inter-ft + ft": {True},
    }
    assert [cells[0].exposed for _, cells in table.rows] == [False, True, False, True]


def test_what_two_recipes_have_in_common_is_trained_once(plugins, weights, paper_sets):
    of = {name: trainings(planned(plugins, name, paper_sets)) for name in NAMES}
    assert of["table5"] <= of["table1"] & of["table4"] & of["table7"]
    assert of["table6"] == of["table3"]
    assert of["figure1"] == of["table3"] | of["table5"]
    assert of["figure2"] == of["table7"]
    assert len(of["table7"] - of["table5"]) == 4
    assert not of["table8"]


def test_the_section_in_docs_paper_md_can_be_planned(plugins, paper_sets, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()
    (section,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "own.yaml"
    path.write_text(f"base: paper/multiclass\nscorers: [softmax, mahalanobis, mahalanobis-global]\n{section}")
    (table,) = make_plan(read_recipes(path, [f"data.root={paper_sets}"]), plugins).published
    assert table.remarks[0] == "Half of the training images."
    assert sum(bool(cell.lines) for _, cells in table.rows for cell in cells) == 6


def test_a_set_that_is_left_out_is_no_mistake(plugins, weights, paper_sets, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for path in paper_sets.iterdir():
        if path.name != "LSUN_resize":
            (root / path.name).symlink_to(path)
    table = planned(plugins, "table5", root, "data.missing_files=leave-out").published[0]
    cells = dict(zip((label.text for label in table.columns), table.rows[0][1], strict=True))
    assert cells["C10>SVHN"].lines
    assert cells["C10>LSUN"].asked
    assert not cells["C10>LSUN"].lines


# -------------------------------------------------------------------------------------------------- the small twins


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the CIFAR parquet files are not beside this repository")


@needs_data
@pytest.mark.parametrize("name", NAMES)
def test_a_twin_fills_cells_of_the_same_tables(plugins, name):
    made = planned(plugins, f"small/{name}", DATA)
    assert {table.name for table in made.published} <= SHOWN[name]
    cells = [cell for table in made.published for _, cells in table.rows for cell in cells]
    assert any(cell.lines and cell.value for cell in cells)
    assert not any(line.exposed for cell in cells for line in cell.lines)


@needs_data
def test_the_twins_share_their_trainings(plugins):
    of = {name: trainings(planned(plugins, f"small/{name}", DATA)) for name in NAMES}
    mood = of["table5"]
    assert len(mood) == 3
    assert all(mood <= of[name] for name in ("table1", "table2", "table4", "table7", "table9", "figure2", "figure3"))
    assert of["table3"] | of["table6"] | of["table8"] | of["figure1"] <= of["table4"]
    assert len(set().union(*of.values())) <= 20


def trainings(made):
    return {stage.key for stage in made.stages if isinstance(stage, TrainStage)}


def test_the_makefile_runs_every_twin():
    text = (Path(__file__).parents[2] / "Makefile").read_text()
    (listed,) = re.findall(r"^TWINS := \$\(addprefix paper/small/,(.*)\)$", text, re.MULTILINE)
    assert listed.split() == NAMES
    folder = shipped_folder() / "paper" / "small"
    assert {path.stem for path in folder.glob("*.yaml")} == {"mood", *NAMES}


@needs_data
@pytest.mark.slow
def test_a_twin_runs_to_the_papers_table_with_its_numbers_beside_ours(plugins, tmp_path):
    tiny = [
        *("data.id.limit=6", "data.near.0.limit=1", "scorers=[softmax, entropy, energy, gradnorm, mahalanobis-global]"),
        *(f"training.{stage}.{option}" for stage in range(3) for option in ("epochs=1", "warmup_epochs=0")),
        *("training.1.train_on.limit=1", "training.0.tokenizer.vocabulary=8"),
    ]
    made = planned(plugins, "small/table5", DATA, *tiny)
    store = Store(tmp_path / "store")
    (table,) = tables(collect(made, run(made, store), store, tmp_path))
    assert [column.text for column in table.columns][1] == "C10>C100"
    for row in table.rows:
        assert 0 < row.cells[1].ours < 100
        assert re.fullmatch(r"\d+\.\d / \d+\.\d§?", row.cells[1].text)
        assert row.cells[0].text.rstrip("§") == row.cells[0].paper  # SVHN is not at hand
    assert NOT_RUN not in str(table)
    assert table.footnotes[0].startswith("Digit for digit")

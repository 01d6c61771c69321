"""A lock runs again what it was made of, bit for bit, or says what differs."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from ood_core.errors import OODError, OODErrors
from ood_core.plan.make import make_plan
from ood_core.plugins import find
from ood_core.recipe.yaml import parse, set_at_path
from ood_core.records.results import Results
from ood_core.run import lock
from ood_core.run.schedule import run
from ood_core.store.store import Store

from ..conftest import planned

FOLDER = Path(__file__).parents[2] / "recipes"
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def locked(tiny, tmp_path):
    """The lock of a tiny run of two seeds, and the run's store."""
    recipes, made = planned(tiny, "seeds=[3, 4]", "scorers=[energy]")
    store = Store(tmp_path / "store")
    results = run(made, store)
    (tmp_path / "out").mkdir()
    lock.write(made, recipes, results, tmp_path / "out")
    return lock.read(tmp_path / "out" / lock.LOCK), made, results


def keys(made):
    return [stage.key for stage in made.stages]


def test_a_lock_plans_the_stages_of_its_run(locked):
    read, made, _ = locked
    again = make_plan(read.recipes, find())
    assert keys(again) == keys(made)
    assert [(row.variant, row.seed, row.scorer, row.ood_set) for row in again.rows] == [
        (row.variant, row.seed, row.scorer, row.ood_set) for row in made.rows
    ]
    lock.require_same(read, again)


def test_a_lock_gives_the_same_numbers_in_another_store(locked, tmp_path):
    read, _, _ = locked
    again = make_plan(read.recipes, find())
    same, words = lock.verdict(read, run(again, Store(tmp_path / "other")))
    assert same
    assert words == "the numbers are those of recipe.lock.yaml, bit for bit"


def test_numbers_that_differ_are_told(locked):
    read, _, results = locked
    from dataclasses import replace

    row = results.rows[0]
    changed = (replace(row, auroc=row.auroc + 1e-15), *results.rows[1:])
    same, words = lock.verdict(read, Results(changed, results.records, 0.0))
    assert not same
    assert words.startswith("1 of 4 measurements differ from recipe.lock.yaml, the first: tiny, draw 0, seed 3, energy")


def test_every_stage_is_computed_with_the_threads_of_the_lock(locked):
    read, made, _ = locked
    assert read.threads == dict.fromkeys(keys(made), torch.get_num_threads())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda of: of["versions"].update(torch="1.0"), "version of torch was 1.0, is 2."),
        (
            lambda of: of["versions"].update({"plugin knn": "knn 0"}),
            "version of plugin knn was knn 0, is ood-framework",
        ),
        (
            lambda of: of["versions"].update({"plugin mine": "mine 2"}),
            "version of plugin mine was mine 2, is missing now",
        ),
        (lambda of: of["data"].update(digits="0123"), "data digits was 0123, is "),
        (lambda of: of["stages"][0].update(key="0123"), "options differ: another key has train classification"),
    ],
)
def test_an_input_that_differs_is_named(locked, change, message):
    read, made, _ = locked
    change(read.entries)
    with pytest.raises(OODErrors) as caught:
        lock.require_same(read, made)
    assert f"recipe.lock.yaml: {message}" in str(caught.value)


def test_another_processor_is_told_and_does_not_matter(locked):
    read, made, _ = locked
    read.entries["machine"]["processor"] = "abacus"
    lock.require_same(read, made)
    (note,) = lock.notes(read)
    assert "was abacus: bits may differ" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0\n", "is no lock: the key 'lock' is missing"),
        ("lock: 99\n", "is a lock of format 99, this version reads 1; run its recipe again"),
        ("lock: 1\n", "is damaged: 'recipe': Field required; run its recipe again"),
        ("lock: 1\nrecipe: x\nexperiments: []\n", "is damaged: 'experiments': List should have at least 1 item"),
        ("lock: 1\nrecipe: [x]\n", "is damaged: 'recipe': Input should be a valid string; run its recipe again"),
    ],
)
def test_what_is_no_lock_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "x.lock.yaml"
    path.write_text(text)
    with pytest.raises(OODError) as caught:
        lock.read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


OF_ANOTHER_TYPE = [
    ("stages.0.threads", "4", "'stages.0.threads': Input should be a valid integer"),
    ("stages.0.threads", 0, "'stages.0.threads': Input should be greater than 0"),
    ("stages.1.key", [1], "'stages.1.key': Input should be a valid string"),
    ("versions", [1], "'versions': Input should be an object"),
    ("experiments.0.variant", {}, "'experiments.0.variant': Input should be a valid string"),
    ("experiments.1.seed", True, "'experiments.1.seed': Input should be a valid integer"),
    ("experiments.0.coordinates", ["a"], "'experiments.0.coordinates': Input should be an object"),
    ("experiments.0.baseline", {"variant": "x", "scorer": ""}, "no variant 'x', a baseline"),
]


def test_an_entry_of_another_type_is_named(locked):
    read, _, _ = locked
    root = parse(read.path.read_text(), "x")
    for path, value, message in OF_ANOTHER_TYPE:
        node = set_at_path(root, path.split("."), parse(json.dumps(value), "x"))
        read.path.write_text(json.dumps(node.plain()))
        with pytest.raises(OODError, match=rf"recipe\.lock\.yaml: is damaged: {message}.*; run its recipe again$"):
            lock.read(read.path)


def test_a_lock_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(OODError, match="cannot be read"):
        lock.read(tmp_path / "x.lock.yaml")


@pytest.mark.parametrize(
    "word",
    [
        "1e-4",
        "9" * 5000,
        "0",
        "no",
        "null",
        "",
        "a: b",
        "# not",
        "yes",
        "1_000",
        "é",
        "true",
        "-",
        "x\ny",
        "*x*",
        "@home",
        "%",
        "[a",
        "`y`",
        "!tag",
        '"q',
        "'",
        ">90%",
        "&x",
        "|",
        "? x",
        "a  b",
        " a",
    ],
)
def test_words_stay_words(word):
    text = yaml.dump({"name": word, "list": [word]}, Dumper=lock._Dumper)
    assert parse(text, "x").plain() == {"name": word, "list": [word]}


@pytest.mark.parametrize(
    "name",
    [
        "mood",
        "ablations/pretexts",
        "ablations/all-scorers",
        "protocols/one_class",
        "protocols/few_shot",
        "protocols/pairs",
        "protocols/open_set",
        "protocols/outlier_exposure",
    ],
)
def test_what_a_recipe_resolves_to_is_a_recipe_with_the_same_stages(name, tmp_path):
    recipes, made = planned(FOLDER / f"{name}.yaml")
    lock.write(made, recipes, Results((), (), 0.0), tmp_path)
    again = make_plan(lock.read(tmp_path / lock.LOCK).recipes, find())
    assert keys(again) == keys(made)
    assert again.baseline == made.baseline
    assert again.coordinates == made.coordinates


@pytest.mark.parametrize("name", ["table1", "table4", "table9"])
def test_the_lock_of_a_paper_recipe_keeps_the_published_numbers(name, tmp_path):
    if not DATA.is_dir():
        pytest.skip(f"{name} needs the CIFAR parquet files, which are not beside this repository")
    recipes, made = planned(FOLDER / "paper" / "small" / f"{name}.yaml", f"data.root={DATA}")
    lock.write(made, recipes, Results((), (), 0.0), tmp_path)
    again = make_plan(lock.read(tmp_path / lock.LOCK).recipes, find())
    assert keys(again) == keys(made)
    assert again.published == made.published != ()
    assert again.baseline == made.baseline

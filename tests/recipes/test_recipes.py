"""The folder is the list: every shipped recipe begins with what it is and its command, and can be planned."""

from pathlib import Path

import pytest

from ood_core.plan.make import make_plan
from ood_core.recipe.read import find_recipe, read_recipes
from ood_core.run.schedule import run
from ood_core.runtime.shipped import shipped_folder
from ood_core.store.store import Store

FOLDER = Path(__file__).parents[2] / "recipes"
DATA = Path(__file__).parents[3] / "shared" / "data"
RECIPES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))

CIFAR = (f"data.id.path={DATA / 'cifar10'}", f"data.near.0.path={DATA / 'cifar100'}")
NEEDS_DATA = dict.fromkeys(("cifar10", "cifar10_pretexts", "paper/finetune_beit_large"), CIFAR)
TINY_BEIT = (
    "data.image_size=32",
    "data.id.limit=8",
    "data.near.0.limit=1",
    "backbone.pretrained=false",
    "backbone.options={patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}",
    "training.2.epochs=2",
    "training.2.warmup_epochs=1",
    "training.2.batch_size=16",
)


def test_the_shipped_recipes_are_those_of_the_folder():
    shipped = shipped_folder()
    assert sorted(p.relative_to(shipped).with_suffix("").as_posix() for p in shipped.rglob("*.yaml")) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_begins_with_what_it_is_and_its_command(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert f"ood-run {name}" in text


# planned over small sets in the layouts that they name, in test_benchmarks.py and test_paper.py
OVER_SMALL_SETS = (
    "benchmarks/",
    "protocols/full_spectrum",
    *(f"paper/{name}" for name in ("table", "figure", "multiclass", "small/")),
)


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith(OVER_SMALL_SETS)])
def test_a_recipe_can_be_planned(name, plugins):
    overrides = NEEDS_DATA.get(name, ())
    if overrides and not DATA.is_dir():
        pytest.skip(f"{name} needs the CIFAR parquet files, which are not beside this repository")
    made = make_plan(read_recipes(find_recipe(name), overrides), plugins)
    made.check()
    assert made.rows
    smoke = make_plan(read_recipes(find_recipe(name), (*overrides, "smoke=true")), plugins)
    assert list(map(str, smoke.stages)) == list(map(str, made.stages))


@pytest.mark.slow
def test_the_fine_tuning_of_the_paper_runs_at_a_tiny_size(plugins, tmp_path):
    if not DATA.is_dir():
        pytest.skip("needs the CIFAR parquet files, which are not beside this repository")
    name = "paper/finetune_beit_large"
    made = make_plan(read_recipes(find_recipe(name), (*CIFAR, *TINY_BEIT)), plugins)
    made.check()
    results = run(made, Store(tmp_path / "store"))
    assert {row.scorer for row in results.rows} == {
        "mahalanobis-global",
        "mahalanobis",
        "softmax",
        "entropy",
        "energy",
        "gradnorm",
    }

"""The folder is the list: every shipped recipe begins with what it is and its command, and can be planned."""

from pathlib import Path

import pytest

from ood_core import plan, recipe

FOLDER = Path(__file__).parents[2] / "recipes"
DATA = Path(__file__).parents[3] / "shared" / "data"
RECIPES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))

NEEDS_DATA = {
    "cifar10": (f"data.id.path={DATA / 'cifar10'}", f"data.near.0.path={DATA / 'cifar100'}"),
}


def test_the_shipped_recipes_are_those_of_the_folder():
    shipped = recipe.shipped_folder()
    assert sorted(p.relative_to(shipped).with_suffix("").as_posix() for p in shipped.rglob("*.yaml")) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_begins_with_what_it_is_and_its_command(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert f"ood-run {name}" in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_planned(name, plugins):
    overrides = NEEDS_DATA.get(name, ())
    if overrides and not DATA.is_dir():
        pytest.skip(f"{name} needs the CIFAR parquet files, which are not beside this repository")
    made = plan.make(recipe.read(recipe.find(name), overrides), plugins)
    made.check()
    assert made.rows

"""docs/ablations.md: every example becomes the variants that stand below it."""

import re
import shlex
from pathlib import Path

import pytest

from ood_core.plan.make import make_plan
from ood_core.recipe import read as recipe

PAGE = (Path(__file__).parents[2] / "docs" / "ablations.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)

COMMANDS = [found for found in re.findall(r"^ood-run (.*?) *(?:#.*)?$", PAGE, re.MULTILINE) if "--only" in found]


def variants(text, tmp_path, plugins):
    path = tmp_path / "example.yaml"
    path.write_text(text)
    return list(make_plan(recipe.read_recipes(path), plugins).coordinates)


@pytest.mark.parametrize(("text", "names"), EXAMPLES)
def test_an_example_becomes_the_variants_below_it(text, names, tmp_path, plugins):
    assert variants(text, tmp_path, plugins) == names.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_of_the_page_keeps_can_be_planned(command, plugins):
    name, *options = shlex.split(command)
    given = list(zip(options[::2], options[1::2], strict=True))
    kept = [value for option, value in given if option == "--only"]
    assert kept
    read = recipe.read_recipes(recipe.find_recipe(name), [value for option, value in given if option == "--set"], kept)
    assert len(make_plan(read, plugins).rows) < len(
        make_plan(recipe.read_recipes(recipe.find_recipe(name)), plugins).rows
    )

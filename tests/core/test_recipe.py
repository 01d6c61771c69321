"""Reading recipes: values and their lines, base, vary, seeds, overrides, and what is refused."""

import pytest

from ood_core import recipe
from ood_core.errors import OODError


def write(folder, text, name="r.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def only(recipes):
    assert len(recipes) == 1
    return recipes[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2", -2),
        ("+.5", 0.5),
        ("3.", 3.0),
        (".inf", float("inf")),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("[1, two]", [1, "two"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_a_scalar_is_what_it_looks_like(text, value):
    assert recipe.parse(f"key: {text}", "r.yaml").plain() == {"key": value}
    assert type(recipe.parse(f"key: {text}", "r.yaml").plain()["key"]) is type(value)


def test_every_value_knows_the_line_of_its_key():
    root = recipe.parse("a: 1\nb:\n  c:\n    - 2\n    - d: 3\n", "r.yaml")
    assert root.value["a"].place == "r.yaml: line 1"
    assert root.value["b"].place == "r.yaml: line 2"
    items = root.value["b"].value["c"].value
    assert [item.place for item in items] == ["r.yaml: line 4", "r.yaml: line 5"]
    assert items[1].value["d"].place == "r.yaml: line 5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: 'a' is there twice"),
        ("x:\n  a: 1\n  a: 2\n", "line 3: 'a' is there twice"),
        ("a: [1, 2\nb: 3\n", "line 2: not YAML: "),
        ("a:\n\t- 1\n", "line 2: not YAML: "),
        ("a: !!python/name:os.system x\n", "line 1: tags are not read: "),
        ("a: !thing x\n", "line 1: tags are not read: !thing"),
        ("? [1, 2]\n: 3\n", "line 1: a key must be a word"),
        ("a: &x [*x]\n", "an alias that contains itself"),
        ("- 1\n", "line 1: a recipe must be a mapping"),
        ("", "a recipe must be a mapping"),
        ("vary: {}\n", "line 1: 'vary' must name at least one variant"),
        ("a: 1\nvary: {b: 3}\n", "line 2: variant 'b' must be a mapping"),
        ("seed: 1\nseeds: [1]\n", "line 2: either 'seed' or 'seeds', not both"),
        ("seed: one\n", "line 1: a seed must be a whole number"),
        ("seed: -1\n", "line 1: a seed must be a whole number"),
        ("seed: true\n", "line 1: a seed must be a whole number"),
        ("seeds: []\n", "line 1: a seed must be a whole number"),
        ("seeds: [1, 1]\n", "line 1: a seed is there twice"),
        ("a: 1\nbase: none.yaml\n", "line 2: no recipe 'none.yaml' beside r.yaml"),
        ("base: [1]\n", "line 1: 'base' must be the path of a recipe"),
        ("base: r.yaml\n", "its base leads back to itself"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(OODError) as caught:
        recipe.read(write(tmp_path, text))
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OODError, match="cannot be read"):
        recipe.read(path)


def test_an_alias_gives_the_same_value_twice():
    assert recipe.parse("a: &x {b: 1}\nc: *x\n", "r").plain() == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_plain_recipe_is_a_list_of_one(tmp_path):
    read = only(recipe.read(write(tmp_path, "seed: 3\na: 1\n")))
    assert (read.name, read.variant, read.seed, read.root.plain()) == ("r", "r", 3, {"a": 1})


def test_the_seed_is_0_unless_given(tmp_path):
    assert only(recipe.read(write(tmp_path, "a: 1\n"))).seed == 0


def test_variants_come_in_order_each_under_each_seed(tmp_path):
    text = "seeds: [5, 6]\na: 1\nb: {c: 2, d: 3}\nvary:\n  one: {}\n  two: {b: {c: 4}}\n"
    read = recipe.read(write(tmp_path, text))
    assert [(r.variant, r.seed) for r in read] == [("one", 5), ("one", 6), ("two", 5), ("two", 6)]
    assert read[0].root.plain() == {"a": 1, "b": {"c": 2, "d": 3}}
    assert read[3].root.plain() == {"a": 1, "b": {"c": 4, "d": 3}}


def test_seeds_laid_over_a_seed_replace_it_and_the_other_way_round(tmp_path):
    write(tmp_path, "seed: 3\na: 1\n", "one.yaml")
    write(tmp_path, "base: one.yaml\nseeds: [4, 5]\n", "many.yaml")
    assert [r.seed for r in recipe.read(tmp_path / "many.yaml")] == [4, 5]
    assert [r.seed for r in recipe.read(tmp_path / "many.yaml", ["seed=6"])] == [6]
    assert [r.seed for r in recipe.read(tmp_path / "one.yaml", ["seeds=[7, 8]"])] == [7, 8]
    assert [r.seed for r in recipe.read(write(tmp_path, "base: many.yaml\nvary: {x: {seed: 9}}\n"))] == [9]


def test_a_base_is_found_beside_the_recipe_and_overlaid(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "a: 1\nb: {c: 2, d: 3}\nlist: [1, 2]\n", "base.yaml")
    read = only(recipe.read(write(tmp_path / "sub", "base: ../base.yaml\nb: {c: 4}\nlist: [3]\n")))
    assert read.root.plain() == {"a": 1, "b": {"c": 4, "d": 3}, "list": [3]}


def test_what_comes_from_the_base_keeps_the_place_in_the_base(tmp_path):
    write(tmp_path, "a: 1\nb: 2\n", "base.yaml")
    read = only(recipe.read(write(tmp_path, "base: base.yaml\na: 3\n")))
    assert read.root.value["b"].place == "base.yaml: line 2"
    assert read.root.value["a"].place == "r.yaml: line 2"


def test_another_use_replaces_the_options_of_the_old_one(tmp_path):
    text = "backbone: {use: x, depth: 3}\nvary:\n  y: {backbone: {use: y}}\n  x: {backbone: {width: 1}}\n"
    first, second = recipe.read(write(tmp_path, text))
    assert first.root.plain() == {"backbone": {"use": "y"}}
    assert second.root.plain() == {"backbone": {"use": "x", "depth": 3, "width": 1}}


def test_an_override_reaches_into_mappings_and_lists_of_every_variant(tmp_path):
    text = "training: [{epochs: 1}, {epochs: 2}]\nvary: {a: {}, b: {x: 1}}\n"
    read = recipe.read(write(tmp_path, text), ["training.1.epochs=5", "data.id.path=/a=b", "seeds=[1, 2]"])
    assert [(r.variant, r.seed) for r in read] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert read[2].root.plain()["training"] == [{"epochs": 1}, {"epochs": 5}]
    assert read[2].root.plain()["data"] == {"id": {"path": "/a=b"}}


def test_an_override_wins_over_a_variant(tmp_path):
    text = "a: 1\nvary: {x: {a: 2}, y: {a: 3}}\n"
    assert [r.root.plain() for r in recipe.read(write(tmp_path, text), ["a=1e-3"])] == [{"a": 1e-3}] * 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "--set a: must read a.b=value"),
        ("=3", "--set =3: must read a.b=value"),
        ("list.7=1", "'7' must be one of the numbers 0 to 1, a place in a list"),
        ("list.x=1", "'x' must be one of the numbers 0 to 1"),
        ("a.b=1", "there is a single value above 'b', not a mapping"),
        ("a=[1", "--set a=[1: not YAML"),
        ("base=x.yaml", "'base' can only stand in a recipe"),
        ("vary.x=1", "'vary' can only stand in a recipe"),
    ],
)
def test_a_wrong_override_is_named(tmp_path, override, message):
    with pytest.raises(OODError) as caught:
        recipe.read(write(tmp_path, "a: 1\nlist: [1, 2]\n"), [override])
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--set {override}")


def test_a_shipped_recipe_is_found_by_name():
    assert recipe.find("mood").name == "mood.yaml"
    assert recipe.find("ablations/scorers.yaml").name == "scorers.yaml"


def test_an_unknown_recipe_is_answered_with_the_nearest_name():
    with pytest.raises(OODError, match=r"no recipe 'moood', neither a file nor shipped\. Did you mean 'mood'\?"):
        recipe.find("moood")

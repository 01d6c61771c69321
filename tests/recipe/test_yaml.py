"""Values of a recipe: what YAML scalars mean, where they stand, and changes at a path."""

import pytest

from ood_core.errors import OODError
from ood_core.recipe.yaml import LocatedValue, drop_removed, merge, parse, set_at_path


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
    assert parse(f"key: {text}", "r.yaml").plain() == {"key": value}
    assert type(parse(f"key: {text}", "r.yaml").plain()["key"]) is type(value)


def test_every_value_knows_the_line_of_its_key():
    root = parse("a: 1\nb:\n  c:\n    - 2\n    - d: 3\n", "r.yaml")
    assert root.value["a"].place == "r.yaml: line 1"
    assert root.value["b"].place == "r.yaml: line 2"
    items = root.value["b"].value["c"].value
    assert [item.place for item in items] == ["r.yaml: line 4", "r.yaml: line 5"]
    assert items[1].value["d"].place == "r.yaml: line 5"


def test_an_alias_gives_the_same_value_twice():
    assert parse("a: &x {b: 1}\nc: *x\n", "r").plain() == {"a": {"b": 1}, "c": {"b": 1}}


def changed(text, path, value):
    return drop_removed(set_at_path(parse(text, "r"), path.split("."), parse(value, "s"))).plain()


def test_a_scalar_remembers_how_it_was_written():
    root = parse("a: 1e-3\nb: '07'\nc: 0.10\nd: no\n", "r")
    assert [node.text for node in root.value.values()] == ["1e-3", "07", "0.10", "no"]
    assert root.value["a"] == LocatedValue(0.001, "r: line 1")


def test_a_value_is_put_at_the_end_of_its_path_and_the_original_stays():
    root = parse("a: {b: [1, {c: 2}]}\n", "r")
    assert set_at_path(root, ["a", "b", "1", "c"], LocatedValue(3, "s")).plain() == {"a": {"b": [1, {"c": 3}]}}
    assert set_at_path(root, ["d", "e"], LocatedValue(3, "s")).plain() == {"a": {"b": [1, {"c": 2}]}, "d": {"e": 3}}
    assert root.plain() == {"a": {"b": [1, {"c": 2}]}}


def test_null_leaves_an_item_out_but_stays_the_value_of_a_key():
    assert changed("a: [1, 2, 3]\n", "a.1", "null") == {"a": [1, 3]}
    assert changed("a: [{b: 1}]\n", "a.0.b", "null") == {"a": [{"b": None}]}
    assert changed("a: [null, 2]\n", "a.1", "3") == {"a": [None, 3]}


def test_what_is_left_out_stays_so_when_something_inside_it_changes():
    gone = set_at_path(parse("a: [{b: 1}, 2]\n", "r"), ["a", "0"], LocatedValue(None, "s"))
    assert drop_removed(set_at_path(gone, ["a", "0", "b"], LocatedValue(5, "s"))).plain() == {"a": [2]}
    assert drop_removed(set_at_path(gone, ["a", "0"], LocatedValue(5, "s"))).plain() == {"a": [5, 2]}


@pytest.mark.parametrize(("path", "message"), [("a.2", "0 to 1"), ("a.-1", "0 to 1"), ("a.0.x", "above 'x'")])
def test_a_path_that_leads_nowhere_is_told_at_the_change(path, message):
    with pytest.raises(OODError, match=f"^s: line 1: .*{message}"):
        set_at_path(parse("a: [1, 2]\n", "r"), path.split("."), parse("x: 3", "s").value["x"])


def test_mappings_merge_key_by_key_unless_another_plugin_is_used():
    below, above = parse("{use: x, a: 1, l: [1, 2]}", "r"), parse("{b: 2, l: [3]}", "s")
    assert merge(below, above).plain() == {"use": "x", "a": 1, "b": 2, "l": [3]}
    assert merge(below, parse("{use: y}", "s")).plain() == {"use": "y"}

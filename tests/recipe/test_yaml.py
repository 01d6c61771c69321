"""Values of a recipe: what YAML scalars mean, where they stand, and changes at a path."""

import pytest

from ood_core.errors import OODError
from ood_core.recipe.yaml import DEEPEST, MOST_UNFOLDED, LocatedValue, drop_removed, merge, parse, set_at_path


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


def test_an_alias_stands_at_its_own_key_and_shares_its_values():
    root = parse("a: &x\n  b: [1]\nc: *x\n", "r")
    assert [node.place for node in root.value.values()] == ["r: line 1", "r: line 3"]
    assert root.value["a"].value is root.value["c"].value


def test_aliases_of_aliases_are_refused_before_they_unfold():
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    with pytest.raises(OODError, match=rf"^r: line 4: the aliases stand for more than {MOST_UNFOLDED} values$"):
        parse(laughs, "r")
    with pytest.raises(OODError, match="the aliases stand for more than"):
        parse(f"{{a: &a [{', '.join('0' * 100)}], b: [{', '.join(['*a'] * 101)}]}}", "--set b", line_numbers=False)


def test_as_many_values_without_aliases_are_read():
    assert len(parse(f"[{', '.join(['1'] * (MOST_UNFOLDED + 1))}]", "r").value) == MOST_UNFOLDED + 1


@pytest.mark.parametrize(
    "text",
    [
        f"a: {'[' * 300}{']' * 300}",
        f"a: {'[' * DEEPEST}{']' * DEEPEST}",
        "".join(f"{'  ' * i}a:\n" for i in range(300)),
        "".join(f"{'- ' * (i > 0)}a{i}: &a{i} [{f'*a{i - 1}' if i else ''}]\n".lstrip("- ") for i in range(60)),
    ],
    ids=["far too deep", "one too deep", "mappings", "aliases of aliases"],
)
def test_nesting_has_an_end(text):
    with pytest.raises(OODError, match=rf"^r: .*nested more than {DEEPEST} levels deep$"):
        parse(text, "r")


def test_what_is_nested_to_the_limit_is_read():
    assert parse("[" * DEEPEST + "]" * DEEPEST, "r").plain() is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, "whole numbers end at 9223372036854775807, not 999.*quotes$"),
        (str(2**63), "whole numbers end at"),
        ("-" + "9" * 20, "whole numbers end at"),
        ('"a\\ud800"', r"the character U\+D800 is not read"),
        ('"a\\0b"', r"the character U\+0000 is not read"),
        ('{"\\udfff": 1}', r"the character U\+DFFF is not read"),
        ('"\\U00110000"', "not YAML"),
        ("\ud800", "not YAML"),
    ],
)
def test_a_scalar_that_nothing_can_use_is_refused_in_one_line(text, message):
    with pytest.raises(OODError, match=f"^r.*{message}") as caught:
        parse(f"a: {text}", "r")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


def test_the_largest_numbers_are_read():
    assert parse(f"[{2**63 - 1}, -{2**63 - 1}, {'0' * 30}7]", "r").plain() == [2**63 - 1, 1 - 2**63, 7]


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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.2", "0 to 1"),
        ("a.-1", "0 to 1"),
        (f"a.{'9' * 5000}", "0 to 1"),
        ("a.0.x", "above 'x'"),
        (".".join("a" * 400), f"at most {DEEPEST} names"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_at_the_change(path, message):
    with pytest.raises(OODError, match=f"^s: line 1: .*{message}"):
        set_at_path(parse("a: [1, 2]\n", "r"), path.split("."), parse("x: 3", "s").value["x"])


def test_mappings_merge_key_by_key_unless_another_plugin_is_used():
    below, above = parse("{use: x, a: 1, l: [1, 2]}", "r"), parse("{b: 2, l: [3]}", "s")
    assert merge(below, above).plain() == {"use": "x", "a": 1, "b": 2, "l": [3]}
    assert merge(below, parse("{use: y}", "s")).plain() == {"use": "y"}


def test_a_mistake_is_one_line_of_bounded_length_whatever_it_quotes():
    node = LocatedValue(0, "r: line 1")
    assert str(node.error("no class 'a\nb\u2028c'")) == "r: line 1: no class 'a b c'"
    assert len(str(node.error("x" * 10_000))) < 2100

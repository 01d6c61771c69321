"""What `vary:` becomes: names, order, zips, excludes, baselines, what is kept, and every mistake at its line."""

import pytest

from ood_core.errors import OODError
from ood_core.recipe import variants as grid
from ood_core.recipe.yaml import parse

AXES = """\
axes:
  pretext:
    mim: {}
    mae: {training.0: {use: mae}}
  fine-tuning:
    yes: {}
    no: {training.1: null}
  training.0.epochs: [30, 1e2]
"""


def expanded(text):
    return grid.expand(parse(text, "r"), "r")


def names(text):
    return [variant.name for variant in expanded(text).variants]


def test_a_recipe_that_varies_nothing_is_one_variant_without_coordinates():
    (variant,) = grid.expand(None, "r").variants
    assert (variant.name, variant.coordinates, variant.changes) == ("r", {}, ())


def test_named_variants_lie_on_an_axis_called_variant():
    variants = expanded("one: {}\ntwo: {a: 1}\n").variants
    assert [v.coordinates for v in variants] == [{"variant": "one"}, {"variant": "two"}]
    assert variants[1].changes[0].plain() == {"a": 1}


def test_a_product_too_large_is_refused_before_it_is_made():
    axes = "".join(f"  a{axis}: [{', '.join(map(str, range(10)))}]\n" for axis in range(30))
    with pytest.raises(OODError, match=r"^r: line 1: 'vary' makes 10{30} variants, of which there can be 5000$"):
        expanded(f"axes:\n{axes}")


def test_the_first_axis_is_the_slowest_and_names_join_the_values():
    assert names(AXES) == [
        "mim, yes, 30",
        "mim, yes, 1e2",
        "mim, no, 30",
        "mim, no, 1e2",
        "mae, yes, 30",
        "mae, yes, 1e2",
        "mae, no, 30",
        "mae, no, 1e2",
    ]


def test_coordinates_and_changes_come_axis_by_axis():
    variant = expanded(AXES).variants[-1]
    assert variant.coordinates == {"pretext": "mae", "fine-tuning": "no", "training.0.epochs": "1e2"}
    changes = [change.plain() for change in variant.changes]
    assert changes == [{"training.0": {"use": "mae"}}, {"training.1": None}, {"training.0.epochs": 100.0}]
    assert [change.place for change in variant.changes] == ["r: line 4", "r: line 7", "r: line 8"]


def test_listed_values_are_named_by_their_text_and_plugins_by_their_name():
    text = "axes: {a.b: [null, 0.10, 1e-3, true, two, '07', {use: knn, k: 3}]}"
    assert names(text) == ["null", "0.10", "1e-3", "true", "two", "07", "knn"]


def test_an_alias_gives_two_values_the_same_changes():
    variants = expanded("axes: {a: {x: &c {b: 1}, y: *c}}").variants
    assert [v.changes[0].plain() for v in variants] == [{"b": 1}] * 2


def test_zipped_axes_advance_together_where_the_first_of_them_stands():
    text = "axes: {a: {x: {}, y: {}}, b: [1, 2], c.d: [3, 4]}\nzip: [[c.d, a]]\n"
    assert names(text) == ["x, 1, 3", "x, 2, 3", "y, 1, 4", "y, 2, 4"]


def test_what_is_excluded_matches_on_every_axis_given_and_any_value_of_a_list():
    text = AXES + "exclude: [{pretext: mim, training.0.epochs: 1e2}, {fine-tuning: no, training.0.epochs: [30, 1e2]}]\n"
    made = expanded(text)
    assert [v.name for v in made.variants] == ["mim, yes, 30", "mae, yes, 30", "mae, yes, 1e2"]
    assert [v.name for v in made.excluded] == [
        "mim, yes, 1e2",
        "mim, no, 30",
        "mim, no, 1e2",
        "mae, no, 30",
        "mae, no, 1e2",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {}", "line 1: 'axes' must name at least one axis, each with its values"),
        ("axes: [a, b]", "line 1: 'axes' must name at least one axis"),
        ("zip: [[a, b]]", "line 1: 'axes' must name at least one axis"),
        (
            "axes:\n  a: {}",
            "line 2: axis 'a' must name its values, each with what it changes, or be a path with a list",
        ),
        ("axes:\n  a: []", "line 2: axis 'a' must name its values"),
        ("axes:\n  a: mim", "line 2: axis 'a' must name its values"),
        ("axes:\n  a:\n    x: 3", "line 3: value 'x' of axis 'a' must be a mapping of keys to values"),
        ("axes:\n  a:\n    x:", "line 3: value 'x' of axis 'a' is empty; {} changes nothing"),
        ("axes:\n  a:\n    x: {base: y}", "line 3: 'base' can only stand at the top of a recipe, not in value 'x'"),
        ("axes:\n  seed: [0, 1]", "line 2: seeds are no axis: 'seeds: [0, 1, 2]' beside 'vary' repeats every variant"),
        (
            "axes:\n  a.b: [[1], [2]]",
            "line 2: a value of axis 'a.b' that is a list or mapping needs a name: 'a.b: {NAME:",
        ),
        ("axes:\n  a.b:\n    - {c: 1}", "line 3: a value of axis 'a.b' that is a list or mapping needs a name"),
        ("axes:\n  a.b:\n    - 1\n    - 1", "line 4: axis 'a.b' has two values '1'; name them: 'a.b: {NAME: {...}}'"),
        ("axes:\n  a: {x: {}}\nexclud: []", "line 3: no key of 'vary' with axes: 'exclud'. Did you mean 'exclude'?"),
        ("axes: {a: {'x, y': {}, x: {}}, b: {z: {}, 'y, z': {}}}", "line 1: two variants are called 'x, y, z'"),
        (AXES + "zip: [pretext]", "line 9: 'zip' must be a list of lists of axes, as [[a, b]]"),
        (AXES + "zip:\n  - [pretext]", "line 10: 'zip' must be a list of lists of axes"),
        (AXES + "zip:\n  - [pretxt, fine-tuning]", "line 10: no axis 'pretxt'. Did you mean 'pretext'?"),
        (AXES + "zip: [[pretext, fine-tuning], [pretext, training.0.epochs]]", "line 9: 'zip' names an axis twice"),
        (
            "axes: {a.b: [1, 2], c.d: [1]}\nzip: [[a.b, c.d]]",
            "line 2: zipped axes must have as many values each; 'a.b' has 2",
        ),
        (AXES + "exclude: {pretext: mim}", "line 9: 'exclude' must be a list of mappings of axes to values"),
        (AXES + "exclude: [mim]", "line 9: what is excluded must be a mapping"),
        (AXES + "exclude: [{}]", "line 9: what is excluded must name an axis"),
        (AXES + "exclude:\n  - {pretxt: mim}", "line 10: no axis 'pretxt'. Did you mean 'pretext'?"),
        (
            AXES + "exclude:\n  - {pretext: [mim, mea]}",
            "line 10: no value 'mea' of axis 'pretext'. Did you mean 'mae'?",
        ),
        (AXES + "exclude: [{pretext: [mim, mae]}]", "line 9: 'exclude' leaves no variant"),
        (
            "axes: {a.b: [1, 2], c.d: [1, 2]}\nzip: [[a.b, c.d]]\nexclude: [{a.b: 1, c.d: 2}]",
            "line 3: this excludes no variant",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_nearest_name(text, message):
    with pytest.raises(OODError) as caught:
        expanded(text)
    assert str(caught.value).startswith(f"r: {message}")
    assert "\n" not in str(caught.value)


def test_two_axes_that_change_the_same_are_refused_unless_they_agree_or_never_meet():
    axes = "axes:\n  a: {x: {t.0.e: 1, s: {use: m}}}\n  b: {y: {t.0.e: %s, s: {k: 1}}, z: {}}\n"
    with pytest.raises(OODError, match=r"^r: line 3: the axes 'a' and 'b' both change 't\.0\.e' in variant 'x, y'$"):
        expanded(axes % 2)
    assert names(axes % 1) == ["x, y", "x, z"]
    assert names(axes % 2 + "exclude: [{b: y}]") == ["x, z"]


# -------------------------------------------------------------------------------------------------- what to keep


def kept(text, *options):
    return [variant.name for variant in expanded(text).only(options)]


def test_values_of_an_axis_are_kept_and_options_add_up_for_the_same_axis():
    assert kept(AXES, "pretext=mae", "fine-tuning=no") == ["mae, no, 30", "mae, no, 1e2"]
    assert kept(AXES, "pretext=mae,mim", "training.0.epochs=1e2", "fine-tuning=yes") == [
        "mim, yes, 1e2",
        "mae, yes, 1e2",
    ]
    assert kept("one: {}\ntwo: {}\nthree: {}", "variant=three", "variant=one") == ["one", "three"]
    assert kept("'one, 2': {}\none: {}", "variant=one, 2") == ["one, 2"]
    assert len(kept(AXES)) == 8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("pretext=mmi", "no value 'mmi' of axis 'pretext'. Did you mean 'mim'?"),
        ("pretext=mim,mea", "no value 'mea' of axis 'pretext'. Did you mean 'mae'?"),
        ("pretxt=mim", "no axis 'pretxt'. Did you mean 'pretext'?"),
        ("pretext", "must read AXIS=VALUE or AXIS=VALUE,VALUE"),
        ("=mim", "must read AXIS=VALUE or AXIS=VALUE,VALUE"),
        ("seed=0,1", "seeds are no axis; --set seeds=[0,1] takes some"),
        ("training.0.epochs=1e2", "no variant is left"),
    ],
)
def test_what_cannot_be_kept_is_told_with_the_nearest_name(option, message):
    with pytest.raises(OODError) as caught:
        kept(AXES + "exclude: [{training.0.epochs: 1e2}]", option)
    assert str(caught.value) == f"--only {option}: {message}"


# -------------------------------------------------------------------------------------------------- the baseline


def baselines(text, given, *options):
    made = expanded(text)
    names, scorer = made.baselines(parse(f"baseline: {given}", "b").value["baseline"], made.only(options))
    return names, scorer.value if scorer is not None else None


def baseline(text, given, *options):
    """Return the baseline that all variants share, and the scorer."""
    names, scorer = baselines(text, given, *options)
    (name,) = set(names.values())
    return name, scorer


def test_the_baseline_is_a_name_or_the_values_that_single_a_variant_out():
    assert baseline(AXES, "mae, no, 30") == ("mae, no, 30", None)
    values = "{pretext: mae, fine-tuning: no, training.0.epochs: 1e2, scorer: knn}"
    assert baseline(AXES, values) == ("mae, no, 1e2", "knn")
    assert (
        baseline(AXES + "exclude: [{fine-tuning: no}, {training.0.epochs: 30}]", "{pretext: mae}")[0] == "mae, yes, 1e2"
    )
    assert baseline("one: {}\ntwo: {}", "{variant: two}") == ("two", None)
    assert baseline(AXES, "{scorer: knn}") == ("", "knn")
    assert baseline(AXES, "null") == ("mim, yes, 30", None)


def test_values_of_some_axes_give_each_variant_a_baseline_of_its_own():
    axes = "axes: {a: {x: {}, y: {}}, b: {p: {}, q: {}}}"
    own = {"x, p": "y, p", "x, q": "y, q", "y, p": "y, p", "y, q": "y, q"}
    assert baselines(axes, "{a: y}") == (own, None)
    assert baselines(axes, "{a: y, scorer: knn}") == (own, "knn")
    assert baseline(axes + "\nexclude: [{a: y, b: q}]", "{a: y}") == ("y, p", None)  # which fits one


def test_a_variant_whose_own_baseline_is_excluded_is_compared_with_itself():
    axes = "axes: {a: {x: {}, y: {}}, b: {p: {}, q: {}, r: {}}}\nexclude: [{a: y, b: q}]"
    own = {"x, p": "y, p", "x, q": "x, q", "x, r": "y, r", "y, p": "y, p", "y, r": "y, r"}
    assert baselines(axes, "{a: y}") == (own, None)


def test_own_baselines_that_are_all_left_out_are_told():
    axes = "axes: {a: {x: {}, y: {}}, b: {p: {}, q: {}}}"
    with pytest.raises(OODError, match="b: line 1: --only leaves out the baseline"):
        baselines(axes, "{a: y}", "a=x")


def test_an_axis_may_be_called_scorer_and_is_then_what_the_baseline_names():
    assert baseline("axes: {scorer: {x: {}, y: {}}}", "{scorer: y}") == ("y", None)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("mea", (), "no variant 'mea'. There is: mae, no, 1e2, "),
        ("mim, yes, 3", (), "no variant 'mim, yes, 3'. Did you mean 'mim, yes, 30'?"),
        ("[a]", (), "'baseline' must be a variant's name, or a mapping of axes to values"),
        ("{pretxt: mim}", (), "no axis 'pretxt'. Did you mean 'pretext'?"),
        ("{pretext: mmi}", (), "no value 'mmi' of axis 'pretext'. Did you mean 'mim'?"),
        ("{pretext: [mim, mae]}", (), "'baseline' takes one value of an axis"),
        ("{scorer: [a]}", (), "the baseline's scorer must be a name"),
        ("mim, no, 30", (), "the baseline 'mim, no, 30' is excluded"),
        ("{pretext: mim, fine-tuning: no, training.0.epochs: 30}", (), "the baseline 'mim, no, 30' is excluded"),
        (
            "mae, yes, 30",
            ("pretext=mim",),
            "--only leaves out the baseline 'mae, yes, 30'; --set baseline=NAME takes another",
        ),
    ],
)
def test_a_baseline_that_is_not_there_is_told_at_its_line(given, options, message):
    with pytest.raises(OODError) as caught:
        baseline(AXES + "exclude: [{pretext: mim, fine-tuning: no, training.0.epochs: 30}]", given, *options)
    assert str(caught.value).startswith(f"b: line 1: {message}")
    assert "\n" not in str(caught.value)


def test_a_baseline_whose_values_are_zipped_apart_fits_nothing():
    text = "axes: {a.b: [1, 2], c.d: [1, 2]}\nzip: [[a.b, c.d]]"
    with pytest.raises(OODError, match="fits no variant: 'zip' keeps these values apart"):
        baseline(text, "{a.b: 1, c.d: 2}")


@pytest.mark.parametrize("value", ["{b: {c: 1}}", "[[1]]", "[1, {b: 1}]"])
def test_a_value_is_excluded_by_its_name(value):
    with pytest.raises(OODError, match=r"^r: line 1: a value of axis 'a' is meant by its name, not by a list or map"):
        expanded(f"{{axes: {{a: [1, 2]}}, exclude: [{{a: {value}}}]}}")

"""Reading recipes: base, vary, seeds, overrides, what to keep, and what is refused."""

import pytest

from ood_core.errors import OODError
from ood_core.recipe import read as recipe
from ood_core.runtime.shipped import recipe_names


def write(folder, text, name="r.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def only(recipes):
    assert len(recipes) == 1
    return recipes[0]


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
        ("vary:\n  b:\n", "line 2: variant 'b' is empty; {} changes nothing, null takes out what a base names"),
        ("vary:\n  b: {vary: {}}\n", "line 2: 'vary' can only stand at the top of a recipe, not in variant 'b'"),
        ("vary:\n  b: {baseline: b}\n", "line 2: 'baseline' can only stand at the top of a recipe, not in variant"),
        ("list: [1, 2]\nvary:\n  b:\n    list.2: 3\n", "line 4: '2' must be one of the numbers 0 to 1"),
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
        recipe.read_recipes(write(tmp_path, text))
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yaml")
    assert "\n" not in str(caught.value)


def test_bases_that_share_bases_are_read_once_each(tmp_path):
    for level in range(15):
        write(tmp_path, f"base: [{', '.join([f'{level + 1}.yaml'] * 9)}]\na{level}: 1\n", f"{level}.yaml")
    write(tmp_path, "seed: 3\n", "15.yaml")
    assert only(recipe.read_recipes(tmp_path / "0.yaml")).seed == 3


def test_a_chain_of_bases_has_an_end(tmp_path):
    for level in range(30):
        write(tmp_path, f"base: {level + 1}.yaml\n", f"{level}.yaml")
    with pytest.raises(OODError, match=r"^20\.yaml: more than 20 recipes lie above each other by 'base'$"):
        recipe.read_recipes(tmp_path / "0.yaml")


def test_variants_times_seeds_are_counted_before_they_are_made(tmp_path):
    few = write(tmp_path, "vary: {a: {}, b: {}}\n")
    with pytest.raises(OODError, match=r"^r\.yaml: more than 5000 experiments, which are variants times seeds$"):
        recipe.read_recipes(few, [f"seeds=[{', '.join(map(str, range(2501)))}]"])


@pytest.mark.parametrize("text", ["{name}", "{name}/x.yaml"])
def test_a_name_too_long_for_a_file_is_no_recipe(tmp_path, text):
    name = text.format(name="x" * 300)
    with pytest.raises(OODError, match=r"^no recipe 'xxx"):
        recipe.find_recipe(name)
    with pytest.raises(OODError, match=r"^r\.yaml: line 1: no recipe 'xxx"):
        recipe.read_recipes(write(tmp_path, f"base: {name}\n"))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OODError, match="cannot be read"):
        recipe.read_recipes(path)


def test_a_plain_recipe_is_a_list_of_one(tmp_path):
    read = only(recipe.read_recipes(write(tmp_path, "seed: 3\na: 1\n")))
    assert (read.name, read.variant, read.seed, read.root.plain()) == ("r", "r", 3, {"a": 1})


def test_the_seed_is_0_unless_given(tmp_path):
    assert only(recipe.read_recipes(write(tmp_path, "a: 1\n"))).seed == 0


def test_variants_come_in_order_each_under_each_seed(tmp_path):
    text = "seeds: [5, 6]\na: 1\nb: {c: 2, d: 3}\nvary:\n  one: {}\n  two: {b: {c: 4}}\n"
    read = recipe.read_recipes(write(tmp_path, text))
    assert [(r.variant, r.seed) for r in read] == [("one", 5), ("one", 6), ("two", 5), ("two", 6)]
    assert read[0].root.plain() == {"a": 1, "b": {"c": 2, "d": 3}}
    assert read[3].root.plain() == {"a": 1, "b": {"c": 4, "d": 3}}


def test_seeds_laid_over_a_seed_replace_it_and_the_other_way_round(tmp_path):
    write(tmp_path, "seed: 3\na: 1\n", "one.yaml")
    write(tmp_path, "base: one.yaml\nseeds: [4, 5]\n", "many.yaml")
    assert [r.seed for r in recipe.read_recipes(tmp_path / "many.yaml")] == [4, 5]
    assert [r.seed for r in recipe.read_recipes(tmp_path / "many.yaml", ["seed=6"])] == [6]
    assert [r.seed for r in recipe.read_recipes(tmp_path / "one.yaml", ["seeds=[7, 8]"])] == [7, 8]
    assert [r.seed for r in recipe.read_recipes(write(tmp_path, "base: many.yaml\nvary: {x: {seed: 9}}\n"))] == [9]


def test_a_base_is_found_beside_the_recipe_and_overlaid(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "a: 1\nb: {c: 2, d: 3}\nlist: [1, 2]\n", "base.yaml")
    read = only(recipe.read_recipes(write(tmp_path / "sub", "base: ../base.yaml\nb: {c: 4}\nlist: [3]\n")))
    assert read.root.plain() == {"a": 1, "b": {"c": 4, "d": 3}, "list": [3]}


def test_what_comes_from_the_base_keeps_the_place_in_the_base(tmp_path):
    write(tmp_path, "a: 1\nb: 2\n", "base.yaml")
    read = only(recipe.read_recipes(write(tmp_path, "base: base.yaml\na: 3\n")))
    assert read.root.value["b"].place == "base.yaml: line 2"
    assert read.root.value["a"].place == "r.yaml: line 2"


def test_another_use_replaces_the_options_of_the_old_one(tmp_path):
    text = "backbone: {use: x, depth: 3}\nvary:\n  y: {backbone: {use: y}}\n  x: {backbone: {width: 1}}\n"
    first, second = recipe.read_recipes(write(tmp_path, text))
    assert first.root.plain() == {"backbone": {"use": "y"}}
    assert second.root.plain() == {"backbone": {"use": "x", "depth": 3, "width": 1}}


def test_an_override_reaches_into_mappings_and_lists_of_every_variant(tmp_path):
    text = "training: [{epochs: 1}, {epochs: 2}]\nvary: {a: {}, b: {x: 1}}\n"
    read = recipe.read_recipes(write(tmp_path, text), ["training.1.epochs=5", "data.id.path=/a=b", "seeds=[1, 2]"])
    assert [(r.variant, r.seed) for r in read] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert read[2].root.plain()["training"] == [{"epochs": 1}, {"epochs": 5}]
    assert read[2].root.plain()["data"] == {"id": {"path": "/a=b"}}


def test_an_override_wins_over_a_variant(tmp_path):
    text = "a: 1\nvary: {x: {a: 2}, y: {a: 3}}\n"
    assert [r.root.plain() for r in recipe.read_recipes(write(tmp_path, text), ["a=1e-3"])] == [{"a": 1e-3}] * 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "--set a: must read a.b=value"),
        ("=3", "--set =3: must read a.b=value"),
        ("list.7=1", "'7' must be one of the numbers 0 to 1, a place in a list"),
        ("list.x=1", "'x' must be one of the numbers 0 to 1"),
        ("a.b=1", "there is a single value above 'b', not a mapping"),
        ("baseline=x", "no variant 'x'. There is: r"),
        ("baseline.pretext=x", "no axis 'pretext'. There is none"),
        ("a=[1", "--set a=[1: not YAML"),
        ("base=x.yaml", "'base' can only stand in a recipe"),
        ("vary.x=1", "'vary' can only stand in a recipe"),
    ],
)
def test_a_wrong_override_is_named(tmp_path, override, message):
    with pytest.raises(OODError) as caught:
        recipe.read_recipes(write(tmp_path, "a: 1\nlist: [1, 2]\n"), [override])
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--set {override}")


def test_a_shipped_recipe_is_found_by_name():
    assert recipe.find_recipe("mood").name == "mood.yaml"
    assert recipe.find_recipe("ablations/scorers.yaml").name == "scorers.yaml"


def test_an_unknown_recipe_is_answered_with_the_nearest_name():
    with pytest.raises(OODError, match=r"no recipe 'moood', neither a file nor shipped\. Did you mean 'mood'\?"):
        recipe.find_recipe("moood")


# ----------------------------------------------------------------------------------------- changes at dotted paths


def test_a_variant_changes_what_its_dotted_paths_lead_to(tmp_path):
    text = "training: [{use: a, epochs: 1}, {use: b, epochs: 2}]\nvary: {x: {training.1.epochs: 3, data.size: 4}}\n"
    read = only(recipe.read_recipes(write(tmp_path, text)))
    assert read.root.plain() == {
        "training": [{"use": "a", "epochs": 1}, {"use": "b", "epochs": 3}],
        "data": {"size": 4},
    }
    assert read.root.value["training"].value[1].value["epochs"].place == "r.yaml: line 2"


def test_whole_sections_are_laid_over_before_what_is_inside_them_changes(tmp_path):
    text = "vary: {x: {training.0.epochs: 9, training: [{use: a, epochs: 1}], training.0: {use: c, width: 2}}}\n"
    read = only(recipe.read_recipes(write(tmp_path, text)))
    assert read.root.plain() == {"training": [{"use": "c", "width": 2, "epochs": 9}]}


def test_a_bare_name_gains_options_behind_a_dotted_path(tmp_path):
    read = only(recipe.read_recipes(write(tmp_path, "scorers: [energy, knn]\nvary: {x: {scorers.1.k: 5}}\n")))
    assert read.root.plain() == {"scorers": ["energy", {"use": "knn", "k": 5}]}


def test_null_leaves_an_item_out_and_the_numbers_of_the_others_stay(tmp_path):
    text = "list: [a, b, {use: c}]\ndata: {near: [p, q]}\nvary: {x: {list.0: null, list.2.k: 1, data.near.1: null}}\n"
    path = write(tmp_path, text)
    assert only(recipe.read_recipes(path)).root.plain() == {
        "list": ["b", {"use": "c", "k": 1}],
        "data": {"near": ["p"]},
    }
    shorter = only(recipe.read_recipes(path, ["list.1=null", "list.2.k=2", "list.0.k=3"]))
    assert shorter.root.plain()["list"] == [{"use": "c", "k": 2}]
    assert only(recipe.read_recipes(path, ["list.0=d"])).root.plain()["list"] == ["d", "b", {"use": "c", "k": 1}]


def test_null_anywhere_else_is_a_value(tmp_path):
    text = "training: [{use: a, max: 1, pair: [null, 2]}]\nsize: 3\nvary: {x: {training.0.max: null, size: null}}\n"
    read = only(recipe.read_recipes(write(tmp_path, text)))
    assert read.root.plain() == {"training": [{"use": "a", "max": None, "pair": [None, 2]}], "size": None}


# ------------------------------------------------------------------------------------------------- over a base

AXES = """\
a: 1
vary:
  axes:
    pretext: {mim: {a: 2}, mae: {a: 3}}
    depth: [4, 6]
  exclude: [{pretext: mae, depth: 6}]
"""


def variants(path, *overrides, only=()):
    return [read.variant for read in recipe.read_recipes(path, overrides, only)]


@pytest.mark.parametrize(
    ("vary", "names"),
    [
        ("axes: {pretext: {simmim: {}}}", ["mim, 4", "mim, 6", "mae, 4", "simmim, 4", "simmim, 6"]),
        ("axes: {size: [1]}", ["mim, 4, 1", "mim, 6, 1", "mae, 4, 1"]),
        ("exclude: [{depth: 4}]", ["mim, 6", "mae, 6"]),
        ("exclude: null", ["mim, 4", "mim, 6", "mae, 4", "mae, 6"]),
        ("{axes: {pretext: {mae: null}}, exclude: null}", ["mim, 4", "mim, 6"]),
        ("{axes: {depth: null}, exclude: null}", ["mim", "mae"]),
        ("axes: {depth: [6, 8]}", ["mim, 6", "mim, 8", "mae, 8"]),
        ("zip: [[pretext, depth]]\n  exclude: null", ["mim, 4", "mae, 6"]),
        ("plain: {}", ["plain"]),
        ("null", ["r"]),
    ],
)
def test_axes_gain_lose_and_replace_what_a_base_has(tmp_path, vary, names):
    write(tmp_path, AXES, "base.yaml")
    text = f"base: base.yaml\nvary: {vary}\n" if vary[0] in "{n" else f"base: base.yaml\nvary:\n  {vary}\n"
    assert variants(write(tmp_path, text)) == names


def test_a_value_of_a_base_is_changed_key_by_key(tmp_path):
    write(tmp_path, AXES, "base.yaml")
    read = recipe.read_recipes(write(tmp_path, "base: base.yaml\nvary: {axes: {pretext: {mim: {b: 5}}}}\n"))
    assert read[0].root.plain() == {"a": 2, "b": 5, "depth": 4}


def test_variants_of_a_base_are_added_taken_out_and_replaced_by_axes(tmp_path):
    write(tmp_path, "baseline: two\nvary: {one: {}, two: {}}\n", "base.yaml")
    assert variants(write(tmp_path, "base: base.yaml\nvary: {one: null, three: {}}\n")) == ["two", "three"]
    text = "base: base.yaml\nbaseline: null\nvary: {axes: {x: {y: {}}}}\n"
    assert variants(write(tmp_path, text)) == ["y"]


def test_a_mistake_in_what_a_base_excludes_points_at_the_base(tmp_path):
    write(tmp_path, AXES, "base.yaml")
    with pytest.raises(OODError, match=r"^base.yaml: line 6: no value 'mae' of axis 'pretext'\. There is: mim$"):
        recipe.read_recipes(write(tmp_path, "base: base.yaml\nvary: {axes: {pretext: {mae: null}}}\n"))


# ------------------------------------------------------------------------------------- the baseline of a recipe


def test_the_baseline_is_the_first_variant_unless_given(tmp_path):
    path = write(tmp_path, "seeds: [0, 1]\nvary: {one: {}, two: {}}\n")
    assert {read.baseline_variant for read in recipe.read_recipes(path)} == {"one"}
    assert {read.baseline_variant for read in recipe.read_recipes(path, ["baseline=two"])} == {"two"}
    assert {read.baseline_variant for read in recipe.read_recipes(path, only=["variant=two"])} == {""}


def test_a_plain_recipe_may_name_the_scorer_that_others_are_compared_with(tmp_path):
    read = only(recipe.read_recipes(write(tmp_path, "a: 1\nbaseline: {scorer: energy}\n")))
    assert (read.baseline_variant, read.baseline_scorer) == ("", "energy")
    assert (read.baseline_place, read.coordinates) == ("r.yaml: line 2", {})
    assert read.root.plain() == {"a": 1}
    assert only(recipe.read_recipes(tmp_path / "r.yaml", ["baseline.scorer=knn"])).baseline_scorer == "knn"


def test_what_varies_is_no_longer_in_the_recipe_and_overrides_come_last(tmp_path):
    read = recipe.read_recipes(
        write(tmp_path, AXES + "baseline: mae, 4\n"), ["depth=9", "baseline={pretext: mim, depth: 6}"]
    )
    assert [r.root.plain() for r in read] == [{"a": 2, "depth": 9}, {"a": 2, "depth": 9}, {"a": 3, "depth": 9}]
    assert {r.baseline_variant for r in read} == {"mim, 6"}
    assert read[1].coordinates == {"pretext": "mim", "depth": "6"}


def test_several_bases_are_laid_over_each_other_in_their_order(tmp_path):
    (tmp_path / "one.yaml").write_text("a: 1\nb: {c: 1, d: 1}\n")
    (tmp_path / "two.yaml").write_text("b: {d: 2, e: 2}\n")
    (tmp_path / "three.yaml").write_text("base: [one.yaml, two.yaml]\nb: {e: 3}\n")
    (found,) = recipe.read_recipes(tmp_path / "three.yaml")
    assert found.root.plain() == {"a": 1, "b": {"c": 1, "d": 2, "e": 3}}


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("data: {absent: stop, broken: skip}\ntraining: [{use: x, on: {limit: 3}}]\n", ()),
        (
            "data: {absent: stop}\ntraining: [{use: x, train_on: {}}]\n"
            "vary: {a: {data.broken: skip, training.0.on.limit: 3}}\n",
            (),
        ),
        (
            "training: [{use: x, on: {limit: 3}}]\n"
            "vary: {axes: {data.absent: [stop], absent: {on: {data: {broken: skip}}}}}\n",
            (),
        ),
        (
            "training: [{use: x}]\n",
            ("data.missing_files=leave-out", "data.broken=skip", "data.absent=stop", "training.0.on={limit: 3}"),
        ),
    ],
)
def test_the_old_names_of_keys_are_read_with_a_line_that_names_the_new_ones(tmp_path, caplog, text, overrides):
    root = only(recipe.read_recipes(write(tmp_path, text), overrides)).root.plain()
    assert root == {
        "data": {"missing_files": "stop", "unreadable": "skip"},
        "training": [{"use": "x", "train_on": {"limit": 3}}],
    }
    assert sorted(line.partition(": '")[2] for line in caplog.messages) == [
        "absent' is now called 'missing_files'; the next release drops it",
        "broken' is now called 'unreadable'; the next release drops it",
        "on' is now called 'train_on'; the next release drops it",
    ]
    assert all(line.startswith(("r.yaml: line ", "--set ")) for line in caplog.messages)


def test_an_old_name_laid_over_a_new_one_replaces_it(tmp_path):
    write(tmp_path, "data: {missing_files: leave-out, image_size: 8}\n", "base.yaml")
    read = recipe.read_recipes(write(tmp_path, "base: base.yaml\ndata: {absent: stop}\n"))
    assert only(read).root.plain() == {"data": {"missing_files": "stop", "image_size": 8}}


@pytest.mark.parametrize("name", recipe_names())
def test_the_text_of_a_shipped_recipe_reads_the_same_in_any_folder(tmp_path, name):
    shipped = recipe.find_recipe(name)
    copy = write(tmp_path, recipe.shipped_text(name), shipped.name)  # by whose name the recipe is called
    before, after = recipe.read_recipes(shipped), recipe.read_recipes(copy)
    assert [(one.variant, one.seed, one.root.plain()) for one in after] == [
        (one.variant, one.seed, one.root.plain()) for one in before
    ]

"""Plans: what is shared, what a key depends on, and mistakes of recipes, all at once, each with its line."""

import pickle

import pytest
from PIL import Image

from ood_core.errors import OODError, OODErrors
from ood_core.plan.image_sets import HOLDOUT
from ood_core.records.plan import Baseline

from ..conftest import TINY


def by_kind(plan, kind):
    return [stage for stage in plan.stages if stage.kind == kind]


def test_one_training_and_one_extraction_serve_all_scorers(make_plan, tiny):
    plan = make_plan(tiny, "scorers=[softmax, entropy, energy, gradnorm, mahalanobis]")
    assert len(plan.rows) == 5 * 2
    assert len(by_kind(plan, "train")) == 1
    assert sorted(str(s) for s in by_kind(plan, "extract")) == sorted(
        f"extract {images} (classification)"
        for images in (
            "digits",
            "digits train",
            "digits holdout",
            "unseen",
            "noise(size=8, count=30)",
        )
    )
    assert len(by_kind(plan, "fit")) == 5


def test_a_plan_is_a_value(make_plan, tiny):
    mim = "training=[{use: mim, epochs: 1, min_block: 1, tokenizer: {use: kmeans, vocabulary: 8}}]"
    plan = make_plan(tiny, mim, "scorers=[mahalanobis, mahalanobis-layers, knn]")
    images = plan.stages[0].images.opened
    before = len(pickle.dumps(plan))
    pixels = images.pixels(0)
    assert len(pickle.dumps(plan)) == before  # no decoded image is handed on
    again = pickle.loads(pickle.dumps(plan))  # noqa: S301 - our own
    assert again == plan
    assert again.stages == plan.stages
    assert again.stages[0].images.opened.pixels(0).equal(pixels)
    assert str(again) == "tiny: 32 stages for 6 rows"
    assert make_plan(tiny, "scorers=[energy]") != plan


def test_every_stage_stands_behind_its_inputs(make_plan, tiny):
    stages = make_plan(tiny).stages
    seen = set()
    for stage in stages:
        assert {earlier.key for earlier in stage.inputs} <= seen
        seen.add(stage.key)


def test_a_second_stage_starts_from_the_first(make_plan, tiny):
    plan = make_plan(
        tiny,
        "training=[{use: mim, epochs: 1, min_block: 1, tokenizer: {use: kmeans, vocabulary: 8}}, "
        "{use: classification, epochs: 1}]",
    )
    first, second = by_kind(plan, "train")
    assert second.start is first
    assert (str(first), str(second)) == ("train mim", "train mim > classification")


def test_variants_share_what_they_have_in_common(make_plan, tiny):
    text = TINY + "vary:\n  a: {scorers: [energy]}\n  b: {scorers: [softmax]}\n  c: {training: []}\n"
    tiny.write_text(text.replace("energy, mahalanobis", "mahalanobis"))
    plan = make_plan(tiny)
    assert len(by_kind(plan, "train")) == 1
    assert {row.variant for row in plan.rows} == {"a", "b", "c"}
    assert len(by_kind(plan, "extract")) == 10


def test_another_seed_trains_anew(make_plan, tiny):
    tiny.write_text(TINY.replace("seed: 0", "seeds: [0, 1, 2]"))
    plan = make_plan(tiny)
    assert len(by_kind(plan, "train")) == 3
    assert sorted({row.seed for row in plan.rows}) == [0, 1, 2]


def keys(plan):
    return [stage.key for stage in plan.stages]


def test_equal_recipes_have_equal_keys(make_plan, tiny):
    assert keys(make_plan(tiny)) == keys(make_plan(tiny))


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "training.0.epochs=3",
        "training.0.label_smoothing=0.2",
        "backbone.options.depth=2",
        "data.image_size=12",
        "data.id.classes=[0, 1]",
        "data.id.classes=[0, 2, 1]",
        "data.id.limit=30",
        "data.holdout=0.2",
    ],
)
def test_whatever_decides_the_weights_is_in_the_key_of_training(make_plan, tiny, override):
    (before,), (after,) = by_kind(make_plan(tiny), "train"), by_kind(make_plan(tiny, override), "train")
    assert before.key != after.key


@pytest.mark.parametrize("override", ["scorers=[softmax]", "data.far=[]", "data.near.0.name=other"])
def test_what_does_not_decide_the_weights_is_not(make_plan, tiny, override):
    (before,), (after,) = by_kind(make_plan(tiny), "train"), by_kind(make_plan(tiny, override), "train")
    assert before.key == after.key


def test_the_name_of_a_set_is_not_in_the_key_of_its_outputs(make_plan, tiny):
    before, after = make_plan(tiny), make_plan(tiny, "data.near.0.name=other")
    assert [s.key for s in by_kind(before, "extract")] == [s.key for s in by_kind(after, "extract")]


def test_a_version_of_a_plugin_is_in_its_keys(make_plan, tiny, plugins, monkeypatch):
    before = make_plan(tiny)
    monkeypatch.setattr(
        type(plugins), "version", lambda self, plugin: "new 9" if plugin.name == "energy" else _version(self, plugin)
    )
    after = make_plan(tiny)
    changed = {str(a) for a, b in zip(before.stages, after.stages, strict=True) if a.key != b.key}
    assert all("energy" in name for name in changed)
    assert "fit energy" in changed


def _version(plugins, plugin):
    return next(
        f"{r.package.distribution} {r.package.version}" for r in plugins.registered.values() if r.cls is type(plugin)
    )


def test_the_resolved_recipe_holds_what_was_left_at_its_default(make_plan, tiny):
    (resolved,) = make_plan(tiny).resolved.values()
    assert resolved["data"]["holdout"] == HOLDOUT
    assert resolved["training"][0]["label_smoothing"] == 0.1
    assert resolved["scorers"][0] == {"name": "energy", "use": "energy", "temperature": 1.0}


def test_scorers_with_other_options_have_names_that_tell(make_plan, tiny):
    plan = make_plan(tiny, "scorers=[energy, {use: energy, temperature: 2}, {use: energy, name: hot, temperature: 9}]")
    assert [row.scorer for row in plan.rows[::2]] == ["energy", "energy(temperature=2.0)", "hot"]


def test_a_network_that_was_never_given_a_head_can_still_be_scored_by_distance(make_plan, tiny):
    mim = "training=[{use: mim, epochs: 1, min_block: 1, tokenizer: {use: kmeans, vocabulary: 8}}]"
    assert len(make_plan(tiny, mim, "scorers=[mahalanobis]").rows) == 2


BROKEN = {
    "unknown section": ("seed: 0", "scorer: [energy]", 1, "no key of a recipe: 'scorer'. Did you mean 'scorers'?"),
    "missing section": ("scorers: [energy, mahalanobis]\n", "", 1, "the recipe needs the section 'scorers'"),
    "unknown data key": ("near:", "neer:", 5, "no key of 'data': 'neer'. Did you mean 'near'?"),
    "unknown option": (
        "epochs: 2",
        "epoch: 2",
        11,
        "no option of pretext 'classification': 'epoch'. Did you mean 'epochs'?",
    ),
    "missing option": ("epochs: 2, ", "", 11, "pretext 'classification' needs the option 'epochs'"),
    "wrong type": (
        "epochs: 2",
        "epochs: two",
        11,
        "option 'epochs' of pretext 'classification' must be a valid integer, not \"two\"",
    ),
    "number as text": (
        "epochs: 2",
        "epochs: '2'",
        11,
        "option 'epochs' of pretext 'classification' must be a valid integer, not \"2\"",
    ),
    "negative epochs": (
        "epochs: 2",
        "epochs: -2",
        11,
        "option 'epochs' of pretext 'classification' must be greater than 0, not -2",
    ),
    "fraction of an epoch": (
        "epochs: 2",
        "epochs: 0.5",
        11,
        "option 'epochs' of pretext 'classification' must be a valid integer",
    ),
    "warm-up too long": ("epochs: 2", "epochs: 2, warmup_epochs: 3", 11, "'warmup_epochs' 3 is more than 'epochs' 2"),
    "unknown pretext": (
        "use: classification",
        "use: clasification",
        11,
        "no pretext 'clasification'. Did you mean 'classification'?",
    ),
    "unknown scorer": ("[energy, mahalanobis]", "[energi]", 12, "no scorer 'energi'. Did you mean 'energy'?"),
    "unknown backbone": ("use: timm", "use: tim", 9, "no backbone 'tim'. Did you mean 'timm'?"),
    "unknown data set": ("use: noise", "use: nois", 8, "no dataset 'nois'. Did you mean 'noise'?"),
    "scorer without use": (
        "[energy, mahalanobis]",
        "[{temperature: 2}]",
        12,
        "a scorer must be a name, or a mapping with 'use: name'",
    ),
    "no scorer": ("[energy, mahalanobis]", "[]", 12, "'scorers' names no scorer"),
    "scorers as a word": ("[energy, mahalanobis]", "energy", 12, "'scorers' must be a list"),
    "one scorer twice": (
        "[energy, mahalanobis]",
        "[energy, energy]",
        12,
        "two scorers are called 'energy'; tell them apart by 'name:'",
    ),
    "unknown scorer option": (
        "[energy, mahalanobis]",
        "[{use: energy, temprature: 2}]",
        12,
        "no option of scorer 'energy': 'temprature'. Did you mean 'temperature'?",
    ),
    "empty classes": ("classes: [0, 1, 2]", "classes: []", 4, "'classes' names no class"),
    "unknown class": (
        "classes: [0, 1, 2]",
        "classes: [0, ten]",
        4,
        "no class 'ten' in data set 'digits'. There is: 0, 1, 2",
    ),
    "class twice": ("classes: [0, 1, 2]", "classes: [0, 0]", 4, "'classes' names a class twice"),
    "negative limit": ("limit: 40", "limit: -1", 4, "'limit' must be greater than 0, not -1"),
    "too few classes": (
        "classes: [0, 1, 2]",
        "classes: [0]",
        11,
        "pretext 'classification' needs at least 2 classes, the ID set has 1",
    ),
    "nothing held out": ("limit: 40", "limit: 2", 4, "data set 'digits' has no image for holdout"),
    "OOD set is the ID set": (
        "classes: [8, 9]",
        "classes: [0, 1, 2]",
        6,
        "OOD set 'unseen' shares classes with the ID set: 0, 1, 2",
    ),
    "OOD set overlaps": ("classes: [8, 9]", "classes: [2, 9]", 6, "OOD set 'unseen' shares classes with the ID set: 2"),
    "one OOD name twice": (
        "use: noise",
        "name: unseen, use: noise",
        8,
        "two OOD sets are called 'unseen'; tell them apart by 'name:'",
    ),
    "missing file": (
        "model:",
        "weights: none.safetensors, model:",
        9,
        "option 'weights' of backbone 'timm': no file 'none.safetensors'",
    ),
    "missing folder": (
        "{use: noise, size: 8, count: 30}",
        "{use: parquet, path: nowhere}",
        8,
        "nowhere: no such folder or file",
    ),
    "OOD set called as the ID set": (
        "name: unseen",
        "name: digits",
        6,
        "OOD set and ID set are both called 'digits'; tell them apart by 'name:'",
    ),
    "image size 0": ("image_size: 8", "image_size: 0", 3, "'image_size' must be greater than 0, not 0"),
    "all held out": ("image_size: 8", "image_size: 8\n  holdout: 1.0", 4, "'holdout' must be less than 1, not 1.0"),
    "logits without a head": (
        "{use: classification, epochs: 2, batch_size: 16, crop_scale: 1, flip: false}",
        "{use: mim, epochs: 1}",
        12,
        "scorer 'energy' needs logits, but pretext 'mim' trains no head",
    ),
    "known OOD images wanted, none given": (
        "[energy, mahalanobis]",
        "[mahalanobis-ensemble]",
        12,
        "scorer 'mahalanobis-ensemble' needs known OOD images; name them under 'known' in 'data'",
    ),
    "known OOD images of an ID class": (
        "image_size: 8",
        "image_size: 8\n  known: [{use: digits, name: other, classes: [2]}]",
        4,
        "OOD set 'other' shares classes with the ID set: 2",
    ),
    "unknown nested plugin": (
        "{use: classification, epochs: 2, batch_size: 16, crop_scale: 1, flip: false}",
        "{use: mim, epochs: 1, tokenizer: {use: kmean}}",
        11,
        "no tokenizer 'kmean'. Did you mean 'kmeans'?",
    ),
}


@pytest.mark.parametrize(("old", "new", "line", "message"), BROKEN.values(), ids=BROKEN)
def test_a_mistake_is_one_line_with_its_place(make_plan, tiny, old, new, line, message):
    text = TINY.replace(old, new) if not old.startswith("seed") else TINY + new
    assert text != TINY
    tiny.write_text(text)
    with pytest.raises(OODErrors) as caught:
        make_plan(tiny)
    lines = str(caught.value).splitlines()
    place = "tiny.yaml: line 13" if old.startswith("seed") else f"tiny.yaml: line {line}"
    assert any(each.startswith(place) and message in each for each in lines), lines
    assert all(each.startswith("tiny.yaml: line ") for each in lines)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_recipe(make_plan, tiny):
    tiny.write_text(
        TINY.replace("limit: 40", "limt: 40").replace("epochs: 2", "epochs: 0").replace("[energy,", "[enrgy,")
    )
    with pytest.raises(OODErrors) as caught:
        make_plan(tiny)
    assert [error.split(":")[1].strip() for error in str(caught.value).splitlines()] == ["line 4", "line 11", "line 12"]


def test_a_missing_section_does_not_hide_the_mistakes_of_the_others(make_plan, tiny):
    tiny.write_text(TINY.replace("epochs: 2", "epochs: 0").replace("scorers: [energy, mahalanobis]\n", ""))
    with pytest.raises(OODErrors) as caught:
        make_plan(tiny)
    assert len(str(caught.value).splitlines()) == 2


def test_a_mistake_shared_by_variants_and_seeds_is_reported_once(make_plan, tiny):
    tiny.write_text(
        TINY.replace("seed: 0", "seeds: [0, 1]").replace("epochs: 2", "epochs: 0") + "vary: {a: {}, b: {}}\n"
    )
    with pytest.raises(OODErrors) as caught:
        make_plan(tiny)
    assert len(str(caught.value).splitlines()) == 1


def pictures(folder, classes, splits):
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for index in range(20):
                image = Image.new("L", (8, 8), 20 * len(name) + index)
                image.save(folder / split / name / f"{split}{index}.png")


def test_one_folder_under_two_paths_cannot_be_id_and_ood(make_plan, tiny, tmp_path):
    pictures(tmp_path / "imgs", ("cat", "doggy"), ("train", "test"))
    (tmp_path / "other").symlink_to(tmp_path / "imgs")
    folders = (
        f"data.id={{use: folder, path: {tmp_path / 'imgs'}}}",
        f"data.near=[{{use: folder, name: o, path: {tmp_path / 'other'}, classes: [cat]}}]",
    )
    with pytest.raises(OODErrors, match="OOD set 'o' shares classes with the ID set: cat"):
        make_plan(tiny, *folders)


def test_an_id_set_without_a_test_split_is_refused(make_plan, tiny, tmp_path):
    pictures(tmp_path / "imgs", ("cat", "doggy"), ("",))
    with pytest.raises(
        OODErrors, match="ID set 'flat' gives the same images for training and test; it needs a split of each"
    ):
        make_plan(tiny, f"data.id={{use: folder, name: flat, path: {tmp_path / 'imgs'}}}")


@pytest.mark.parametrize("path", [".", "cat/.."])
def test_a_set_in_the_current_folder_is_called_as_that_folder(make_plan, tiny, tmp_path, monkeypatch, path):
    pictures(tmp_path / "imgs", ("cat", "doggy"), ("",))
    monkeypatch.chdir(tmp_path / "imgs")
    plan = make_plan(tiny, f"data.near=[{{use: folder, path: {path}}}]")
    assert "imgs" in {str(stage.images) for stage in by_kind(plan, "extract")}


def test_an_id_set_whose_table_has_splits_that_are_not_used_names_the_option(make_plan, tiny, tmp_path):
    pictures(tmp_path / "imgs", ("cat", "doggy"), ("",))
    files = sorted((tmp_path / "imgs").rglob("*.png"))
    rows = [f"{file},{file.parent.name},{('train', 'test')[place % 2]}" for place, file in enumerate(files)]
    (tmp_path / "m.csv").write_text("\n".join(["image,label,split", *rows]))
    with pytest.raises(OODErrors, match=r"a split of each; .*the option 'split_column' can name the column 'split'"):
        make_plan(tiny, f"data.id={{use: manifest, name: semi, path: {tmp_path / 'm.csv'}}}")


def test_a_mistake_in_an_override_names_the_override(make_plan, tiny):
    with pytest.raises(OODErrors, match=r"^--set training.0.epochs=0: option 'epochs' of pretext"):
        make_plan(tiny, "training.0.epochs=0")


def test_what_only_the_backbone_knows_is_checked_before_the_run(make_plan, tiny):
    plan = make_plan(tiny, "backbone.model=vit_tiny_patch16_2244")
    with pytest.raises(OODError, match=r"tiny.yaml: line 9: .*vit_tiny_patch16_224"):
        plan.check()


def test_plugins_that_stand_on_one_line_are_all_checked(make_plan, tiny):
    tasks = "training=[{use: mocov3, epochs: 1, batch_size: 1}, {use: classification, epochs: 1}]"
    with pytest.raises(OODError, match=r"pretext 'mocov3' needs a batch_size of 2 or more"):
        make_plan(tiny, tasks).check()


def test_a_plugin_among_the_options_of_another_is_checked(make_plan, tiny):
    mim = "training=[{use: mim, epochs: 1, min_block: 1, tokenizer: {use: kmeans, vocabulary: 8}}]"
    checked = [plugin.name for _, plugin in make_plan(tiny, mim, "scorers=[mahalanobis]").checks]
    assert checked.count("mim") == checked.count("kmeans") == 1


def test_what_variants_and_seeds_share_is_checked_once(make_plan, tiny):
    tiny.write_text(TINY.replace("seed: 0", "seeds: [0, 1]") + "vary: {a: {}, b: {}}\n")
    checked = [plugin.name for _, plugin in make_plan(tiny).checks]
    assert checked.count("timm") == checked.count("energy") == 1


def test_a_scorer_that_needs_held_out_images_is_told_when_there_are_none(make_plan, tiny):
    with pytest.raises(OODErrors, match="scorer 'gram' needs held-out ID images, but 'holdout' is 0"):
        make_plan(tiny, "data.holdout=0", "scorers=[gram]")


def test_a_scorer_whose_options_need_no_held_out_images_is_planned_without(make_plan, tiny):
    planned = make_plan(tiny, "data.holdout=0", "scorers=[{use: kl-matching, fit_to: train}]")
    assert planned.rows[0].measure.fit.held_out is None
    fused = "scorers=[{use: rank-fusion, scorers: [{use: kl-matching, fit_to: train}, energy]}]"
    with pytest.raises(OODErrors, match="scorer 'rank-fusion' needs held-out ID images"):
        make_plan(tiny, "data.holdout=0", fused)


def test_what_a_scorer_among_the_options_of_another_needs_is_checked(make_plan, tiny):
    with pytest.raises(OODErrors, match="needs known OOD images; name them under 'known' in 'data'"):
        make_plan(tiny, "scorers=[{use: rank-fusion, scorers: [ssd-k, energy]}]")


def test_known_ood_images_are_never_among_those_that_measure(make_plan, tiny, tmp_path):
    pictures(tmp_path / "imgs", ("cat", "dog"), ("all",))
    folder = f"use: folder, path: {tmp_path / 'imgs' / 'all'}"
    seen, near = f"data.known=[{{{folder}, name: seen, classes: [cat]}}]", f"data.near=[{{{folder}, name: measured}}]"
    with pytest.raises(OODErrors, match="known OOD set 'seen' shares 20 images with OOD set 'measured'"):
        make_plan(tiny, seen, near)
    make_plan(tiny, seen, near.replace("measured", "measured, classes: [dog]"))


def test_known_ood_images_come_from_the_training_split_and_change_only_what_needs_them(make_plan, tiny):
    known = "data.known=[{use: digits, name: few, classes: [7], limit: 3}]"
    scorers = "scorers=[energy, ssd-k]"
    plan, more = make_plan(tiny, known, scorers), make_plan(tiny, known.replace("limit: 3", "limit: 4"), scorers)
    (few,) = next(stage for stage in plan.stages if stage.kind == "fit" and stage.name == "ssd-k").known_ood
    assert few.base.images.part == "known"
    assert len(few.base.images.opened) == 3
    assert few.base.images.opened.source == plan.stages[0].images.opened.source

    def fits(made):
        return {stage.name: stage.key for stage in made.stages if stage.kind == "fit"}

    assert fits(plan)["energy"] == fits(more)["energy"]
    assert fits(plan)["ssd-k"] != fits(more)["ssd-k"]


def test_probes_with_equal_fields_are_one_stage_for_each_set(make_plan, tiny):
    plan = make_plan(tiny, "scorers=[mahalanobis, mahalanobis-layers, {use: mahalanobis-layers, name: again}, gram]")
    extractions = [stage for stage in plan.stages if stage.kind == "extract"]
    sets = {str(stage.images) for stage in extractions}
    assert len(extractions) == 3 * len(sets)  # the outputs, the means of layers, the Gram matrices


# ------------------------------------------------------------------------------------------ what rows are compared with


def test_variants_are_compared_scorer_by_scorer_and_a_single_one_with_its_first(make_plan, tiny):
    assert make_plan(tiny).baseline == Baseline("", "energy")
    assert make_plan(tiny).coordinates == {"tiny": {}}
    assert make_plan(tiny, "baseline={scorer: mahalanobis}").baseline == Baseline("", "mahalanobis")
    tiny.write_text(TINY + "baseline: b\nvary: {a: {}, b: {training: []}}\n")
    plan = make_plan(tiny, "scorers=[mahalanobis]")
    assert plan.baseline == Baseline("b", "")
    assert plan.coordinates == {"a": {"variant": "a"}, "b": {"variant": "b"}}


def test_variants_without_a_common_scorer_are_compared_with_one_of_the_baseline(make_plan, tiny):
    tiny.write_text(TINY + "vary: {axes: {scorer: {a: {scorers: [softmax]}, b: {scorers: [knn, energy]}}}}\n")
    assert make_plan(tiny).baseline == Baseline("a", "softmax")
    assert make_plan(tiny, "baseline={scorer: b}").baseline == Baseline("b", "knn")


def test_a_scorer_that_the_baseline_lacks_is_told_at_its_line_with_the_nearest_name(make_plan, tiny):
    tiny.write_text(TINY + "baseline: {variant: b, scorer: mahalanobi}\nvary: {a: {}, b: {}}\n")
    message = r"^tiny\.yaml: line 13: the baseline has no scorer 'mahalanobi'\. Did you mean 'mahalanobis'\?$"
    with pytest.raises(OODError, match=message):
        make_plan(tiny)


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        (["data.holdout=0.17"], []),
        (
            ["data.id.limit=24"],
            [
                "digits holdout: 6 images can vouch for a TPR of 6/7 at most, so the detector accepts 85.7% of ID "
                "images by default; 95% needs 19 images: --set data.holdout=0.28 holds out enough"
            ],
        ),
        (
            ["data.id.limit=6"],
            [
                "digits holdout: 3 images can vouch for a TPR of 3/4 at most, so the detector accepts 75.0% of ID "
                "images by default; 95% needs 19 images: it takes more ID images"
            ],
        ),
        (
            ["data.holdout=0"],
            ["no ID images are held out, so there will be no detector; --set data.holdout=0.2 holds out a fifth"],
        ),
    ],
    ids=["enough", "few", "too-few-whatever-the-holdout", "none"],
)
def test_few_held_out_images_are_noted_with_the_rate_they_allow_and_a_holdout_that_suffices(
    make_plan, tiny, overrides, notes
):
    assert list(make_plan(tiny, *overrides).notes) == notes


def test_a_warm_up_that_an_override_of_the_epochs_leaves_too_long_is_cut_with_a_note(make_plan, tiny):
    tiny.write_text(tiny.read_text().replace("epochs: 2,", "epochs: 8, warmup_epochs: 4,"))
    made = make_plan(tiny, "data.holdout=0.2", "training.0.epochs=3")
    (task,) = [stage.task for stage in made.stages if stage.kind == "train"]
    assert (task.epochs, task.warmup_epochs) == (3, 3)
    cut = "pretext 'classification': the warm-up of 4 epochs is cut to the 3 of --set training.0.epochs=3"
    assert made.notes == (cut,)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.0.warmup_epochs=4"],
        ["training.0.epochs=3", "training.0.warmup_epochs=4"],
        ["training=[{use: classification, epochs: 3, warmup_epochs: 4}]"],
    ],
)
def test_a_warm_up_that_is_given_longer_than_the_training_is_refused(make_plan, tiny, overrides):
    with pytest.raises(OODErrors, match=r"'warmup_epochs' 4 is more than 'epochs' [23]$"):
        make_plan(tiny, *overrides)

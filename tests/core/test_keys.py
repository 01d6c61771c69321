"""Keys: whatever decides what a stage writes is in its key; what is not stands in one list, with the reason."""

from dataclasses import fields, replace

import pytest

from ood_core.data.selection import Selection
from ood_core.interfaces import EvaluationView, Plugin
from ood_core.plan import make
from ood_core.plan.experiments import read_experiments
from ood_core.records.stages import Extraction, ExtractStage, FitStage, Images, MeasureStage, ScoreStage, TrainStage
from ood_core.run.schedule import run
from ood_core.store.store import Store

from ..conftest import TINY

STAGES = (TrainStage, ExtractStage, FitStage, ScoreStage, MeasureStage)

NOT_IN_THE_KEY = {
    (TrainStage, "id_classes"): "no training reads it; what extractions read of it is in their keys, as trains_head",
    (FitStage, "name"): "what reports and messages call the scorer",
    (Images, "name"): "what reports and messages call the set",
}
"""Fields that may differ under one key: results have the same bits, which a test below compares."""

KEYS = {"key", "pass_key"}
"""Fields that are made of the others."""

UNTRAINED = ("training=[]", "scorers=[mahalanobis]")
EXPOSED = (
    "training=[{use: outlier-exposure, epochs: 1, batch_size: 8, auxiliary_batch_size: 4}]",
    "data.auxiliary={use: noise, name: aux, size: 8, count: 9}",
)
TWO_STAGES = (
    "training=[{use: mim, epochs: 1, min_block: 1, tokenizer: {use: dvae, epochs: 1, vocabulary: 8}}, "
    "{use: classification, epochs: 1}]",
)
KNOWN = ("scorers=[gram, ssd-k]", "data.known=[{use: digits, name: seen, classes: [7], limit: 9}]")


def sets(**changes):
    """Return a change of an experiment: other sets of images, each made of those that are there."""
    return lambda e: replace(e, data=replace(e.data, **{name: of(e.data) for name, of in changes.items()}))


def unseen(data):
    return data.ood[0][1]


def settings(**changes):
    return lambda e: replace(e, settings=replace(e.settings, **changes))


def seed(e):
    return replace(e, recipe=replace(e.recipe, seed=1))


def deeper(e):
    return replace(e, backbone=replace(e.backbone, options=e.backbone.options | {"depth": 2}))


def first_task(change):
    def changed(e):
        first, *others = e.steps
        return replace(e, steps=(replace(first, task=change(first.task)), *others))

    return changed


longer = first_task(lambda task: replace(task, epochs=3))
other_tokenizer = first_task(lambda task: replace(task, tokenizer=replace(task.tokenizer, vocabulary=9)))


def scorer(**options):
    return lambda e: replace(e, scorers=tuple((name, replace(scorer, **options)) for name, scorer in e.scorers))


IN_THE_KEY = {
    (TrainStage, "backbone"): ((), deeper),
    (TrainStage, "task"): ((), longer),
    (TrainStage, "images"): ((), sets(train=unseen)),
    (TrainStage, "image_size"): ((), settings(image_size=12)),
    (TrainStage, "seed"): ((), seed),
    (TrainStage, "auxiliary"): (EXPOSED, sets(auxiliary=lambda data: data.test)),
    (TrainStage, "start"): (TWO_STAGES, longer),
    (TrainStage, "tokenizers"): (TWO_STAGES, other_tokenizer),
    (ExtractStage, "backbone"): (UNTRAINED, deeper),
    (ExtractStage, "weights"): ((), longer),
    (ExtractStage, "images"): (UNTRAINED, sets(test=unseen)),
    (ExtractStage, "image_size"): (UNTRAINED, settings(image_size=12)),
    (ExtractStage, "classes"): (UNTRAINED, sets(train=unseen)),
    (ExtractStage, "view"): (UNTRAINED, lambda e: replace(e, view=EvaluationView(squash=True))),
    (ExtractStage, "augmented_by"): ((), settings(fit_images="augmented")),
    (ExtractStage, "probe"): (("scorers=[gram]",), scorer(powers=2)),
    (FitStage, "scorer"): (("scorers=[energy]",), scorer(temperature=2.0)),
    (FitStage, "train"): (UNTRAINED, sets(train=unseen)),
    (FitStage, "held_out"): (KNOWN, sets(holdout=unseen)),
    (FitStage, "known_ood"): (KNOWN, sets(known=lambda data: (data.test,))),
    (FitStage, "seed"): (UNTRAINED, seed),
    (ScoreStage, "fit"): (("scorers=[energy]",), scorer(temperature=2.0)),
    (ScoreStage, "outputs"): (UNTRAINED, sets(test=unseen)),
    (MeasureStage, "id_scores"): ((), sets(test=unseen)),
    (MeasureStage, "shifted_scores"): ((), sets(shifted=lambda data: (unseen(data),))),
    (MeasureStage, "held_scores"): ((), sets(holdout=unseen)),
    (MeasureStage, "ood_scores"): ((), sets(ood=lambda data: (("near", data.test),))),
    (MeasureStage, "overlap"): ((), settings(overlap="remove")),
}
"""How a field comes to differ: overrides of the recipe, and a change of the experiment that they make."""

FOLLOWS = {(TrainStage, "tokenizers"): {"task"}}
"""Fields that cannot but differ as well: tokenizers are options of the task."""


def value(held):
    """Return what a field holds, so that equal values are equal: of stages keys, of images fingerprints."""
    if isinstance(held, STAGES):
        return held.key
    if isinstance(held, Images):
        return held.opened.fingerprint
    if isinstance(held, Extraction):
        return value(held.stages)
    if isinstance(held, tuple):
        return tuple(map(value, held))
    return f"{type(held)} {held!r}" if isinstance(held, Plugin) else held


def values(stage):
    names = {field.name for field in fields(stage)} - KEYS
    return {name: value(getattr(stage, name)) for name in names if (type(stage), name) not in NOT_IN_THE_KEY}


@pytest.fixture
def plan_changed(make_plan, tiny, monkeypatch):
    """`plan_changed(change, *overrides)`: the plan of the tiny recipe whose experiments are changed."""

    def planned(change, *overrides):
        monkeypatch.setattr(
            make, "read_experiments", lambda *arguments: list(map(change, read_experiments(*arguments)))
        )
        return make_plan(tiny, *overrides)

    return planned


@pytest.mark.parametrize("cls", STAGES)
def test_of_every_field_of_a_stage_is_said_whether_it_is_in_the_key(cls):
    said = {name for of, name in (*IN_THE_KEY, *NOT_IN_THE_KEY) if of is cls}
    assert {field.name for field in fields(cls)} - KEYS == said


@pytest.mark.parametrize(
    ("cls", "name"), [pytest.param(cls, name, id=f"{cls.__name__}.{name}") for cls, name in IN_THE_KEY]
)
def test_a_stage_that_differs_in_one_field_has_another_key(plan_changed, make_plan, tiny, cls, name):
    overrides, change = IN_THE_KEY[cls, name]
    before = [stage for stage in make_plan(tiny, *overrides).stages if isinstance(stage, cls)]
    changed, pairs = FOLLOWS.get((cls, name), set()) | {name}, []
    for stage in plan_changed(change, *overrides).stages:
        if isinstance(stage, cls):
            found = values(stage)
            pairs += [(one, stage) for one in before if {n for n, v in values(one).items() if found[n] != v} == changed]
    assert pairs, "no two stages differ in this field alone"
    assert all(one.key != other.key for one, other in pairs)


def test_a_set_is_known_by_its_images_and_by_what_they_are_for(plugins):
    assert {field.name for field in fields(Images)} == {"name", "part", "opened"}
    digits = Selection(name="digits", source=plugins.get("dataset", "digits")(), split="train")
    assert digits.open("train").fingerprint != digits.open("known").fingerprint
    assert digits.open("train").fingerprint != replace(digits, limit=3).open("train").fingerprint
    assert digits.open("train").fingerprint == replace(digits, name="other").open("train").fingerprint


def test_what_is_in_no_key_leaves_the_bits_of_all_results(make_plan, tiny, tmp_path):
    names = ("data.id.name=one", "data.near.0.name=two", "data.far.0.name=three")
    changes = {
        (Images, "name"): ((), names),
        (FitStage, "name"): ((), ("scorers=[{use: energy, name: a}, {use: mahalanobis, name: b}]",)),
        (TrainStage, "id_classes"): (("scorers=[mahalanobis]",), ("training.0.train_on=all-classes",)),
    }
    assert changes.keys() == NOT_IN_THE_KEY.keys()
    for number, (common, changed) in enumerate(changes.values()):
        stores = [Store(tmp_path / f"{number} {name}") for name in ("before", "after")]
        plans = make_plan(tiny, *common), make_plan(tiny, *common, *changed)
        for made, store in zip(plans, stores, strict=True):
            run(made, store)
        shared = {stage.key: stage for stage in plans[0].stages}.keys() & {stage.key for stage in plans[1].stages}
        assert shared
        for stage in plans[0].stages:
            if stage.key in shared:
                one, other = (contents(store.folder(stage)) for store in stores)
                assert one == other, stage


def contents(folder):
    """Return all that a stage has written but its facts, which say how long it took."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "stage.json"}


# ------------------------------------------------------------------------------------- what was found to share a key


def test_a_classifier_trained_on_other_images_does_not_stand_in_for_one_of_the_id_classes(make_plan, tiny, tmp_path):
    store = Store(tmp_path / "store")
    run(make_plan(tiny, "training.0.train_on=all-classes", "scorers=[mahalanobis]"), store)
    results = run(make_plan(tiny, "scorers=[energy]"), store)
    assert all(row.id_accuracy is not None for row in results.rows)


def test_variants_that_differ_in_what_they_are_trained_on_show_their_own_accuracy(make_plan, tiny, tmp_path):
    tiny.write_text(TINY + "vary: {plain: {}, on all: {training.0.train_on: all-classes}}\n")
    made = make_plan(tiny, "scorers=[mahalanobis]")
    assert len([stage for stage in made.stages if stage.kind == "train"]) == 1  # the training itself is shared
    results = run(made, Store(tmp_path / "store"))
    shown = {row.variant: row.id_accuracy for row in results.rows}
    assert shown["plain"] is not None
    assert shown["on all"] is None


def test_networks_with_an_output_for_every_class_of_the_set_are_not_shared_with_those_of_fewer(make_plan, tiny):
    one = "data.id={use: digits, superclasses: {low: [0, 1], middle: [2, 3]}, classes: [low]}"
    three = one.replace("middle: [2, 3]", "middle: [2, 3], high: [4, 5]")
    task = "training=[{use: one-class, epochs: 1}]"
    first, second = (make_plan(tiny, of, task, "scorers=[mahalanobis]").stages[0] for of in (one, three))
    assert first.images.opened.fingerprint == second.images.opened.fingerprint
    assert first.images.opened.all_classes != second.images.opened.all_classes
    assert first.key != second.key


def test_two_backbones_that_are_spelt_alike_do_not_share_a_pass(make_plan, tiny, plugins, monkeypatch):
    tiny.write_text(TINY + "vary: {ours: {}, theirs: {backbone.use: other}}\n")
    registered = plugins.registered["backbone", "timm"]
    other = type(
        registered.cls.__name__, (registered.cls,), {"name": "other", "__qualname__": registered.cls.__qualname__}
    )
    monkeypatch.setitem(plugins.registered, ("backbone", "other"), replace(registered, cls=other))
    made = make_plan(tiny, *UNTRAINED)
    passages = {}
    for stage in made.stages:
        if isinstance(stage, ExtractStage):
            passages.setdefault(stage.pass_key, set()).add(stage.backbone.name)
    assert all(len(names) == 1 for names in passages.values())


def test_what_probes_read_shares_the_pass_of_the_outputs(make_plan, tiny):
    stages = [stage for stage in make_plan(tiny, "scorers=[gram, energy]").stages if isinstance(stage, ExtractStage)]
    assert len({stage.key for stage in stages}) == 2 * len({stage.pass_key for stage in stages})

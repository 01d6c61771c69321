"""--plan: the tree of trainings, what is shared and stored, and what it will cost."""

import json
from io import StringIO

import pytest
from rich.console import Console

from ood_core.cli.plan_tree import outline
from ood_core.plan.make import make_plan
from ood_core.plugins import find
from ood_core.recipe.read import read_recipes
from ood_core.run.schedule import run
from ood_core.store.cost_model import cost_key, image_count
from ood_core.store.files import signed, verified
from ood_core.store.store import Store

SCORERS = """\
vary:
  one: {}
  two: {scorers: [softmax]}
  three: {scorers: [energy, gradnorm]}
"""
TWO_STAGES = "[{use: rotation, epochs: 1, batch_size: 16}, {use: classification, epochs: 2, batch_size: 16}]"


def shown(made, store, at_once=1):
    text = StringIO()
    Console(file=text, width=300).print(outline(made, store, at_once))
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.fixture
def planned(tiny):
    def planned(*overrides, vary=""):
        tiny.write_text(tiny.read_text() + vary)
        return make_plan(read_recipes(tiny, overrides), find())

    return planned


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_trainings_hang_below_those_they_go_on_from_and_say_whose_they_are(planned, store):
    made = planned(vary="vary:\n  a: {training: " + TWO_STAGES + "}\n  b: {}\n")
    lines = shown(made, store)
    assert lines[0] == "tiny"
    assert lines[1].startswith("├── train rotation on digits")
    assert "to do  for a" in lines[1]
    assert "train rotation > classification on digits" in lines[2]
    assert any(line.startswith("└── train classification on digits") and line.endswith("for b") for line in lines)


def test_what_is_shared_by_all_variants_is_said_to_be(planned, store):
    lines = shown(planned(vary=SCORERS), store)
    assert "for all variants" in lines[1]
    assert "fit 4 scorers: energy, mahalanobis, softmax, gradnorm  to do" in lines[3]
    assert lines[-2] == "10 rows, 34 stages, 0 stored; train 1, extract 5, fit 4, score 16, measure 8"


def test_stored_stages_are_told_from_those_to_do(planned, store):
    made = planned()
    run(made, store)
    lines = shown(made, store)
    assert lines[1].endswith("stored")
    assert lines[-1] == "4 rows, 20 stages, 20 stored; nothing to do"


def test_costs_come_from_stages_like_these_whatever_seed_and_epochs(planned, store):
    run(planned(), store)
    lines = shown(planned("seed=7", "training.0.epochs=200"), store, at_once=2)
    assert "to do, about" in lines[1]
    assert lines[-1].startswith("about ")
    assert lines[-1].endswith(" of work, as stages like these took, 2 jobs side by side")


def test_costs_are_unknown_where_nothing_alike_was_run(planned, store):
    assert shown(planned(), store)[-1] == "no stage like these was ever run in this store, so their cost is unknown"


def test_a_backbone_that_is_not_trained_has_a_branch_of_its_own(planned, store):
    lines = shown(planned("training=[]", "scorers=[mahalanobis]"), store)
    assert lines[1].startswith("└── {use: timm, model: vit_tiny_patch16_224, options: {patch_size: 4, ")
    assert lines[1].endswith("}}, as it comes")
    assert "extract 5 sets" in lines[2]


def test_the_cost_of_a_training_grows_with_its_epochs_and_images(planned):
    (short,), (long,) = ([s for s in planned(f"training.0.epochs={n}").stages if s.kind == "train"] for n in (1, 5))
    assert cost_key(short) == cost_key(long)
    assert image_count(long) == 5 * image_count(short) == 5 * len(short.images.opened)


def test_other_options_are_another_cost(planned):
    plans = [planned("training.0.batch_size=8"), planned("training.0.batch_size=16")]
    first, second = (cost_key(made.stages[0]) for made in plans)
    assert first != second


def test_the_last_of_several_stages_alike_decides(planned, store):
    made = planned("training.0.epochs=1")
    run(made, store)
    (training,) = [stage for stage in made.stages if stage.kind == "train"]
    path = store.folder(training) / "stage.json"
    facts = verified(json.loads(path.read_text())) | {"seconds": 1000.0}
    path.write_text(json.dumps(signed(facts)))
    assert store.rates({cost_key(training)})[cost_key(training)] == 1000.0 / image_count(training)

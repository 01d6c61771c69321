"""A whole run on real digits, tiny: what it gives, what the store saves it from doing again, and how it fails."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ood_core import report
from ood_core.data.loaders import evaluation_batches
from ood_core.errors import OODError
from ood_core.pipeline import extract, score, train
from ood_core.pipeline.train import execute as really_train
from ood_core.pipeline.training.engine import Engine
from ood_core.run.schedule import jobs, run
from ood_core.store.files import DiskFullError, load_array, load_tensors
from ood_core.store.store import Store

from ..conftest import QUIET

MIM = (
    "training=[{use: mim, epochs: 2, batch_size: 16, min_block: 1, crop_scale: 0.8, flip: false, "
    "tokenizer: {use: kmeans, vocabulary: 8}}, "
    "{use: classification, epochs: 2, batch_size: 16, crop_scale: 0.8, flip: false}]"
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def scores(plan, store):
    return {str(s): load_array(store.folder(s) / "scores.npy") for s in plan.stages if s.kind == "score"}


def test_a_run_fills_every_row_with_rates(make_plan, tiny, store):
    results = run(make_plan(tiny), store)
    assert [(row.scorer, row.ood_set, row.group) for row in results.rows] == [
        ("energy", "unseen", "near"),
        ("energy", "noise(size=8, count=30)", "far"),
        ("mahalanobis", "unseen", "near"),
        ("mahalanobis", "noise(size=8, count=30)", "far"),
    ]
    for row in results.rows:
        assert all(0 <= getattr(row, name) <= 1 for name in ("auroc", "fpr95", "aupr_in", "aupr_out", "id_accuracy"))
        assert row.threshold is not None
    assert not any(record.stored for record in results.records)


def test_a_second_run_does_nothing_again(make_plan, tiny, store, monkeypatch):
    first = run(make_plan(tiny), store)
    monkeypatch.setattr(train, "execute", None)
    second = run(make_plan(tiny), store)
    assert all(record.stored for record in second.records)
    assert second.rows == first.rows


def test_another_scorer_needs_no_training_and_no_extraction(make_plan, tiny, store):
    run(make_plan(tiny), store)
    plan = make_plan(tiny, "scorers=[energy, mahalanobis, softmax, gradnorm, entropy]")
    needed = {stage.key for job in jobs(plan, store) for stage in job.stages}
    assert {stage.kind for stage in plan.stages if stage.key in needed} == {"fit", "score", "measure"}


def test_a_score_of_the_network_waits_for_the_training(make_plan, tiny):
    plan = make_plan(tiny, "scorers=[energy, gradnorm-network]")
    needing = {str(stage) for stage in plan.stages if stage.kind == "score" and plan.stages[0] in stage.inputs}
    assert plan.stages[0].kind == "train"
    assert needing == {str(s) for s in plan.stages if s.kind == "score" and s.fit.name == "gradnorm-network"}


def test_the_same_seed_gives_the_same_bits(make_plan, tiny, tmp_path):
    plan = make_plan(tiny, MIM)
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    run(plan, one)
    torch.manual_seed(1234)
    run(make_plan(tiny, MIM), two)
    first, second = scores(plan, one), scores(plan, two)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_scores(make_plan, tiny, store):
    one, two = make_plan(tiny), make_plan(tiny, "seed=1")
    run(one, store)
    run(two, store)
    first, second = scores(one, store), scores(two, store)
    assert not any(torch.equal(first[name], second[name]) for name in first)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("killed_at", "task"), [(3, 0), (6, 1), (11, 1)])
def test_an_interrupted_training_goes_on_and_ends_with_the_same_weights(
    make_plan, tiny, tmp_path, monkeypatch, killed_at, task
):
    plan = make_plan(tiny, MIM)
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    run(plan, whole)
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    stage = [stage for stage in plan.stages if stage.kind == "train"][task]

    def interrupt(done, total):
        if done == killed_at:
            raise Killed

    if task == 1:
        run_first = plan.stages[0]
        really_train(run_first, broken, QUIET)
    with pytest.raises(Killed):
        really_train(stage, broken, SimpleNamespace(progress=interrupt, epoch=lambda metrics: None))
    assert broken.facts(stage) is None
    counted = []

    counting = SimpleNamespace(progress=lambda done, total: counted.append(done), epoch=lambda metrics: None)
    really_train(stage, broken, counting)
    assert counted[0] == killed_at
    one, two = (load_tensors(store.folder(stage) / "weights.safetensors") for store in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert broken.facts(stage)["epochs"] == whole.facts(stage)["epochs"]


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_learning_rate(make_plan, tiny, store, monkeypatch):
    plan = make_plan(tiny)
    monkeypatch.setattr(type(plan.stages[0].task), "build", broken_at(plan.stages[0].task.build, 3))
    with pytest.raises(OODError, match=r"^train classification: the loss is nan at step 3 \(epoch 1, learning rate "):
        run(plan, store)
    assert store.facts(plan.stages[0]) is None


def broken_at(build, step):
    def wrapped(self, network, data):
        task = build(network, data)
        calls = iter(range(10_000))
        forward = task.forward
        task.forward = lambda batch: {
            name: value * float("nan") if next(calls) // 2 >= step else value for name, value in forward(batch).items()
        }
        return task

    return wrapped


def test_weights_that_the_last_step_ruined_are_not_filed(make_plan, tiny, store, monkeypatch):
    plan = make_plan(tiny)
    monkeypatch.setattr(Engine, "_optimise", lambda self: self.task.network.model.norm.weight.data.fill_(float("nan")))
    monkeypatch.setattr(train._Training, "_check_loss", lambda *_: None)
    with pytest.raises(OODError, match="the last step left weights that are not finite, such as model"):
        run(plan, store)
    assert store.facts(plan.stages[0]) is None


def test_a_failing_plugin_keeps_its_traceback_and_leaves_no_artifact(make_plan, tiny, store, monkeypatch):
    plan = make_plan(tiny)
    fit = next(stage for stage in plan.stages if stage.kind == "fit")

    def broken(self, train):
        raise ZeroDivisionError("in a plugin")

    monkeypatch.setattr(type(fit.scorer), "fit", broken)
    (failure,) = run(plan, store).failures
    assert failure.message == "fit energy: ZeroDivisionError: in a plugin"
    assert "in broken\n    raise ZeroDivisionError" in failure.traceback
    assert failure.error.__notes__ == ["This happened in the stage: fit energy"]
    assert store.facts(fit) is None
    assert not list((store.root / "temporary").iterdir())


def test_a_score_that_is_not_finite_is_refused_with_its_row(make_plan, tiny, store, monkeypatch):
    plan = make_plan(tiny)
    fit = next(stage for stage in plan.stages if stage.kind == "fit")

    def broken(self, outputs):
        scores = outputs.logits[:, 0].double().clone()
        scores[5] = float("inf")
        return scores

    monkeypatch.setattr(fit.scorer.scores, "__call__", broken)
    messages = [failure.message for failure in run(plan, store).failures]
    assert messages
    assert all("scorer 'energy' gave inf for row 5" in message for message in messages)


def test_a_scorer_is_not_shown_the_labels_of_what_it_scores(make_plan, tiny, store, monkeypatch):
    plan = make_plan(tiny)
    fit = next(stage for stage in plan.stages if stage.kind == "fit")
    seen = []

    def spy(self, outputs):
        seen.append(outputs.labels.unique().tolist())
        return outputs.logits[:, 0].double()

    monkeypatch.setattr(fit.scorer.scores, "__call__", spy)
    run(plan, store)
    assert seen
    assert all(labels == [-1] for labels in seen)


def test_a_backbone_without_a_fitting_head_is_named_when_logits_are_needed(make_plan, tiny, store):
    with pytest.raises(
        OODError, match="scorer 'energy' needs logits, and the backbone has no classifier with 3 outputs"
    ):
        run(make_plan(tiny, "training=[]", "scorers=[energy]"), store)


def test_a_scorer_that_fails_takes_down_its_own_rows_alone(make_plan, tiny, store):
    results = run(make_plan(tiny, "training=[]"), store)
    assert {row.scorer for row in results.rows} == {"mahalanobis"}
    (failure,) = results.failures
    assert failure.message.startswith("fit energy: scorer 'energy' needs logits")


def test_a_training_that_fails_takes_down_its_own_variant_alone(make_plan, tiny, store):
    tiny.write_text(
        tiny.read_text() + "vary: {good: {}, bad: {training.0.learning_rate: 1000, training.0.epochs: 30}}\n"
    )
    results = run(make_plan(tiny), store)
    assert {row.variant for row in results.rows} == {"good"}
    (failure,) = results.failures
    assert failure.stage.kind == "train"


def test_a_network_without_training_is_scored_by_distance_without_accuracy(make_plan, tiny, store):
    results = run(make_plan(tiny, "training=[]", "scorers=[mahalanobis]"), store)
    assert [row.id_accuracy for row in results.rows] == [None, None]


def test_a_network_without_training_is_the_same_each_time(make_plan, tiny, tmp_path):
    stores = [Store(tmp_path / name) for name in ("one", "two")]
    for index, store in enumerate(stores):
        torch.manual_seed(index)
        run(make_plan(tiny, "training=[]", "scorers=[mahalanobis]"), store)
    first, second = (scores(make_plan(tiny, "training=[]", "scorers=[mahalanobis]"), store) for store in stores)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_holdout_there_is_no_threshold(make_plan, tiny, store, tmp_path):
    plan = make_plan(tiny, "data.holdout=0")
    results = run(plan, store)
    assert [row.threshold for row in results.rows] == [None] * 4
    report.write(plan, results, store, tmp_path / "out")
    assert "Threshold" not in (tmp_path / "out" / "report.md").read_text()


def test_one_image_a_class_still_gives_numbers(make_plan, tiny, store):
    results = run(
        make_plan(tiny, "data.id.limit=1", "data.holdout=0", "data.near.0.limit=1", "scorers=[energy]"), store
    )
    assert all(0 <= row.auroc <= 1 for row in results.rows)


def test_a_full_disk_ends_the_run_at_once_and_the_same_run_goes_on(make_plan, tiny, store, disk_full, monkeypatch):
    plan, begun, really = make_plan(tiny, "training=[]", "scorers=[mahalanobis]"), [], extract.execute
    monkeypatch.setattr(extract, "execute", lambda stages, *others: begun.append(stages) or really(stages, *others))
    with disk_full(200), pytest.raises(DiskFullError, match=rf"^{store.root}: cannot be written, the disk is full"):
        run(plan, store)
    assert len(begun) == 1
    assert list(store.root.glob("*/*/*")) == []  # neither a stage nor a part of one
    assert len(run(plan, store).rows) == 2


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(tiny, tmp_path, ood_run):
    def arguments(out):
        return tiny, "--store", tmp_path / "store", "--out", tmp_path / out

    other = subprocess.Popen([Path(sys.executable).with_name("ood-run"), *arguments("one")], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("store/locks/*")):
        assert other.poll() is None
        time.sleep(0.01)
    code, _, err = ood_run(*arguments("two"))
    assert code == 0, err
    assert other.wait(200) == 0
    one, two = (json.loads((tmp_path / out / "report.json").read_text()) for out in ("one", "two"))
    assert one["rows"] == two["rows"]
    done = [not stage["stored"] for document in (one, two) for stage in document["stages"]]
    assert sum(done) == len(one["stages"])


def test_the_report_holds_all_it_promises(make_plan, tiny, store, tmp_path):
    plan = make_plan(tiny)
    report.write(plan, run(plan, store), store, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert document["format"] == 4
    assert set(document["rows"][0]) >= {
        "variant", "seed", "scorer", "ood_set", "group", "auroc", "fpr95", "aupr_in", "aupr_out", "id_accuracy"
    }  # fmt: skip
    assert {"torch", "timm", "python", "ood-framework", "plugin logits"} <= document["versions"].keys()
    assert document["seconds"] > 0
    assert len(document["stages"]) == len(plan.stages)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| energy | unseen | near |" in text
    table = (tmp_path / "out" / "report.csv").read_text().splitlines()
    assert table[0].startswith(
        "variant,case,draw,seed,scorer,spectrum,id_set,ood_set,group,id_images,ood_images,auroc,fpr95"
    )
    assert len(table) == 1 + len(document["rows"])


def test_the_reports_of_a_second_run_differ_only_in_what_was_reused(make_plan, tiny, store, tmp_path):
    documents = []
    for folder in ("one", "two"):
        plan = make_plan(tiny)
        report.write(plan, run(plan, store), store, tmp_path / folder)
        document = json.loads((tmp_path / folder / "report.json").read_text())
        for name in ("started", "seconds", "checksum"):
            document.pop(name)
        for stage in document["stages"]:
            stage.pop("stored")
        documents.append(document)
    assert documents[0] == documents[1]


LAYERS = "scorers=[mahalanobis, mahalanobis-layers, gram, rankfeat]"


def test_all_that_is_extracted_of_one_set_comes_from_one_pass(make_plan, tiny, store, monkeypatch):
    passes = []
    monkeypatch.setattr(
        extract, "evaluation_batches", lambda images, *rest: passes.append(images) or evaluation_batches(images, *rest)
    )
    results = run(make_plan(tiny, LAYERS), store)
    sets = {str(r.stage.images) for r in results.records if r.stage.kind == "extract"}
    assert len(passes) == len(sets)
    assert len([r for r in results.records if r.stage.kind == "extract"]) == 4 * len(sets)
    assert not any(record.stored for record in results.records)


def test_a_probe_that_is_added_later_leaves_the_outputs_alone(make_plan, tiny, tmp_path):
    together, later = Store(tmp_path / "together"), Store(tmp_path / "later")
    plan = make_plan(tiny, LAYERS)
    run(plan, together)
    run(make_plan(tiny, "scorers=[mahalanobis]"), later)
    results = run(plan, later)
    stored = {type(r.stage.probe).__name__: r.stored for r in results.records if r.stage.kind == "extract"}
    assert stored == {"NoneType": True, "LayerMeans": False, "GramSums": False, "RankReducedLogits": False}
    assert all(
        torch.equal(a, b) for a, b in zip(scores(plan, together).values(), scores(plan, later).values(), strict=True)
    )


def test_a_layer_that_does_not_exist_is_named_with_the_nearest_one(make_plan, tiny, store):
    with pytest.raises(OODError, match=r"the network has no layer 'model.block.0'. Did you mean 'model.blocks.0'\?"):
        run(make_plan(tiny, "scorers=[{use: mahalanobis-layers, layers: [model.block.0]}]"), store)


def test_a_layer_that_is_not_called_is_named(make_plan, tiny, store):
    with pytest.raises(OODError, match="the layer 'model' has no output: the network makes its features without"):
        run(make_plan(tiny, "scorers=[{use: gram, layers: [model]}]"), store)


def test_the_network_itself_is_no_layer(make_plan, tiny, store):
    with pytest.raises(OODError, match=r"the network has no layer ''\. There is: model"):
        run(make_plan(tiny, "scorers=[{use: gram, layers: ['']}]"), store)


@pytest.mark.parametrize("unreadable", ["skip", "stop"])
def test_a_broken_picture_whose_name_is_no_utf_8_is_named_in_the_report(make_plan, tiny, store, tmp_path, unreadable):
    for kind in "ab":
        (tmp_path / "far" / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, ord(kind), 0)).save(tmp_path / "far" / kind / f"{number}.png")
    Path(os.fsdecode(bytes(tmp_path / "far" / "a") + b"/\xff.png")).write_bytes(b"broken")
    plan = make_plan(tiny, f"data.near=[{{use: folder, path: {tmp_path / 'far'}}}]", f"data.unreadable={unreadable}")
    report.write(plan, run(plan, store), store, tmp_path / "out")
    assert "\\udcff.png: not a picture in a known format" in (tmp_path / "out" / "report.md").read_text()


def test_a_probe_that_fails_takes_down_its_own_scorer_alone(make_plan, tiny, store):
    results = run(make_plan(tiny, "scorers=[energy, {use: mahalanobis-layers, layers: [model.block.0]}]"), store)
    assert {row.scorer for row in results.rows} == {"energy"}
    assert {failure.stage.kind for failure in results.failures} == {"extract"}


def test_scorers_that_need_the_network_are_given_the_images_of_their_rows(make_plan, tiny, store, monkeypatch):
    plan = make_plan(tiny, "scorers=[odin]")
    seen = []

    def look(self, outputs):
        assert not outputs.network.training
        assert not any(parameter.requires_grad for parameter in outputs.network.parameters())
        seen.append((outputs.images.detach().clone(), outputs.embeddings.clone()))
        features = outputs.network.forward_features(outputs.images)
        again = outputs.network.forward_head(features, pre_logits=True)
        return (again - outputs.embeddings).abs().amax(1).double()

    scorer = type(next(stage for stage in plan.stages if stage.kind == "fit").scorer)
    monkeypatch.setattr(scorer, "needs", scorer.needs | {"embeddings"})
    monkeypatch.setattr(scorer.scores, "__call__", look)
    monkeypatch.setattr(score, "BATCH_SIZE", 7)
    run(plan, store)
    assert all(values.max() < 1e-5 for values in scores(plan, store).values())
    assert {images.shape[1:] for images, _ in seen} == {(3, 8, 8)}


def test_scorers_of_every_need_run_together(make_plan, tiny, store):
    known = "data.known=[{use: digits, name: few, classes: [7], limit: 10}]"
    scorers = "scorers=[temperature-scaling, ssd-k, mahalanobis-ensemble, odin, {use: react, score: {use: gen}}]"
    results = run(make_plan(tiny, known, scorers), store)
    assert len(results.rows) == 10
    assert all(0 <= row.auroc <= 1 for row in results.rows)


def test_much_memory_is_logged_before_a_fit(tiny_run, make_plan, tiny, tmp_path, monkeypatch, caplog):
    shutil.copytree(tiny_run.store.root, tmp_path / "copied")  # with the outputs that it is fitted to
    monkeypatch.setattr("ood_core.runtime.memory.available", lambda: 0.001)  # MiB
    run(make_plan(tiny, "scorers=[mahalanobis-class]", "data.holdout=0.2"), Store(tmp_path / "copied"))
    assert [line for line in caplog.messages if line.startswith("scorer 'mahalanobis-class' takes at least 0.0 GiB of")]

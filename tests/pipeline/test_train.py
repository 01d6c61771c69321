"""A training at work: what one step does, what a checkpoint holds, how it stops, and what it files."""

import errno
import json
import re
from pathlib import Path

import pytest
import torch

from ood_core.data.selection import to_unit
from ood_core.errors import OODError
from ood_core.pipeline import networks, train
from ood_core.pipeline.training.engine import Engine
from ood_core.run.schedule import run
from ood_core.store import files
from ood_core.store.files import load_tensors
from ood_core.store.store import Store


def weights(plan, store):
    stages = [stage for stage in plan.stages if stage.kind == "train"]
    return load_tensors(store.folder(stages[-1]) / "weights.safetensors")


@pytest.fixture
def trained(make_plan, tiny, tmp_path):
    """`trained(*overrides)`: weights and facts of the tiny recipe's training."""

    def go(*overrides):
        plan = make_plan(tiny, "scorers=[energy]", *overrides)
        store = Store(tmp_path / str(len(list(tmp_path.iterdir()))))
        results = run(plan, store)
        return weights(plan, store), results.records[0].facts

    return go


HEADLESS = "scorers=[mahalanobis]"


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_parts_of_a_batch_give_the_step_of_the_whole(trained):
    whole, _ = trained()
    parts, _ = trained("training.0.accumulation=4")
    assert largest_difference(whole, parts) < 1e-5
    other, _ = trained("seed=1")
    assert largest_difference(whole, other) > 1e-2


def test_parts_of_a_batch_hide_the_patches_that_the_whole_hides(trained):
    options = "min_block: 1, masks: blockwise-exact, tokenizer: {use: kmeans, vocabulary: 8}"
    whole, parts = (
        trained(f"training=[{{use: mim, epochs: 2, batch_size: 16, accumulation: {n}, {options}}}]", HEADLESS)[0]
        for n in (1, 4)
    )
    assert largest_difference(whole, parts) < 1e-5


def test_a_batch_that_cannot_be_cut_evenly_is_refused(trained):
    message = r"a batch of 16 images cannot be cut into 1 processes x 3 parts of equal size; change 'batch_size'"
    with pytest.raises(OODError, match=message):
        trained("training.0.accumulation=3")


def test_a_moving_average_is_kept_instead_of_the_last_weights(trained):
    last, _ = trained()
    average, _ = trained("training.0.ema_decay=0.9")
    assert 1e-4 < largest_difference(last, average) < 0.1
    # the average follows the weights at once where nothing is remembered
    forgetful, _ = trained("training.0.ema_decay=1e-9")
    assert largest_difference(last, forgetful) < 1e-6


def test_activations_may_be_computed_twice(trained):
    kept, _ = trained()
    again, _ = trained("training.0.gradient_checkpointing=true")
    assert largest_difference(kept, again) < 1e-6


def test_bfloat16_trains_and_keeps_float32_weights(trained):
    exact, facts = trained()
    assert facts["precision"] == "float32"  # of "auto" on a CPU
    rounded, facts = trained("training.0.precision=bf16")
    assert facts["precision"] == "bf16"
    assert all(tensor.dtype == torch.float32 for tensor in rounded.values())
    assert 0 < largest_difference(exact, rounded) < 0.02


def test_fp16_is_refused_on_a_cpu(trained):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(OODError, match="precision 'fp16' needs a GPU; 'bf16' and 'float32' work on a CPU"):
        trained("training.0.precision=fp16")


def test_dropped_paths_change_the_training_but_not_the_names_of_weights(trained):
    deep = "backbone.options.depth=2"  # the first branch is never dropped
    plain, _ = trained(deep)
    dropped, _ = trained(deep, "training.0.drop_path=0.5")
    assert largest_difference(plain, dropped) > 1e-4


def test_no_limit_on_gradients_can_be_chosen(trained):
    limited, _ = trained("training.0.max_grad_norm=1e-3")
    free, _ = trained("training.0.max_grad_norm=null")
    assert largest_difference(limited, free) > 1e-4


def test_the_facts_say_how_long_images_were_waited_for(trained):
    _, facts = trained()
    assert 0 < facts["waiting"] < 1
    assert facts["outputs"] == 3
    assert facts["processes"] == 1


# -------------------------------------------------------------------------------------------------------- stopping


def poisoned(at):
    """Return a step of the engine whose loss is NaN at this call."""
    really, calls = Engine.step, []

    def step(self, *arguments):
        calls.append(1)
        metrics = really(self, *arguments)
        return metrics | {"loss": metrics["loss"] * float("nan")} if len(calls) == at else metrics

    return step


def test_a_loss_that_is_not_finite_stops_with_step_and_rate(make_plan, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "step", poisoned(at=8))
    message = r"the loss is nan at step 7 \(epoch 2, learning rate 0\.000983\); there is no checkpoint yet; lower 'lear"
    with pytest.raises(OODError, match=message):
        run(make_plan(tiny, "training.0.epochs=3"), Store(tmp_path / "store"))


def test_the_last_good_checkpoint_is_named_and_is_good(make_plan, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Engine, "step", poisoned(at=8))
    store = Store(tmp_path / "store")
    plan = make_plan(tiny, "training.0.epochs=3")
    with pytest.raises(OODError, match=r"the last good checkpoint is .*checkpoint\.safetensors; lower"):
        run(plan, store)
    monkeypatch.undo()
    checkpoint = store.unfinished(plan.stages[0]) / train.CHECKPOINT
    assert all(tensor.isfinite().all() for tensor in load_tensors(checkpoint).values())
    run(plan, store)
    whole = Store(tmp_path / "whole")
    run(plan, whole)
    assert largest_difference(weights(plan, store), weights(plan, whole)) == 0


def test_memory_that_runs_out_is_told_with_what_to_change(make_plan, tiny, tmp_path, monkeypatch):
    def step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...\nSee documentation")

    monkeypatch.setattr(Engine, "step", step)
    message = (
        "train classification: out of memory with batch_size 16: raise 'accumulation' above 1, "
        "set 'gradient_checkpointing: true', or lower 'batch_size'"
    )
    with pytest.raises(OODError, match=message):
        run(make_plan(tiny), Store(tmp_path / "store"))


def test_other_errors_of_torch_keep_their_traceback(make_plan, tiny, tmp_path, monkeypatch):
    def step(*_):
        raise RuntimeError("mat1 and mat2")

    monkeypatch.setattr(Engine, "step", step)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(make_plan(tiny), Store(tmp_path / "store"))


def interrupt(plan, store, monkeypatch, stop):
    """Run until this step begins, with a checkpoint at each."""
    really, calls = train._Training._step, []

    def step(self, *arguments):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(1)
        really(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(train, "CHECKPOINT_SECONDS", 0.0)
        patched.setattr(train._Training, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            run(plan, store)


def test_a_damaged_checkpoint_is_named_with_the_folder_to_delete(make_plan, tiny, tmp_path, monkeypatch):
    plan, store = make_plan(tiny, "training.0.ema_decay=0.9"), Store(tmp_path / "store")
    interrupt(plan, store, monkeypatch, 3)
    checkpoint = store.unfinished(plan.stages[0]) / train.CHECKPOINT
    whole = checkpoint.read_bytes()
    (notes,) = re.finditer(rb"\\\"step\\\": 3", whole)
    places = [*range(7, len(whole), len(whole) // 20), notes.end() - 1, len(whole) - 1]
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    for content in [b"", whole[: len(whole) // 2], *damaged]:
        checkpoint.write_bytes(content)
        with pytest.raises(OODError) as caught:
            run(plan, store)
        assert str(caught.value).startswith(f"train classification: {checkpoint} is damaged (")
        assert str(caught.value).endswith(f"); delete the folder {checkpoint.parent}, and it is computed again")
    checkpoint.write_bytes(whole)
    run(plan, store)


def test_a_disk_that_is_full_keeps_the_checkpoint_before(make_plan, tiny, tmp_path, monkeypatch):
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    interrupt(plan, store, monkeypatch, 3)
    checkpoint = store.unfinished(plan.stages[0]) / train.CHECKPOINT
    whole = checkpoint.read_bytes()

    def full(path, *_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ood_core.pipeline.training.checkpoint.save_tensors", full)
        patched.setattr(train, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(OODError, match=r"checkpoint\.safetensors: cannot be written, the disk is full: "):
            run(plan, store)
    assert checkpoint.read_bytes() == whole
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    run(plan, store)


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_place_of_the_last(make_plan, tiny, tmp_path, monkeypatch):
    done = []
    replace = Path.replace
    monkeypatch.setattr(files, "flush", lambda path: done.append(path))
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append("renamed") or replace(self, target))
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    interrupt(plan, store, monkeypatch, 1)
    written, renamed, folder = done
    assert (written.parent, renamed, folder) == (store.unfinished(plan.stages[0]), "renamed", written.parent)


@pytest.mark.parametrize(
    ("option", "stop"),
    [("ema_decay=0.9", 1), ("ema_decay=0.9", 9), ("accumulation=2", 6), ("drop_path=0.3", 9), ("mixup=0.8", 6)],
)
def test_an_interrupted_training_ends_with_the_bits_of_a_whole_one(
    make_plan, tiny, tmp_path, monkeypatch, stop, option
):
    plan = make_plan(tiny, f"training.0.{option}")
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    run(plan, whole)
    interrupt(plan, broken, monkeypatch, stop)
    run(plan, broken)
    assert largest_difference(weights(plan, whole), weights(plan, broken)) == 0
    records = [store.facts(plan.stages[0])["epochs"] for store in (whole, broken)]
    assert records[0] == records[1]


def test_outliers_and_broken_pictures_are_the_same_after_an_interruption(make_plan, tiny, tmp_path, monkeypatch):
    task = "{use: outlier-exposure, epochs: 2, batch_size: 16, auxiliary_batch_size: 10}"
    more = "{use: digits, name: more, classes: [5, 6], limit: 20}"
    plan = make_plan(tiny, f"training=[{task}]", f"data.auxiliary={more}", "scorers=[energy]")
    (stage,) = (stage for stage in plan.stages if stage.kind == "train")
    for images in (stage.images.opened, stage.auxiliary.opened):

        def some(row, images=images, pixels=images.pixels):
            if row < 4:
                raise OODError(f"{len(images)} images: {row}.png: broken picture")
            return pixels(row)

        monkeypatch.setattr(images, "pixels", some)
        monkeypatch.setattr(images, "skip_broken", True)
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    interrupt(plan, broken, monkeypatch, 9)
    for store in (whole, broken):
        run(plan, store)
    assert largest_difference(weights(plan, whole), weights(plan, broken)) == 0
    first, second = (store.facts(stage) for store in (whole, broken))
    assert first["epochs"] == second["epochs"]
    assert first["skipped"] == second["skipped"]
    sizes = (len(stage.images.opened), len(stage.auxiliary.opened))
    assert first["skipped"] == sorted(f"{size} images: {row}.png: broken picture" for size in sizes for row in range(4))


# --------------------------------------------------------------------------------------------- what is kept to explain

MASKED = (
    "training=[{use: mae, epochs: 2, batch_size: 16, mask_ratio: 0.5, decoder_width: 8, decoder_depth: 1, "
    "decoder_heads: 2, crop_scale: 1, flip: false}]",
    "scorers=[mahalanobis]",
)


def test_a_task_that_hides_patches_is_filed_so_that_it_shows_its_errors_again(make_plan, tiny, tmp_path):
    plan, store = make_plan(tiny, *MASKED), Store(tmp_path / "store")
    run(plan, store)
    stage = plan.stages[0]
    assert store.facts(stage)["errors"] is True
    training = train._Training(stage, store)  # trained again, in memory
    training.run(Silent())
    images = to_unit(torch.stack([stage.images.opened.pixels(row) for row in range(5)]))
    expected = training.engine.task.eval().patch_errors(images)
    kept = load_tensors(store.folder(stage) / networks.TASK)
    restored = networks.restored_task(stage.task, networks.trained(stage, store), stage.image_size, kept)
    assert torch.equal(restored.patch_errors(images), expected)
    assert not any(name.startswith(("network.", "optimizer.")) for name in kept)


class Silent:
    """An observer that is told and does nothing."""

    def progress(self, done, total):
        pass

    def epoch(self, metrics):
        pass


def test_of_a_task_that_hides_nothing_only_the_weights_are_filed(make_plan, tiny, tmp_path):
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    run(plan, store)
    stage = plan.stages[0]
    assert store.facts(stage)["errors"] is False
    assert sorted(path.name for path in store.folder(stage).iterdir()) == ["stage.json", "weights.safetensors"]
    task = train._Training(stage, store).engine.task
    assert task.patch_errors(torch.rand(2, 3, 8, 8)) is None
    assert stage.task.build_empty(networks.trained(stage, store), stage.image_size) is None


def test_weights_that_are_cut_up_leave_the_task_out(make_plan, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "sharded", property(lambda self: True, lambda self, value: None), raising=False)
    monkeypatch.setattr("ood_core.pipeline.training.engine._shard", lambda task: None)
    monkeypatch.setattr(torch.nn.Module, "set_requires_gradient_sync", lambda self, last: None, raising=False)
    plan, store = make_plan(tiny, *MASKED), Store(tmp_path / "store")
    run(plan, store)
    assert store.facts(plan.stages[0])["errors"] is False
    assert not (store.folder(plan.stages[0]) / networks.TASK).exists()


def test_trainings_that_were_filed_without_their_task_are_read(make_plan, tiny, tmp_path):
    plan, store = make_plan(tiny, *MASKED), Store(tmp_path / "store")
    rows = run(plan, store).rows
    folder = store.folder(plan.stages[0])
    (folder / networks.TASK).unlink()
    facts = files.verified(json.loads((folder / "stage.json").read_text()))
    del facts["errors"], facts["files"][networks.TASK]
    (folder / "stage.json").write_text(json.dumps(files.signed(facts)))
    for stage in plan.stages[1:]:
        (store.folder(stage) / "stage.json").unlink()  # so that the weights are read
    again = run(plan, store)
    assert [(row.auroc, row.fpr95) for row in again.rows] == [(row.auroc, row.fpr95) for row in rows]
    assert not (folder / networks.TASK).exists()  # it was not trained again


def test_compilation_is_asked_for(trained, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    trained("training.0.compile=true")
    assert len(compiled) == 1

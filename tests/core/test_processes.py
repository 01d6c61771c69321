"""Two processes on this machine's CPU do what one does: the same weights to rounding, the same outputs, one report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ood_core.runtime import distributed
from ood_core.store.store import load_tensors

from ..conftest import TINY

BIN = Path(sys.executable).parent
LAYERS = "scorers=[energy, mahalanobis, mahalanobis-layers]"
MIM = (
    "training=[{use: mim, epochs: 4, batch_size: 16, min_block: 1, masks: blockwise-exact, crop_scale: 0.8, "
    "tokenizer: {use: kmeans, vocabulary: 8}}, {use: classification, epochs: 2, batch_size: 16, flip: false}]"
)


def command(folder, name, *overrides, count=2):
    settings = [word for override in (LAYERS, *overrides) for word in ("--set", override)]
    one = [BIN / "ood-run", folder / "tiny.yaml", *settings, "--store", folder / name, "--out", folder / f"out {name}"]
    launch = [BIN / "torchrun", "--nproc-per-node", str(count), "--master-port", "0"]
    return one if count == 1 else [*launch, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *one]


def go(folder, name, *overrides, count=2, **environment):
    (folder / "tiny.yaml").write_text(TINY)
    settings = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command(folder, name, *overrides, count=count), env=settings, capture_output=True, text=True)


def weights(folder, name):
    return {file.parent.name: load_tensors(file) for file in (folder / name).glob("train/*/weights.safetensors")}


def by_stage(folder, name):
    """Return the weights of each training, by what it is called."""
    of = {key: json.loads((folder / name / "train" / key / "stage.json").read_text()) for key in weights(folder, name)}
    return {of[key]["stage"]: tensors for key, tensors in weights(folder, name).items()}


def rows(folder, name):
    return json.loads((folder / f"out {name}" / "report.json").read_text())["rows"]


def assert_close(folder, one, other):
    first, second = weights(folder, one), weights(folder, other)
    assert first.keys() == second.keys()
    assert first
    for key, tensors in first.items():
        assert max((tensors[name] - second[key][name]).abs().max() for name in tensors) < 1e-4
    for alone, joined in zip(rows(folder, one), rows(folder, other), strict=True):
        assert abs(alone["auroc"] - joined["auroc"]) < 0.01


def test_a_single_process_is_told_what_it_said_and_sums_its_own():
    assert (distributed.count(), distributed.rank()) == (1, 0)
    assert distributed.told("word") == "word"
    assert distributed.united(["b", "a", "b"]) == ["a", "b"]


@pytest.mark.slow
def test_two_processes_train_and_extract_as_one(tmp_path):
    assert go(tmp_path, "one", count=1).returncode == 0
    both = go(tmp_path, "two")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("report:") == 1
    assert_close(tmp_path, "one", "two")
    facts = [json.loads(file.read_text()) for file in (tmp_path / "two").glob("train/*/stage.json")]
    assert [fact["processes"] for fact in facts] == [2]
    cut = go(tmp_path, "cut", OOD_SHARD="1")
    assert cut.returncode == 0, cut.stderr
    assert_close(tmp_path, "one", "cut")


@pytest.mark.slow
def test_two_processes_that_cut_their_batches_up_hide_the_patches_that_one_hides(tmp_path):
    for name, count in (("one", 1), ("parts", 2)):
        done = go(tmp_path, name, MIM.replace("mim,", f"mim, accumulation: {count},"), count=count)
        assert done.returncode == 0, done.stderr
    one, parts = (by_stage(tmp_path, name) for name in ("one", "parts"))  # their keys differ
    assert one.keys() == parts.keys() == {"train mim", "train mim > classification"}
    for stage, alone in one.items():
        assert max((alone[name] - parts[stage][name]).abs().max() for name in alone) < 1e-4


@pytest.mark.slow
def test_parts_of_a_batch_in_two_processes_still_make_one_step(tmp_path):
    assert go(tmp_path, "one", count=1).returncode == 0
    both = go(tmp_path, "two", "training.0.accumulation=2")
    assert both.returncode == 0, both.stderr
    first, second = weights(tmp_path, "one"), weights(tmp_path, "two")
    (alone,), (joined,) = first.values(), second.values()
    assert max((alone[name] - joined[name]).abs().max() for name in alone) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["0", "1"])
def test_pre_training_survives_kill_9_in_two_processes(tmp_path, shard):
    long = MIM.replace("epochs: 4", "epochs: 150")
    (tmp_path / "tiny.yaml").write_text(TINY)
    settings = os.environ | {"OMP_NUM_THREADS": "1", "OOD_SHARD": shard}
    process = subprocess.Popen(
        command(tmp_path, "broken", long), env=settings, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "broken").glob("unfinished/*/checkpoint.safetensors")):
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for name in ("broken", "whole"):
        done = go(tmp_path, name, long, OOD_SHARD=shard)
        assert done.returncode == 0, done.stderr
    first, second = weights(tmp_path, "broken"), weights(tmp_path, "whole")
    assert len(first) == 2
    for key, tensors in first.items():
        assert all((tensors[name] == second[key][name]).all() for name in tensors)


@pytest.mark.slow
def test_the_first_process_says_what_is_wrong(tmp_path):
    both = go(tmp_path, "two", "training.0.accumulation=5")
    assert both.returncode != 0
    told = [line for line in both.stderr.splitlines() if "cannot be cut into 2 processes x 5 parts" in line]
    assert told
    assert not any(line.startswith("process 1") for line in told)


def write_pictures(folder, count, seed, broken=()):
    """Write random pictures, of which some cannot be read."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    for number in broken:
        (folder / f"{number:02}.png").write_bytes(b"no picture")


@pytest.mark.slow
def test_outliers_and_what_is_skipped_do_not_depend_on_the_number_of_processes(tmp_path):
    for split, broken in (("train", (0, 3, 7, 11, 15)), ("test", (4,))):
        for seed, name in enumerate(("cat", "dog")):
            write_pictures(tmp_path / "ID" / split / name, 16, seed, broken if name == "cat" else ())
    write_pictures(tmp_path / "OOD" / "fox", 15, 2, broken=(14,))
    write_pictures(tmp_path / "MORE" / "elk", 40, 3, broken=(1, 30))
    settings = (
        f"data={{image_size: 8, broken: skip, holdout: 0, id: {{use: folder, path: {tmp_path}/ID}}, "
        f"near: [{{use: folder, name: fox, path: {tmp_path}/OOD}}], "
        f"auxiliary: {{use: folder, name: more, path: {tmp_path}/MORE}}}}",
        "training=[{use: outlier-exposure, epochs: 1, batch_size: 8, auxiliary_batch_size: 12, accumulation: 2}]",
    )
    for name, count in (("one", 1), ("two", 2)):
        done = go(tmp_path, name, *settings, count=count)
        assert done.returncode == 0, done.stderr
    assert_close(tmp_path, "one", "two")
    one, two = (
        {
            str(f.parent.relative_to(tmp_path / n)): json.loads(f.read_text())
            for f in (tmp_path / n).glob("*/*/stage.json")
        }
        for n in ("one", "two")
    )
    assert one.keys() == two.keys()
    skipped = {key: facts["skipped"] for key, facts in one.items() if facts.get("skipped")}
    assert skipped == {key: facts["skipped"] for key, facts in two.items() if facts.get("skipped")}
    # the training meets those of both its sets; two extractions for each set, with what a probe reads
    assert sorted(map(len, skipped.values())) == [1, 1, 1, 1, 5, 5, 7]
    for key in skipped:
        for file in (tmp_path / "one" / key).glob("*.npy"):
            first, second = (np.load(tmp_path / n / key / file.name) for n in ("one", "two"))
            np.testing.assert_allclose(first, second, atol=1e-4, err_msg=f"{key} {file.name}")

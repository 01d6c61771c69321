"""Two processes on this machine's CPU do what one does: the same weights to rounding, the same outputs, one report.

Starting processes takes longer than what they do here, so each launch carries out several recipes.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from PIL import Image

from ood_core.runtime import distributed
from ood_core.store.files import load_tensors

from ..conftest import TINY
from ..packaging.packages import write_package

BIN = Path(sys.executable).parent
TRAINING = "  - {use: classification, epochs: 2, batch_size: 16, crop_scale: 1, flip: false}\n"
PLAIN = TINY.replace("[energy, mahalanobis]", "[energy, mahalanobis, mahalanobis-layers]")
MIM = PLAIN.replace(
    TRAINING,
    "  - {use: mim, epochs: 6, batch_size: 16, min_block: 1, masks: blockwise-exact, crop_scale: 0.8, "
    "tokenizer: {use: kmeans, vocabulary: 8}}\n"
    "  - {use: classification, epochs: 2, batch_size: 16, flip: false}\n",
)
MIM_ACCUMULATED = MIM.replace("mim,", "mim, accumulation: 2,")
OUTLIERS = """\
data:
  image_size: 8
  unreadable: skip
  holdout: 0
  id: {use: folder, path: ID}
  near:
    - {use: folder, name: fox, path: OOD}
  auxiliary: {use: folder, name: more, path: MORE}
backbone: {use: timm, model: vit_tiny_patch16_224, options: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}}
training:
  - {use: outlier-exposure, epochs: 1, batch_size: 8, auxiliary_batch_size: 12, accumulation: 2}
scorers: [energy, mahalanobis, mahalanobis-layers]
"""


def write_pictures(folder, count, seed, broken=()):
    """Write random pictures, of which some cannot be read."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    for number in broken:
        (folder / f"{number:02}.png").write_bytes(b"no picture")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the recipes and the pictures of one of them; the runs are put there as well."""
    folder = tmp_path_factory.mktemp("processes")
    uncut = PLAIN.replace("batch_size: 16,", "batch_size: 16, accumulation: 5,")
    recipes = {"plain": PLAIN, "mim": MIM, "mim_accumulated": MIM_ACCUMULATED, "outliers": OUTLIERS, "uncut": uncut}
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
    for split, broken in (("train", (0, 3, 7, 11, 15)), ("test", (4,))):
        for seed, name in enumerate(("cat", "dog")):
            write_pictures(folder / "ID" / split / name, 16, seed, broken if name == "cat" else ())
    write_pictures(folder / "OOD" / "fox", 15, 2, broken=(14,))
    write_pictures(folder / "MORE" / "elk", 40, 3, broken=(1, 30))
    return folder


@pytest.fixture(scope="module")
def launch(root):
    """`launch(name, *recipes, path=(), **environment)`: carries recipes out in two processes; exit codes and output.

    The store is the folder `name`, the reports lie beside it.
    """
    launcher = [sys.executable, str(Path(__file__).with_name("forking_launcher.py"))]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(launcher, cwd=root, env=settings, text=True, stdin=PIPE, stdout=PIPE) as process:

        def in_two(name, *recipes, path=(), **environment):
            order = {"arguments": command(name, *recipes), "log": f"{name}.log", "path": path}
            process.stdin.write(json.dumps(order | {"environment": environment}) + "\n")
            process.stdin.flush()
            codes = json.loads(process.stdout.readline())
            log = root / f"{name}.log"
            output = log.read_text()
            log.unlink()
            return codes, output

        yield in_two
        process.stdin.close()


def command(name, *recipes):
    # of several recipes each report has a folder of its name
    out = f"out {name}" if len(recipes) > 1 else f"out {name}/{recipes[0]}"
    return [*(f"{recipe}.yaml" for recipe in recipes), "--store", name, "--out", out]


@pytest.fixture(scope="module")
def one(root):
    """What a single process makes of the recipes."""
    from ood_core.cli import run

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["ood-run", *command("one", "plain", "mim", "outliers")])
        with pytest.raises(SystemExit) as caught:
            run.main()
    assert not caught.value.code
    return "one"


@pytest.fixture(scope="module")
def two(root):
    """What two processes make of them, started by torchrun; one recipe cuts its batches up."""
    torchrun = [BIN / "torchrun", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    ood_run = [BIN / "ood-run", *command("two", "plain", "mim_accumulated", "outliers")]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *ood_run], cwd=root, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 3
    return "two"


@pytest.fixture(scope="module")
def cut(launch):
    """What two processes make that hold half of the weights each, and cut their batches up."""
    codes, output = launch("cut", "mim_accumulated", OOD_SHARD="1")
    assert codes == [0, 0], output
    return "cut"


def report(root, name, recipe):
    return json.loads((root / f"out {name}" / recipe / "report.json").read_text())


def weights(root, name, recipe):
    """Return the weights of each training of a recipe, by what it is called."""
    found = [stage for stage in report(root, name, recipe)["stages"] if stage["kind"] == "train"]
    return {of["title"]: load_tensors(root / name / "train" / of["key"] / "weights.safetensors") for of in found}


def assert_close_weights(first, second):
    assert first.keys() == second.keys()
    assert first
    for title, tensors in first.items():
        assert max((tensors[name] - second[title][name]).abs().max() for name in tensors) < 1e-4


def assert_close(root, one, other, recipe):
    assert_close_weights(weights(root, one, recipe), weights(root, other, recipe))
    rows = (report(root, name, recipe)["rows"] for name in (one, other))
    for alone, joined in zip(*rows, strict=True):
        assert abs(alone["auroc"] - joined["auroc"]) < 0.01


def test_a_single_process_is_told_what_it_said_and_sums_its_own():
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.broadcast("word") == "word"
    assert distributed.gather_unique(["b", "a", "b"]) == ["a", "b"]


@pytest.mark.slow
def test_two_processes_train_and_extract_as_one(root, one, two):
    assert_close(root, one, two, "plain")
    (training,) = (stage for stage in report(root, two, "plain")["stages"] if stage["kind"] == "train")
    assert training["facts"]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("cut_up", ["two", "cut"])
def test_parts_of_a_batch_in_two_processes_hide_the_same_patches_and_make_one_step(root, one, cut_up, request):
    alone = weights(root, one, "mim")
    assert alone.keys() == {"train mim", "train mim > classification"}
    assert_close_weights(alone, weights(root, request.getfixturevalue(cut_up), "mim_accumulated"))


KILLER = """\
import os, signal
from ood_core.pipeline import train
from ood_core.hookspecs import hookimpl
train.CHECKPOINT_SECONDS = -1  # as often as processes agree on it, every 20 steps

@hookimpl
def ood_on_progress(stage, done):
    if stage.kind == "train" and done == 30:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["0", "1"])
def test_pre_training_survives_kill_9_in_two_processes(root, launch, request, shard):
    whole = request.getfixturevalue("cut" if shard == "1" else "two")
    broken = f"broken {shard}"
    killer = write_package(root / "killer", "ood-killer", KILLER)
    codes, _ = launch(broken, "mim_accumulated", path=[str(killer)], OOD_SHARD=shard)
    assert codes[0] == -signal.SIGKILL
    assert codes[1] != 0
    assert len(list((root / broken).glob("unfinished/*/checkpoint.safetensors"))) == 1
    assert not list((root / broken).glob("train/*"))
    codes, output = launch(broken, "mim_accumulated", OOD_SHARD=shard)
    assert codes == [0, 0], output
    first, second = weights(root, broken, "mim_accumulated"), weights(root, whole, "mim_accumulated")
    assert len(first) == 2
    for title, tensors in first.items():
        assert all((tensors[name] == second[title][name]).all() for name in tensors)


@pytest.mark.slow
def test_the_first_process_says_what_is_wrong(launch):
    codes, output = launch("wrong", "uncut")
    assert all(codes)
    # the other one may get to say it as well before it is ended, with its number in front
    found = [line for line in output.splitlines() if "cannot be cut into 2 processes x 5 parts" in line]
    assert [line.partition(":")[0] for line in found if not line.startswith("process 1: ")] == ["train classification"]


@pytest.mark.slow
def test_outliers_and_what_is_skipped_do_not_depend_on_the_number_of_processes(root, one, two):
    assert_close(root, one, two, "outliers")
    alone, joined = (
        {f"{of['kind']}/{of['key']}": of["facts"].get("skipped") for of in report(root, name, "outliers")["stages"]}
        for name in (one, two)
    )
    assert alone == joined
    skipped = {key: found for key, found in alone.items() if found}
    # the training meets those of both its sets; two extractions for each set, with what a probe reads
    assert sorted(map(len, skipped.values())) == [1, 1, 1, 1, 5, 5, 7]
    for key in skipped:
        for file in (root / one / key).glob("*.npy"):
            first, second = (np.load(root / name / key / file.name) for name in (one, two))
            np.testing.assert_allclose(first, second, atol=1e-4, err_msg=f"{key} {file.name}")

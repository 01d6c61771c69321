"""Cost of the store's checksums in CPU time, and of flushing to the disk in seconds; the best of several repetitions.

    python benchmarks/store.py

A run with a network that is fast for its wide outputs, then further scorers on its stored outputs, as in
another process; then a checkpoint of a training, without the rest of the training.
"""

import hashlib
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from ood_core.pipeline.training import checkpoint
from ood_core.pipeline.training.checkpoint import Progress, TrainingState
from ood_core.plan.make import make_plan
from ood_core.plugins import find
from ood_core.recipe.read import read_recipes
from ood_core.run.schedule import run
from ood_core.store import files
from ood_core.store import store as stores
from ood_core.store.files import file_checksum, flush, tensors_checksum
from ood_core.store.store import Store

IMAGES, REPETITIONS = 4000, 3
RECIPE = f"""\
data:
  image_size: 32
  id: {{use: digits, classes: [0, 1, 2, 3, 4, 5]}}
  far: [{{use: noise, size: 32, count: {IMAGES}}}]
backbone: {{use: timm, model: resnet10t}}
training: []
"""


def compare(name, function, size):
    """Print the CPU time of a function as it is beside that without its checksums, and the seconds of its flushes.

    All are of one call, as the difference of two calls drowns in what else the machine does.
    """
    best, flushes = [], []
    for _ in range(REPETITIONS):
        spent, flushed = [], []
        with (
            mock.patch.object(stores, "file_checksum", timed(file_checksum, spent)),
            mock.patch.object(checkpoint, "tensors_checksum", timed(tensors_checksum, spent)),
            mock.patch.object(files, "flush", timed(flush, flushed, time.perf_counter)),
        ):
            begun, began = time.process_time(), time.perf_counter()
            function()
            total, seconds = time.process_time() - begun, time.perf_counter() - began
        best.append((total, sum(spent)))
        flushes.append((seconds, sum(flushed), len(flushed)))
    total, spent = min(best)
    print(f"{name:40} {size / 1e6:6.1f} MB {total:8.3f} s, {spent:6.3f} s of it; ratio {total / (total - spent):.4f}")
    seconds, flushed, count = min(flushes)
    print(f"{'':50} {seconds:8.3f} s, {flushed:6.3f} s of it in {count} flushes to the disk, by the clock")


def timed(function, spent, clock=time.process_time):
    def call(*arguments):
        begun = clock()
        try:
            return function(*arguments)
        finally:
            spent.append(clock() - begun)

    return call


def runs(folder):
    plugins, path = find(), folder / "wide.yaml"
    path.write_text(RECIPE)

    def planned(scorers):
        return make_plan(read_recipes(path, [f"scorers={scorers}"]), plugins)

    first, second = planned("[mahalanobis]"), planned("[cosine, euclidean, l1, linf]")
    store = folder / "first"
    run(first, Store(store))
    size = sum(file.stat().st_size for file in store.rglob("*.npy"))
    compare("extract, fit, score, measure", lambda: run(first, Store(Path(tempfile.mkdtemp(dir=folder)))), size)

    def further():
        root = tempfile.mkdtemp(dir=folder)
        shutil.copytree(store, root, dirs_exist_ok=True)
        return lambda: run(second, Store(Path(root)))

    prepared = [further() for _ in range(REPETITIONS)]
    compare("four more scorers on what is stored", lambda: prepared.pop()(), size)


def checkpoints(folder):
    network = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(20)))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 1024)).sum().backward()
    optimizer.step()
    state = TrainingState({"task": network}, optimizer)
    file = folder / "checkpoint.safetensors"
    state.save(file, Progress())
    compare("a checkpoint", lambda: state.save(file, Progress()), file.stat().st_size)


def algorithms():
    data = np.random.default_rng(0).bytes(2**26)
    for name, function in (("crc32", zlib.crc32), ("sha256", hashlib.sha256)):
        begun = time.process_time()
        for _ in range(REPETITIONS):
            function(data)
        print(f"{name:8} {REPETITIONS * len(data) / (time.process_time() - begun) / 1e9:.2f} GB/s")


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runs(Path(folder))
        checkpoints(Path(folder))
    algorithms()


if __name__ == "__main__":
    main()

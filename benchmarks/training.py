"""Throughput of training steps, beside bare loops over the same timm model doing the same number of passes.

    python benchmarks/training.py                ratios to 1 are those of the bare loop; higher is better
    OMP_NUM_THREADS=1 python benchmarks/training.py

Bare: a timm model, images in memory, AdamW, forward, loss, backward and step. `classification` makes one pass forward
and backward; `mim` as well, and its tokenizer besides; `mocov3` two forward and backward and two forward alone. The
engine does all steps of a stage but loading: schedule, clipping, metrics. The last column is of a whole stage on
images of CIFAR's size: the share of time spent waiting for them. Medians of interleaved repetitions.
"""

import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, mse_loss

from ood_core.data.selection import Selection
from ood_core.interfaces import Batch, TrainingData
from ood_core.pipeline import networks, train
from ood_core.pipeline.training.engine import Engine
from ood_core.plugins import find
from ood_core.records.stages import Images, TrainStage
from ood_core.store.store import Store

SIZE, BATCH, STEPS, REPETITIONS = 32, 32, 2, 5
MODEL = {"patch_size": 4, "global_pool": "avg"}
STAGE_IMAGES = 256


def pretexts(plugins):
    tokenizer = plugins.get("tokenizer", "kmeans")(vocabulary=256, samples=20_000)
    mim = plugins.get("pretext", "mim")
    return {
        "classification": plugins.get("pretext", "classification")(epochs=1, batch_size=BATCH, crop_scale=0.5),
        "mim": mim(epochs=1, batch_size=BATCH, min_block=4, crop_scale=0.4, tokenizer=tokenizer),
        "mocov3": plugins.get("pretext", "mocov3")(epochs=1, batch_size=BATCH, hidden=512, output=128),
    }


def network(plugins):
    torch.manual_seed(0)
    return plugins.get("backbone", "timm")(model="vit_tiny_patch16_224", options=MODEL).build(SIZE, 10)


def bare_step(name, model, optimizer, views, labels):
    """Make the passes that the task makes, with the plainest of losses."""
    if name == "mocov3":
        with torch.no_grad():
            keys = [model.averaged(view) for view in views]
        loss = sum(mse_loss(model(view), key) for view, key in zip(views, keys, strict=True))
    else:
        loss = cross_entropy(model(views[0]), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def seconds(step):
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def compare(plugins, name, pretext):
    device = networks.device()
    images = torch.rand(20 * BATCH, 3, SIZE, SIZE)
    data = TrainingData(
        classes=10, all_classes=10, image_size=SIZE, sample=lambda n: images[:n], tokenizer_weights=lambda _: {}
    )
    engine = Engine(pretext.build(network(plugins), data), pretext, device)
    engine.task.train()
    views = tuple(images[i * BATCH : (i + 1) * BATCH].to(device) for i in range(2 if name == "mocov3" else 1))
    batch = Batch(views, torch.randint(10, (BATCH,), device=device))
    model = network(plugins).model.to(device).train()
    model.averaged = copy.deepcopy(model) if name == "mocov3" else None
    optimizer = torch.optim.AdamW([p for n, p in model.named_parameters() if "averaged" not in n])

    def ours():
        engine.step(batch, 1e-4, 0.5)["loss"].item()

    def bare():
        bare_step(name, model, optimizer, batch.views, batch.labels)

    seconds(ours), seconds(bare)  # warm
    pairs = [(seconds(ours), seconds(bare)) for _ in range(REPETITIONS)]
    rate = STEPS * BATCH / statistics.median(mine for mine, _ in pairs)
    return rate, statistics.median(theirs / mine for mine, theirs in pairs)


class Quiet:
    def progress(self, done, total):
        pass

    def epoch(self, metrics):
        pass


def waiting(plugins, pretext):
    """Return the share of a stage's time that it waits for images."""
    source = plugins.get("dataset", "noise")(size=SIZE, count=STAGE_IMAGES)
    images = Images("noise", "train", Selection(name="noise", source=source).open("test"))
    backbone = plugins.get("backbone", "timm")(model="vit_tiny_patch16_224", options=MODEL)
    stage = TrainStage(key="benchmark", backbone=backbone, task=pretext, images=images, image_size=SIZE, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        train.execute(stage, store, Quiet())
        return store.facts(stage)["waiting"]


def main():
    plugins = find()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"ViT-Tiny/4 at {SIZE} px, batch {BATCH}, {where}")
    print(f"{'':15} {'images/s':>9} {'of bare':>8} {'waiting':>8}")
    for name, pretext in pretexts(plugins).items():
        rate, ratio = compare(plugins, name, pretext)
        print(f"{name:15} {rate:9.1f} {ratio:8.3f} {waiting(plugins, pretext):8.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Throughput of an extraction stage, beside a bare loop over the same network and the same batches.

    python benchmarks/extraction.py [PARQUET_FOLDER]

The bare loop reads its batches from memory and leaves its results there; the stage decodes, resizes, copies and writes.
Without a folder of CIFAR-10 parquet the images are noise of the same size, drawn one by one.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from ood_core.data.loaders import EvaluationTransform, evaluation_batches
from ood_core.data.selection import Selection, to_unit
from ood_core.pipeline import extract
from ood_core.plugins import find
from ood_core.records.stages import ExtractStage, Images
from ood_core.store.store import Store

IMAGES, SIZE, REPETITIONS = 2000, 32, 3


class Quiet:
    def progress(self, done, total):
        pass


def source(plugins, folder):
    if folder is None:
        return plugins.get("dataset", "noise")(size=SIZE, count=IMAGES)
    return plugins.get("dataset", "parquet")(path=Path(folder))


def stage_of(plugins, folder):
    """Build a stage over fresh images, so that nothing is decoded yet."""
    images = source(plugins, folder)
    limit = None if folder is None else IMAGES // 10
    opened = Selection(name="images", source=images, limit=limit).open("test")
    backbone = plugins.get("backbone", "timm")(model="vit_tiny_patch16_224", options={"patch_size": 4})
    return ExtractStage(
        key="benchmark",
        pass_key="benchmark",
        backbone=backbone,
        weights=None,
        images=Images("images", "test", opened),
        image_size=SIZE,
        classes=10,
    )


def bare(network, batches):
    with torch.inference_mode():
        kept = []
        for batch in batches:
            features = network.forward_features(batch)
            kept.append((network.forward_head(features, pre_logits=True), network.forward_head(features)))
    return kept


def main(folder=None):
    plugins = find()
    network = stage_of(plugins, folder).backbone.build(SIZE, None).eval()
    images = stage_of(plugins, folder).images.opened
    batches = [
        to_unit(batch.images)
        for batch in evaluation_batches(images, EvaluationTransform(image_size=SIZE), extract.BATCH_SIZE)
    ]
    bare(network, batches[:2])
    alone, ours = [], []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        bare(network, batches)
        alone.append(time.perf_counter() - begun)
        stage = stage_of(plugins, folder)
        with tempfile.TemporaryDirectory() as root:
            extract.execute([stage], Store(Path(root)), Quiet())
            ours.append(Store(Path(root)).facts(stage)["seconds"])
    count = len(images)
    print(f"{count} images of {SIZE} px, {'CIFAR parquet' if folder else 'noise'}, ViT-Tiny patch 4, batch 128")
    print(f"bare loop   {count / min(alone):7.1f} images/s")
    print(f"extraction  {count / min(ours):7.1f} images/s   ratio {min(alone) / min(ours):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

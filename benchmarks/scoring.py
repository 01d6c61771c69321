"""Throughput of `ood score`, from files to rows, beside a bare loop over the same files and the same network.

    python benchmarks/scoring.py [CASE ...]        of digits, tiny, base; default: all

The bare loop is a DataLoader around Pillow and the same view, and the network's forward pass, with its best number
of workers; it stores the logits. `ood score` also scores, decides, and writes each batch to a file. Loading
the detector is not counted. The detectors have random weights; nothing here depends on them.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

from ood_core.data import image_paths as paths
from ood_core.data.decoding import to_rgb
from ood_core.data.folders import PassedOver
from ood_core.data.selection import to_unit
from ood_core.detector import Detector
from ood_core.detector.image_inputs import preprocess
from ood_core.detector.predictions import decision_rule
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_score import formats, predict_files, resumable_file
from ood_score.rows import Columns, ScoreCounts

BATCH = 64
WORKERS = (0, 1, 2)


@dataclass
class Case:
    """A network and files for it; `scorer` decides, and the best of so many repetitions counts."""

    what: str
    model: str
    options: dict
    size: int
    scorer: str
    images: int
    repetitions: int


CASES = {
    "digits": Case(
        "16 px, ViT of the main recipe, PNGs of digits", "vit_base_patch16_224",
        {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 4, "global_pool": "avg", "img_size": 16},
        16, "mahalanobis", 1000, 3,
    ),
    "tiny": Case("224 px, ViT-Ti/16, JPEGs of 500 x 375", "vit_tiny_patch16_224", {}, 224, "energy", 256, 2),
    "base": Case("224 px, ViT-B/16, JPEGs of 500 x 375", "vit_base_patch16_224", {}, 224, "energy", 128, 1),
}  # fmt: skip


class Pictures(Dataset):
    """The files, as the network is shown them."""

    def __init__(self, files, preprocessing):
        self.files, self.preprocessing = files, preprocessing

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        with PIL.Image.open(self.files[row]) as picture:
            return preprocess(to_rgb(picture), self.preprocessing)


def draw(case, folder):
    """Write the pictures."""
    random = np.random.default_rng(0)
    digits = (load_digits().images * 255 / 16).astype(np.uint8)
    for number in range(case.images):
        if case.size == 16:
            PIL.Image.fromarray(digits[number % len(digits)]).save(folder / f"{number:05}.png")
        else:  # with the smoothness of a photograph
            rough = PIL.Image.fromarray(random.integers(0, 256, (47, 63, 3), dtype=np.uint8))
            rough.resize((500, 375), PIL.Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def detector_of(case):
    """Fit a detector to a network with random weights and a few images."""
    prepare_torchvision()
    import timm

    torch.manual_seed(0)
    module = timm.create_model(case.model, num_classes=6, **case.options).eval()
    few = np.random.default_rng(0).integers(0, 256, (60, case.size, case.size, 3), dtype=np.uint8)
    fitted = Detector(image_size=case.size, holdout=0.5, tpr=0.9).fit(module, (few, np.arange(60) % 6), [case.scorer])
    return module, fitted


def bare(module, files, preprocessing, workers):
    begun = time.perf_counter()
    loader = DataLoader(Pictures(files, preprocessing), BATCH, num_workers=workers)
    with torch.inference_mode():
        logits = [module(to_unit(batch)) for batch in loader]
    assert sum(map(len, logits)) == len(files)
    return len(files) / (time.perf_counter() - begun)


def ours(detector, folder, target):
    by, columns = decision_rule(detector.state), Columns()
    request = predict_files.Request(detector.state, by, columns, BATCH)
    with resumable_file.open_resumable(target, formats.CSV(columns), {}) as file:
        counts, begun = ScoreCounts(), time.perf_counter()
        for rows in predict_files.predict_files(
            request, file.skip_written(paths.named([str(folder)], PassedOver()), counts)
        ):
            file.write(rows)
            counts.add(rows)
        seconds = time.perf_counter() - begun
    assert counts.images and not counts.unscored
    target.unlink()
    return counts.images / seconds


def compare(case, root):
    folder = root / "images"
    folder.mkdir(parents=True)
    draw(case, folder)
    module, detector = detector_of(case)
    files = sorted(folder.iterdir())
    ours(detector, folder, root / "first.csv")
    alone, scored = dict.fromkeys(WORKERS, 0.0), 0.0
    for _ in range(case.repetitions):
        for workers in WORKERS:
            found = bare(module, files, detector.state.preprocessing, workers)
            alone[workers] = max(alone[workers], found)
        scored = max(scored, ours(detector, folder, root / "rows.csv"))
    best = max(alone, key=alone.get)
    print(f"{case.what}, batch {BATCH}, {len(files)} images")
    print(f"  bare loop   {alone[best]:7.1f} images/s with {best} workers; {alone}")
    print(f"  ood score   {scored:7.1f} images/s   ratio {scored / alone[best]:.3f}", flush=True)


def main(*names):
    """Print images a second and ratios."""
    with tempfile.TemporaryDirectory() as root:
        for name in names or CASES:
            compare(CASES[name], Path(root, name))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Relative difference of the scores of an image between batch sizes.

OMP_NUM_THREADS=1 python benchmarks/batch_sizes.py
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from ood_core.detector import Detector
from ood_core.runtime.torchvision_compat import prepare_torchvision

prepare_torchvision()
import timm  # noqa: E402 - after what it needs

SCORERS = ("mahalanobis", "softmax", "entropy", "energy", "gradnorm", {"use": "knn", "k": 10}, "vim")
SIZES = (1, 2, 7, 64)
MODELS = (("vit_tiny_patch16_224", 64), ("mixer_s32_224", 64), ("resnet18", 64))
IMAGES, CLASSES, SCORED = 240, 4, 128


def fit_timm_model(model, size):
    """Return a detector of a timm model with random weights, and images [N, H, W, 3] to score."""
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=CLASSES, **({} if model == "resnet18" else {"img_size": size}))
    images = np.random.default_rng(0).integers(0, 256, (IMAGES + SCORED, size, size, 3), dtype=np.uint8)
    images = (images * np.random.default_rng(1).uniform(0.2, 1, (IMAGES + SCORED, 1, 1, 3))).astype(np.uint8)
    labels = np.arange(IMAGES) % CLASSES
    scorers = [{"use": "mahalanobis", "cutoff": 1e-4, "name": "mahalanobis"}, *SCORERS[1:]]
    return Detector(image_size=size, examples=False).fit(network, (images[:IMAGES], labels), scorers), images[IMAGES:]


def fit_digits():
    """Return a detector of a small convolutional network for the digits 0 to 5, and other digits to score."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float()[:, None].expand(-1, 3, -1, -1)
    labels = torch.from_numpy(digits.target)
    known, unknown = (labels < 6).nonzero()[:, 0], (labels >= 6).nonzero()[:, 0]
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 64), nn.ReLU(), nn.Linear(64, 6))
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(200):
        rows = known[torch.randint(800, (64,))]
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    detector = Detector(image_size=8, examples=False).fit(model, (images[known[:800]], labels[known[:800]]), SCORERS)
    return detector, torch.cat([images[known[800:]], images[unknown]])[:SCORED]


def largest_differences(detector, images):
    """Return the largest relative difference to batches of 64 by scorer, for each smaller batch size."""
    found = {size: detector.score(images, batch_size=size) for size in SIZES}
    reference = found.pop(SIZES[-1])
    return {
        size: {
            name: np.max(np.abs(scores[name] - reference[name]) / np.abs(reference[name]).clip(1e-300))
            for name in scores
        }
        for size, scores in found.items()
    }


def main():
    print(f"{torch.get_num_threads()} thread(s); largest relative difference to batches of {SIZES[-1]}")
    for name, (detector, images) in (
        ("digits", fit_digits()),
        *((model, fit_timm_model(model, size)) for model, size in MODELS),
    ):
        for size, differences in largest_differences(detector, images).items():
            listed = ", ".join(f"{scorer} {value:.0e}" for scorer, value in differences.items())
            print(f"{name}, batches of {size}: {listed}")


if __name__ == "__main__":
    main()

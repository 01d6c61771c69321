"""Exported graphs beside their detector: size, time to write, time per image.

OMP_NUM_THREADS=1 python benchmarks/export.py
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ood_core.detector import Detector
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_export.exporting import export

prepare_torchvision()
import timm  # noqa: E402 - after what it needs

SCORERS = ("mahalanobis", "softmax", "entropy", "energy", "gradnorm")
MODELS = (("vit_tiny_patch16_224", 224), ("resnet18", 224))
IMAGES, CLASSES = 240, 4
THREADS = torch.get_num_threads()


def best(function, repeats=5):
    """Return the shortest of some runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def fitted(model, size):
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=CLASSES)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    images = (images * np.random.default_rng(1).uniform(0.2, 1, (IMAGES, 1, 1, 3))).astype(np.uint8)
    scorers = [{"use": "mahalanobis", "cutoff": 1e-4, "name": "mahalanobis"}, *SCORERS[1:]]
    return Detector(image_size=size).fit(network, (images, np.arange(IMAGES) % CLASSES), scorers)


def runner(file, shown):
    """Return what passes a batch through a graph."""
    if file.suffix == ".onnx":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(file, options)
        return lambda: session.run(None, {"images": shown.numpy()})
    module = torch.export.load(file).module()
    return torch.inference_mode()(lambda: module(images=shown))


def measure(model, size, detector, file):
    begun = time.perf_counter()
    made = export(detector, file, tolerance=1e-2)  # networks without training: next to singular
    seconds = time.perf_counter() - begun
    print(f"{model}, {file.suffix}: {made.size / 1e6:.1f} MB, {seconds:.1f} s to write, off by {made.deviation:.0e}")
    for batch in (1, 16):
        shown = torch.rand(batch, 3, size, size)
        graph, ours = best(runner(file, shown)), best(lambda shown=shown: detector.score(shown))
        print(f"    batches of {batch:2}: graph {graph / batch * 1e3:6.2f} ms, detector {ours / batch * 1e3:6.2f}")


def main():
    print(f"{THREADS} thread(s); milliseconds are for one image, the five scores included")
    for model, size in MODELS:
        detector = fitted(model, size)
        with tempfile.TemporaryDirectory() as folder:
            for suffix in (".onnx", ".pt2"):
                measure(model, size, detector, Path(folder) / f"graph{suffix}")


if __name__ == "__main__":
    main()

"""Fitting and scoring with each scorer, beside one softmax over the same logits.

python benchmarks/scoring.py
"""

import time

import torch

from ood_core.plugins import find
from ood_core.testing import make_outputs

FIT, SCORE, CLASSES, DIMENSIONS, REPETITIONS = 20_000, 10_000, 100, 256, 5


def best(action):
    times = []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return min(times)


def main():
    train = make_outputs(rows=FIT, classes=CLASSES, dimension=DIMENSIONS, seed=0)
    test = make_outputs(rows=SCORE, classes=CLASSES, dimension=DIMENSIONS, seed=1)
    softmax = best(lambda: torch.softmax(test.logits, 1))
    print(f"fit {FIT} rows, score {SCORE} rows, {CLASSES} classes, {DIMENSIONS} dimensions")
    print(f"{'one float32 softmax':20} {'':>10}       {1e3 * softmax:8.2f} ms")
    for name, scorer in find().classes("scorer").items():
        fit = best(lambda: scorer().fit(train))  # noqa: B023 - called at once
        score = scorer().fit(train)
        scoring = best(lambda: [score(chunk) for chunk in test.chunks()])  # noqa: B023
        print(f"{name:20} {1e3 * fit:8.1f} ms fit  {1e3 * scoring:8.2f} ms score  {scoring / softmax:7.1f} x softmax")


if __name__ == "__main__":
    main()

"""Scoring with each logit scorer, beside one float32 softmax; GradNorm beside a backward pass for each image.

python benchmarks/logits.py [--rows N]
"""

import argparse
import time

import torch
from torch import nn

from ood_core.interfaces import Head, Outputs
from ood_core.plugins import find

CLASSES, DIMENSIONS, CHUNK, BACKWARD = 1000, 768, 8192, 200
REPETITIONS = 9


def outputs(rows, seed):
    """Logits of a trained classifier: sure of most images, unsure of some; embeddings like those of a ViT."""
    head = 2 * torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(0)) / DIMENSIONS**0.5
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    sure = 5 * torch.rand(rows, 1, generator=generator)
    embeddings = torch.randn(rows, DIMENSIONS, generator=generator) + sure * head[labels]
    bias = torch.zeros(CLASSES)
    return Outputs(embeddings, embeddings @ head.T, labels, CLASSES, Head(head, bias))


def alternating(actions):
    """Return the best time of each action, all measured in turn."""
    times = {name: [] for name in actions}
    for _ in range(REPETITIONS):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - begun)
    return {name: min(found) for name, found in times.items()}


def backward(test):
    """GradNorm as the paper does it, image by image through the last layer alone."""
    head = nn.Linear(DIMENSIONS, CLASSES)
    target = torch.full((1, CLASSES), 1 / CLASSES)
    for row in test.embeddings[:BACKWARD]:
        head.zero_grad()
        nn.functional.cross_entropy(head(row[None]), target).backward()
        head.weight.grad.abs().sum().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    rows = parser.parse_args().rows
    train, test = outputs(rows, seed=1), outputs(rows, seed=2).without_labels()
    train = Outputs(**{**vars(train), "held_out": outputs(rows // 4, seed=3)})
    scorers = {
        name: cls()
        for name, cls in find().classes("scorer").items()
        if cls.__module__.split(".")[0] in {"ood_logits", "ood_gradnorm"}
    }
    fit, scores = {}, {}
    for name, scorer in scorers.items():
        begun = time.perf_counter()
        scores[name] = scorer.fit(train)
        fit[name] = time.perf_counter() - begun
    actions = {
        name: lambda score=score: [score(chunk) for chunk in test.chunks(CHUNK)] for name, score in scores.items()
    }
    # into memory that is there already, or most of it would be the time of the operating system
    kept = torch.empty(CHUNK, CLASSES)
    actions["softmax32"] = lambda: [
        torch.softmax(chunk.logits, 1, out=kept[: len(chunk)]) for chunk in test.chunks(CHUNK)
    ]
    actions["softmax, fresh"] = lambda: [torch.softmax(chunk.logits, 1) for chunk in test.chunks(CHUNK)]
    actions["backward"] = lambda: backward(test)
    times = alternating(actions)
    softmax, each = times.pop("softmax32"), times.pop("backward") / BACKWARD
    print(f"{rows} rows, {CLASSES} classes, {DIMENSIONS} dimensions, {torch.get_num_threads()} threads")
    fresh = times.pop("softmax, fresh")
    print(f"{'one float32 softmax':20} {1e3 * softmax:8.1f} ms, into fresh memory {1e3 * fresh:.1f} ms")
    for name, taken in times.items():
        print(f"{name:20} {1e3 * taken:8.1f} ms  {taken / softmax:6.2f} x softmax    fit {1e3 * fit[name]:8.1f} ms")
    print(f"gradnorm by backward passes: {each / (times['gradnorm'] / rows):.0f} x the time a row")


if __name__ == "__main__":
    main()

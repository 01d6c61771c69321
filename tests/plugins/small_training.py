"""Trains a tiny ViT on real digits for some steps, and asks a linear probe what its embeddings are worth."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ood_core.data.selection import to_unit
from ood_core.interfaces import Batch, TrainingData
from ood_timm.backbone import Timm

STEPS = 120
BATCH = 64


def digits():
    """Return all digits, uint8 [N, 3, 8, 8], and their labels."""
    found = load_digits()
    images = torch.tensor(found.images / 16 * 255).byte().unsqueeze(1).repeat(1, 3, 1, 1)
    return images, torch.tensor(found.target)


def build_network():
    torch.manual_seed(0)
    options = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 4, "global_pool": "avg"}
    return Timm(model="vit_tiny_patch16_224", options=options).build(8, 10)


def training_data():
    images, _ = digits()
    return TrainingData(
        classes=10,
        all_classes=10,
        image_size=8,
        sample=lambda count: to_unit(images[:count]),
        tokenizer_weights=lambda _: {},
    )


def losses_of(task, views, steps=STEPS):
    """Return the loss of every step."""
    images, labels = digits()
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=2e-3)
    task.train()
    losses = []
    for step in range(steps):
        rows = torch.randperm(1000)[:BATCH]
        samples = [views(images[row]) for row in rows]
        batch = Batch(tuple(to_unit(torch.stack(view)) for view in zip(*samples, strict=True)), labels[rows])
        task.before_step(step / steps)
        loss = task(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    task.eval()
    return losses


@torch.no_grad()
def probe(network):
    """Return the accuracy of a linear classifier on frozen embeddings; few labels, so that embeddings matter."""
    images, labels = digits()
    network.eval()
    features = network.forward_head(network.forward_features(to_unit(images)), pre_logits=True)
    features = (features - features[:200].mean(0)) / features[:200].std(0).clamp_min(1e-6)
    classifier = LogisticRegression(max_iter=2000).fit(features[:200], labels[:200])
    return classifier.score(features[1000:], labels[1000:])


def embeddings_tell_digits_better(network):
    """Return whether the probe does better on this network than on the one it began as."""
    return probe(network) > probe(build_network()) + 0.01


def accuracy_of_probe(network, images, labels):
    """Return the accuracy on the second half of a linear classifier of embeddings that was fitted on the first."""
    with torch.no_grad():
        embeddings = network.forward_head(network.forward_features(to_unit(images)), pre_logits=True)
    embeddings = (embeddings - embeddings.mean(0)) / embeddings.std(0)
    half = len(labels) // 2
    classifier = LogisticRegression(max_iter=2000).fit(embeddings[:half], labels[:half])
    return classifier.score(embeddings[half:], labels[half:])


def outputs_of_two_processes(module, folder):
    """Return the tensors that two processes save, each started as `python -m module folder rank`."""
    command, settings = [sys.executable, "-m", module, str(folder)], os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    running = [subprocess.Popen([*command, str(rank)], env=settings, cwd=root) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]

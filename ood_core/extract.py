"""One pass of a data set through the network; every scorer works on what it leaves behind."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ood_core import network as networks
from ood_core.data import evaluation_batches, to_unit
from ood_core.interfaces import Head, Network
from ood_core.stages import ExtractStage, Observer
from ood_core.store import HEAD, Store, create_array, save_tensors

BATCH_SIZE = 128


def execute(stage: ExtractStage, store: Store, observer: Observer) -> None:
    """Extract embeddings, logits and labels in float32, and file them with the head."""
    network = _network(stage, store).to(networks.device()).eval()
    head = _usable_head(stage, network)
    with store.put(stage) as (folder, facts):
        begun = time.monotonic()
        _forward(stage, network, folder, head is not None, observer)
        seconds = time.monotonic() - begun
        if head is not None:
            save_tensors(folder / HEAD, {"weight": head.weight, "bias": head.bias})
        images = len(stage.images.opened)
        facts |= {
            "images": images,
            "dimensions": network.num_features,
            "logits": head is not None,
            "images_per_second": round(images / max(seconds, 1e-9), 1),
        }


def _network(stage: ExtractStage, store: Store) -> Network:
    if stage.weights is not None:
        return networks.trained(stage.weights, store)
    torch.manual_seed(0)  # what a backbone leaves random must not depend on what ran before
    return networks.build(stage.backbone, stage.image_size, None)


def _usable_head(stage: ExtractStage, network: Network) -> Head | None:
    """Return the head if it tells the ID classes apart: it was trained to, or came with one output for each."""
    head = networks.head_of(network)
    if stage.weights is not None:
        return head if stage.weights.task.trains_head else None
    return head if head is not None and len(head.bias) == stage.classes else None


@torch.inference_mode()
def _forward(stage: ExtractStage, network: Network, folder: Path, with_logits: bool, observer: Observer) -> None:
    images, device = stage.images.opened, networks.device()
    count, classes = len(images), stage.classes if with_logits else 0
    embeddings = create_array(folder / "embeddings.npy", (count, network.num_features))
    logits = create_array(folder / "logits.npy", (count, classes))
    done = 0
    for batch in evaluation_batches(images, stage.image_size, BATCH_SIZE):
        features = network.forward_features(to_unit(batch.views[0].to(device)))
        rows = slice(done, done + len(batch.labels))
        embeddings[rows] = network.forward_head(features, pre_logits=True).float().cpu().numpy()
        if with_logits:
            logits[rows] = network.forward_head(features).float().cpu().numpy()
        done = rows.stop
        observer.progress(done, count)
    labels = create_array(folder / "labels.npy", (count,), int)
    labels[:] = images.labels.numpy()
    for array in (embeddings, logits, labels):
        array.flush()

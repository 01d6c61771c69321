"""Builds networks and puts stored weights into them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from ood_core import torch_state
from ood_core.errors import OODError
from ood_core.interfaces import Backbone, Head, Network
from ood_core.stages import ExtractStage, TrainStage
from ood_core.store import Store, load_tensors

_LOG = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
TASK = "task.safetensors"
"""Beside the weights of a trained network: what the `errors` of its task need besides them, where it has any."""


def device() -> torch.device:
    """Return where networks run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(backbone: Backbone, image_size: int, classes: int | None) -> Network:
    """Return the backbone's network, in float32: trainings keep their weights so, and outputs are extracted so.

    Raises:
        OODError: What it makes is no `Network`.
    """
    with torch_state.restoring():
        network = backbone.build(image_size, classes)
    if not isinstance(network, Network):
        raise OODError(f"backbone '{backbone.name}' builds a {type(network).__name__}, which is no Network")
    low = {tensor.dtype for tensor in (*network.parameters(), *network.buffers())} & {torch.float16, torch.bfloat16}
    if low:
        dtypes = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in low))
        _LOG.warning("backbone '%s' has weights in %s; it computes in float32 with them", backbone.name, dtypes)
        network.float()
    return network


def trained(stage: TrainStage, store: Store) -> Network:
    """Return the network of a finished training stage, on the CPU."""
    facts = store.facts(stage)
    assert facts is not None and stage.backbone is not None, "the stage has trained a network"
    # as many outputs as the task has given it; without a classifier the backbone decides as it did in the training
    network = build(stage.backbone, stage.image_size, facts["outputs"] or len(stage.images.opened.classes))
    network.load_state_dict(load_tensors(weights_file(stage, store)))
    return network


def extracted(stage: ExtractStage, store: Store) -> Network:
    """Return the network that an extraction stage passes images through: on the device, frozen, in evaluation mode."""
    if stage.weights is not None:
        network = trained(stage.weights, store)
    else:
        torch.manual_seed(0)  # what a backbone leaves random must not depend on what ran before
        network = build(stage.backbone, stage.image_size, None)
    return network.to(device()).eval().requires_grad_(False)


def weights_file(stage: TrainStage, store: Store) -> Path:
    """Return where the weights of a finished training stage lie."""
    return store.folder(stage) / WEIGHTS


def head_of(network: Network) -> Head | None:
    """Return the classifier as one matrix and bias, None where the network has no linear one."""
    classifier = network.get_classifier()
    if not isinstance(classifier, (nn.Linear, nn.Conv2d)):
        return None
    weight = classifier.weight.detach().flatten(1)
    bias = classifier.bias.detach() if classifier.bias is not None else weight.new_zeros(len(weight))
    return Head(weight, bias)

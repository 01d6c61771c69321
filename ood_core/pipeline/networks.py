"""Builds networks and puts stored weights into them."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces import Backbone, Head, Network
from ood_core.records.stages import ExtractStage, TrainStage
from ood_core.runtime import torch_state
from ood_core.store.store import Store, load_tensors

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
        made = backbone.build(image_size, classes)
    return _network(backbone, made)


def _network(backbone: Backbone, made: object) -> Network:
    """Return the network that a backbone has made, with float32 weights."""
    if not isinstance(made, Network):
        raise OODError(f"backbone '{backbone.name}' builds a {type(made).__name__}, which is no Network")
    low = {tensor.dtype for tensor in (*made.parameters(), *made.buffers())} & {torch.float16, torch.bfloat16}
    if low:
        dtypes = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in low))
        _LOG.warning("backbone '%s' has weights in %s; it computes in float32 with them", backbone.name, dtypes)
        made.float()
    return made


def trained(stage: TrainStage, store: Store) -> Network:
    """Return the network of a finished training stage, on the CPU; the backbone's initial weights are not read.

    Raises:
        OODError: The stage is damaged or not in the store, or the backbone's `blank` is not the network that it built.
    """
    weights, facts = trained_weights(stage, store), store.facts(stage)
    assert facts is not None and stage.backbone is not None, "the stage has trained a network"
    # as many outputs as the task has given it; without a classifier the backbone decides as it did in the training
    outputs = facts["outputs"] or len(stage.images.opened.classes)
    with torch_state.restoring():
        blank = stage.backbone.blank(stage.image_size, outputs)
    network = _network(stage.backbone, blank)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise OODError(
            f"backbone '{stage.backbone.name}': 'blank' makes another network than 'build': {reason}"
        ) from error
    return network


def extracted(stage: ExtractStage, store: Store) -> Network:
    """Return the network that an extraction stage passes images through: on the device, frozen, in evaluation mode."""
    if stage.weights is not None:
        network = trained(stage.weights, store)
    else:
        torch.manual_seed(0)  # what a backbone leaves random must not depend on what ran before
        network = build(stage.backbone, stage.image_size, None)
    return network.to(device()).eval().requires_grad_(False)


def trained_weights(stage: TrainStage, store: Store) -> dict[str, Tensor]:
    """Return the weights of a finished training stage, on the CPU."""
    return load_tensors(store.file(stage, WEIGHTS))


def head_of(network: Network) -> Head | None:
    """Return the classifier as one matrix and bias, None where the network has no linear one."""
    classifier = network.get_classifier()
    if not isinstance(classifier, (nn.Linear, nn.Conv2d)):
        return None
    weight = classifier.weight.detach().flatten(1)
    bias = classifier.bias.detach() if classifier.bias is not None else weight.new_zeros(len(weight))
    return Head(weight, bias)

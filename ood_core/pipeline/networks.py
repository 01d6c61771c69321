"""Builds networks, puts stored weights into them, and captures the outputs of their layers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ood_core.errors import OODError, abridge, one_line, suggest
from ood_core.interfaces import Backbone, Head, Network, PretextTask, Task
from ood_core.interfaces.building_blocks import state_differences
from ood_core.records.facts import TrainFacts
from ood_core.records.stages import ExtractStage, TrainStage
from ood_core.runtime import torch_state
from ood_core.store.files import load_tensors
from ood_core.store.store import Store

_LOG = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
TASK = "task.safetensors"
"""Beside the weights of a trained network: the rest of its task, if it is used after the training."""


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(backbone: Backbone, image_size: int, classes: int | None, empty: bool = False) -> Network:
    """Return the backbone's network, in float32: trainings keep their weights so, and outputs are extracted so.

    If `empty`, other weights will replace its own, and initial ones are not read.

    Raises:
        OODError: The backbone makes no `Network`.
    """
    with torch_state.restoring():
        made: object = (backbone.build_empty if empty else backbone.build)(image_size, classes)
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
        OODError: The stage is damaged or not in the store, or `build_empty` of the backbone gives another network.
    """
    weights, facts = trained_weights(stage, store), store.facts(stage)
    assert isinstance(facts, TrainFacts) and stage.backbone is not None, "the stage has trained a network"
    # as many outputs as the task has given it; without a classifier the backbone decides as it did in the training
    outputs = facts.outputs or len(stage.images.opened.classes)
    network = build(stage.backbone, stage.image_size, outputs, empty=True)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        made = f"backbone '{stage.backbone.name}': 'build_empty' makes another network than 'build'"
        raise OODError(f"{made}: {one_line(error)}") from error
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


def task_state(task: Task) -> dict[str, Tensor]:
    """Return the state dict of a task without that of its network."""
    network = task.product()
    names = tuple(f"{name}." for name, module in task.named_modules(remove_duplicate=False) if module is network)
    return {name: tensor for name, tensor in task.state_dict().items() if not name.startswith(names)}


def empty_task(pretext: PretextTask, network: Network, image_size: int) -> Task | None:
    """Return a task around a trained network, without its own trained tensors; None if it is of no use any more."""
    with torch_state.restoring(generators=True):
        return pretext.build_empty(network, image_size)


def restored_task(pretext: PretextTask, network: Network, image_size: int, state: Mapping[str, Tensor]) -> Task:
    """Return a trained task in evaluation mode; its errors have the bits that they had after the training.

    Parameters require gradients as they did: torch's choice among kernels, and with it the last bit, depends on that.

    Raises:
        OODError: Tensors are missing, unexpected or of another shape; names them.
    """
    task = empty_task(pretext, network, image_size)
    assert task is not None, "only tasks that can be restored are saved"
    if wrong := state_differences(state, task_state(task)):
        raise OODError(f"pretext '{pretext.name}': the saved tensors are not those of these options: {wrong}")
    task.load_state_dict(state, strict=False)
    return task.eval()


def head_of(network: Network) -> Head | None:
    """Return the classifier as one matrix and bias, None where the network has no linear one."""
    classifier = network.get_classifier()
    if not isinstance(classifier, (nn.Linear, nn.Conv2d)):
        return None
    weight = classifier.weight.detach().flatten(1)
    bias = classifier.bias.detach() if classifier.bias is not None else weight.new_zeros(len(weight))
    return Head(weight, bias)


class _LayerOutputs(dict[str, Tensor]):
    def __missing__(self, name: str) -> Tensor:
        raise OODError(f"the layer '{name}' has no output: the network makes its features without calling it")


@contextmanager
def capture_layers(network: Network, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that holds, after each forward pass, the outputs of these submodules; OODError if there is none."""
    maps = _LayerOutputs()
    modules = {name: module for name, module in network.named_modules() if name}
    with ExitStack() as stack:
        for name in dict.fromkeys(layers):
            if name not in modules:
                raise OODError(f"the network has no layer '{name}'.{abridge(suggest(name, modules))}")

            def keep(_module: nn.Module, _inputs: Any, output: Tensor, name: str = name) -> None:
                maps[name] = output

            stack.callback(modules[name].register_forward_hook(keep).remove)
        yield maps

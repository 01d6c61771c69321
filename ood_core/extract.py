"""One pass of a data set through the network; every scorer works on what it leaves behind.

The outputs and what probes read of the same images are filed as artifacts of their own, and written in the same pass.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ood_core import network as networks
from ood_core.artifacts import HEAD, layer_file, save_layers
from ood_core.data import evaluation_batches, to_unit
from ood_core.errors import OODError, suggest
from ood_core.interfaces import Head, Network, Probe
from ood_core.stages import ExtractStage, Observer
from ood_core.store import Store, create_array, save_tensors

BATCH_SIZE = 128


def execute(stages: Sequence[ExtractStage], store: Store, observer: Observer) -> None:
    """Extract all that these stages of one `passage` want, in one pass and in float32."""
    network = networks.extracted(stages[0], store)
    with ExitStack() as stack:
        writers = []
        for stage in stages:
            folder, facts = stack.enter_context(store.put(stage))
            writers.append(_writer(stage, network, folder, facts))
        begun = time.monotonic()
        _pass(stages[0], network, writers, observer)
        seconds = time.monotonic() - begun
        shared = seconds - sum(writer.seconds for writer in writers)
        for stage, writer in zip(stages, writers, strict=True):
            alone = shared + writer.seconds if stage is stages[0] else writer.seconds
            writer.finish(len(stage.images.opened), alone)


@torch.inference_mode()
def _pass(stage: ExtractStage, network: Network, writers: Sequence[_Writer], observer: Observer) -> None:
    count, done = len(stage.images.opened), 0
    with _listening(network, [name for writer in writers for name in writer.layers]) as maps:
        for batch in evaluation_batches(stage.images.opened, stage.image_size, BATCH_SIZE):
            features = network.forward_features(to_unit(batch.views[0].to(networks.device())))
            rows = slice(done, done + len(batch.labels))
            for writer in writers:
                begun = time.monotonic()
                writer.write(rows, features, maps)
                writer.seconds += time.monotonic() - begun
            done = rows.stop
            observer.progress(done, count)


@contextmanager
def _listening(network: Network, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that holds, after each forward pass, the outputs of these submodules."""
    maps: dict[str, Tensor] = {}
    modules = dict(network.named_modules())
    with ExitStack() as stack:
        for name in dict.fromkeys(layers):
            if name not in modules:
                raise OODError(f"the network has no layer '{name}'.{suggest(name, modules)}")

            def keep(_module: nn.Module, _inputs: Any, output: Tensor, name: str = name) -> None:
                maps[name] = output

            stack.callback(modules[name].register_forward_hook(keep).remove)
        yield maps


def _writer(stage: ExtractStage, network: Network, folder: Path, facts: dict[str, Any]) -> _Writer:
    if stage.probe is not None:
        return _LayersWriter(stage, network, folder, facts, stage.probe)
    return _OutputsWriter(stage, network, folder, facts)


class _Writer(ABC):
    """Writes what one stage keeps, batch by batch."""

    layers: tuple[str, ...] = ()

    def __init__(self, stage: ExtractStage, network: Network, folder: Path, facts: dict[str, Any]) -> None:
        self.network, self.folder, self.facts = network, folder, facts
        self.count = len(stage.images.opened)
        self.arrays: dict[str, np.memmap[Any, Any]] = {}
        self.seconds = 0.0

    @abstractmethod
    def write(self, rows: slice, features: Tensor, maps: Mapping[str, Tensor]) -> None:
        """Write the rows of a batch."""

    def finish(self, images: int, seconds: float) -> None:
        """Complete the arrays, and note what is particular to this stage."""
        for array in self.arrays.values():
            array.flush()
        self.facts |= {
            "images": images,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / max(seconds, 1e-9), 1),
        }


class _OutputsWriter(_Writer):
    """Embeddings, logits and labels, and the head beside them."""

    def __init__(self, stage: ExtractStage, network: Network, folder: Path, facts: dict[str, Any]) -> None:
        super().__init__(stage, network, folder, facts)
        self.head = _usable_head(stage, network)
        classes = stage.classes if self.head is not None else 0
        self.arrays["embeddings"] = create_array(folder / "embeddings.npy", (self.count, network.num_features))
        self.arrays["logits"] = create_array(folder / "logits.npy", (self.count, classes))
        self.arrays["labels"] = create_array(folder / "labels.npy", (self.count,), int)
        self.arrays["labels"][:] = stage.images.opened.labels.numpy()

    def write(self, rows: slice, features: Tensor, maps: Mapping[str, Tensor]) -> None:
        """Write the rows of a batch."""
        self.arrays["embeddings"][rows] = _array(self.network.forward_head(features, pre_logits=True))
        if self.head is not None:
            self.arrays["logits"][rows] = _array(self.network.forward_head(features))

    def finish(self, images: int, seconds: float) -> None:
        """Add the head."""
        super().finish(images, seconds)
        if self.head is not None:
            save_tensors(self.folder / HEAD, {"weight": self.head.weight, "bias": self.head.bias})
        self.facts |= {"dimensions": self.network.num_features, "logits": self.head is not None}


class _LayersWriter(_Writer):
    """The arrays that a probe reads."""

    def __init__(
        self, stage: ExtractStage, network: Network, folder: Path, facts: dict[str, Any], probe: Probe
    ) -> None:
        super().__init__(stage, network, folder, facts)
        self.probe = probe
        self.layers = probe.layers(network)

    def write(self, rows: slice, features: Tensor, maps: Mapping[str, Tensor]) -> None:
        """Write the rows of a batch; the first one tells how wide the arrays are."""
        for name, values in self.probe.read(self.network, features, maps).items():
            if name not in self.arrays:
                file = layer_file(self.folder, len(self.arrays))
                self.arrays[name] = create_array(file, (self.count, values.shape[1]))
            self.arrays[name][rows] = _array(values)

    def finish(self, images: int, seconds: float) -> None:
        """Add the names of the arrays."""
        super().finish(images, seconds)
        save_layers(self.folder, list(self.arrays))
        self.facts["dimensions"] = sum(array.shape[1] for array in self.arrays.values())


def _array(values: Tensor) -> Any:
    return values.float().cpu().numpy()


def _usable_head(stage: ExtractStage, network: Network) -> Head | None:
    """Return the head if it tells the ID classes apart: it was trained to, or came with one output for each."""
    head = networks.head_of(network)
    if stage.weights is not None:
        return head if stage.weights.task.trains_head else None
    return head if head is not None and len(head.bias) == stage.classes else None

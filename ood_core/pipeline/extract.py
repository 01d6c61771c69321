"""One pass of a data set through the network; every scorer works on what it leaves behind.

The outputs and what probes read of the same images are filed as artifacts of their own, and written in the same pass.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ood_core.data.loaders import BROKEN, EvaluationBatch, EvaluationTransform, evaluation_batches
from ood_core.data.selection import SelectedImages, to_unit
from ood_core.errors import OODError, suggest
from ood_core.interfaces import Head, Network, Probe
from ood_core.interfaces.checks import (
    check_alone,
    check_float32,
    check_rows,
    first_not_finite,
    has_classifier,
    is_explained,
)
from ood_core.pipeline import networks
from ood_core.pipeline.events import Observer
from ood_core.records.stages import ExtractStage
from ood_core.runtime import distributed, memory, torch_state
from ood_core.store.artifacts import HEAD, layer_file, save_layers
from ood_core.store.store import Store, create_array, map_array, save_tensors

_LOG = logging.getLogger(__name__)

BATCH_SIZE = 128

PASSED_TOGETHER = 4
"""Images of the first batch that pass once more, and two of them twice again, to see whether outputs are their own."""

DIGESTS = "digests.npy"
"""int64 [N]: a digest of each picture's pixels, by which the same picture in two sets is found."""

COPIED = 65536
"""Rows that are copied at once where some are left out."""

ROWS = "rows.npy"
"""int64 [N]: which images of the set these are; not all where broken pictures are skipped."""


def execute(stages: Sequence[ExtractStage], store: Store, observer: Observer) -> None:
    """Extract all that these stages of one `passage` want, in one pass and in float32.

    Where several processes share the run each passes its part of the images, and the first one writes all.
    """
    network = networks.extracted(stages[0], store)
    with ExitStack() as stack:
        writers = []
        for stage in stages:
            folder, facts = stack.enter_context(store.put(stage)) if distributed.rank() == 0 else (None, {})
            writers.append(_writer(stage, network, folder, facts))
        begun = time.monotonic()
        good = _pass(stages[0], network, writers, observer)
        seconds = time.monotonic() - begun
        shared = seconds - sum(writer.seconds for writer in writers)
        for stage, writer in zip(stages, writers, strict=True):
            alone = shared + writer.seconds if stage is stages[0] else writer.seconds
            writer.finish(good, alone)


def shown(stage: ExtractStage, network: Network) -> EvaluationTransform:
    """Return how an extraction stage shows images to its network."""
    if stage.augmented_by is None:
        return EvaluationTransform(image_size=stage.image_size, view=stage.view)
    views = stage.augmented_by.views(stage.image_size, getattr(network, "grid", None))
    return EvaluationTransform(image_size=stage.image_size, views=views, seed=stage.seed or 0)


@torch.inference_mode()
def _pass(stage: ExtractStage, network: Network, writers: Sequence[_Writer], observer: Observer) -> Good:
    """Pass all images, and return which of them could be read."""
    images, done = stage.images.opened, 0
    count, digests = len(images), np.empty(len(images), np.int64)
    how = shown(stage, network)
    batches = evaluation_batches(images, how, BATCH_SIZE, distributed.rank(), distributed.world_size())
    in_parts = memory.Halving()
    with listening(network, [name for writer in writers for name in writer.layers]) as maps:
        for batch in batches:
            parts = in_parts(partial(_read, network, writers, maps), batch.images)
            rows = slice(done, min(done + len(batch.digests) * distributed.world_size(), count))
            all_digests = distributed.all_gather(batch.digests.to(networks.device())).cpu().numpy()
            digests[rows] = all_digests[: rows.stop - rows.start]
            for writer, *read in zip(writers, *parts, strict=True):
                begun = time.monotonic()
                writer.write({name: torch.cat([part[name] for part in read]) for name in read[0]}, rows, digests[rows])
                writer.seconds += time.monotonic() - begun
            if done == 0:
                _check_alone(stage, network, batch)
            done = rows.stop
            observer.progress(done, count)
    readable = Good(digests, _reasons(images, np.flatnonzero(digests == BROKEN)))
    if len(readable.reasons) == count:
        raise OODError(f"none of the {count} pictures can be read; the first: {readable.reasons[0]}")
    return readable


def _read(
    network: Network, writers: Sequence[_Writer], maps: Mapping[str, Tensor], images: Tensor
) -> list[dict[str, Tensor]]:
    """Pass images, and return what each stage keeps of them; no stage feels what the code of another one sets."""
    with torch_state.restoring():
        features = network.forward_features(to_unit(images.to(networks.device())))
    found = []
    for writer in writers:
        begun = time.monotonic()
        with torch_state.restoring():
            found.append(writer.read_checked(features, maps, len(images)))
        writer.seconds += time.monotonic() - begun
    return found


def _check_alone(stage: ExtractStage, network: Network, batch: EvaluationBatch) -> None:
    """Pass a few images of the first batch again, to see whether the outputs of each are its own."""
    images = to_unit(batch.images[:PASSED_TOGETHER].to(networks.device()))
    good = (batch.digests[:PASSED_TOGETHER] != BROKEN).nonzero()[:, 0].to(images.device)
    check_alone(f"backbone '{stage.backbone.name}' gives", network, images, network.forward_features(images), good)


def _reasons(images: SelectedImages, rows: NDArray[np.int64]) -> list[str]:
    """Return what is wrong with broken pictures."""
    found = []
    for row in rows:
        try:
            images.pixels(int(row))
        except OODError as error:
            found.append(str(error))
    return found


@dataclass(frozen=True)
class Good:
    """Which images of a set could be read: their digests, with `BROKEN` for the others, and why those could not."""

    digests: NDArray[np.int64]
    reasons: list[str]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Their places in the set."""
        return np.flatnonzero(self.digests != BROKEN)


@contextmanager
def listening(network: Network, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
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


def _writer(stage: ExtractStage, network: Network, folder: Path | None, facts: dict[str, Any]) -> _Writer:
    if stage.probe is not None:
        return _LayersWriter(stage, network, folder, facts, stage.probe)
    return _OutputsWriter(stage, network, folder, facts)


class _Writer(ABC):
    """Writes what one stage keeps, batch by batch; without a folder it hands its part to the first process."""

    layers: tuple[str, ...] = ()

    def __init__(self, stage: ExtractStage, network: Network, folder: Path | None, facts: dict[str, Any]) -> None:
        self.network, self.folder, self.facts = network, folder, facts
        self.images = stage.images.opened
        self.count = len(self.images)
        self.gives = f"backbone '{stage.backbone.name}' gives"
        self.widths: dict[str, int | None] | None = None
        self.arrays: dict[str, np.memmap[Any, Any]] = {}
        self.files: dict[str, Path] = {}
        self.seconds = 0.0

    @abstractmethod
    def read(self, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is kept of a batch, rows by name."""

    def width_of(self, name: str) -> int | None:
        """Return how wide rows of this name have to be, None where any width will do."""
        return None

    @abstractmethod
    def file(self, folder: Path, name: str) -> Path:
        """Return where the next array goes."""

    def read_checked(self, features: Tensor, maps: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """Return what is kept of a batch, float32; the first one decides which arrays there are, and their widths.

        Raises:
            OODError: They are no floats [B, D].
        """
        found = self.read(features, maps)
        if self.widths is None:
            self.widths = {name: self.width_of(name) for name in found}
        if found.keys() != self.widths.keys():
            raise OODError(f"{self.gives} {sorted(found)} for one batch, and {sorted(self.widths)} for the one before")
        for name, values in found.items():
            what = f"{self.gives} {name}"
            found[name] = check_float32(what, check_rows(what, values, count, self.widths[name]))
            self.widths[name] = found[name].shape[1]
        return found

    def write(self, read: Mapping[str, Tensor], rows: slice, digests: NDArray[np.int64]) -> None:
        """Write the rows of a batch.

        Raises:
            OODError: They are not finite where a picture could be read.
        """
        for name, values in read.items():
            all_values = distributed.all_gather(values)[: len(digests)].cpu()
            self.refuse_not_finite(name, all_values, rows, digests)
            if self.folder is not None:
                if name not in self.arrays:
                    self.files[name] = self.file(self.folder, name)
                    self.arrays[name] = create_array(self.files[name], (self.count, values.shape[1]))
                self.arrays[name][rows] = all_values.numpy()

    def refuse_not_finite(self, name: str, values: Tensor, rows: slice, digests: NDArray[np.int64]) -> None:
        """Name the first picture that could be read and whose values are not finite."""
        good = np.flatnonzero(digests != BROKEN)
        if (row := first_not_finite(values[torch.from_numpy(good)])) is not None:
            place = self.images.place(rows.start + int(good[row]))
            raise OODError(f"{self.gives} {name} that are not finite for {place}")

    def finish(self, good: Good, seconds: float) -> None:
        """Complete the arrays, and note what is particular to this stage."""
        rows = good.rows
        for name, array in self.arrays.items():
            array.flush()
            if len(rows) < self.count:
                _keep_rows(self.files[name], rows)
        self.facts |= {
            "images": len(rows),
            "skipped": good.reasons,
            "seconds": round(seconds, 3),
            "images_per_second": round(self.count / max(seconds, 1e-9), 1),
        }


class _OutputsWriter(_Writer):
    """Embeddings, logits and labels, and the head beside them."""

    def __init__(self, stage: ExtractStage, network: Network, folder: Path | None, facts: dict[str, Any]) -> None:
        super().__init__(stage, network, folder, facts)
        self.head = _usable_head(stage, network)
        self.has_logits = self.head is not None or self._has_other_classifier(stage)
        self.classes = None if self.head is not None or stage.weights is not None else stage.classes
        self.labels = self.images.labels.numpy()

    def _has_other_classifier(self, stage: ExtractStage) -> bool:
        """Return whether a classifier that is no linear layer may tell the ID classes apart."""
        other = has_classifier(self.network) and networks.head_of(self.network) is None
        return other and (stage.weights is None or stage.weights.trains_head)

    def read(self, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return embeddings, and logits where they mean something."""
        embeddings = self.network.forward_head(features, pre_logits=True)
        if not self.has_logits:
            return {"embeddings": embeddings}
        logits = self.network.forward_head(features)
        if self.widths is None:
            unfit = self.classes is not None and isinstance(logits, Tensor) and logits.shape[1:] != (self.classes,)
            self.has_logits = not unfit
        return {"embeddings": embeddings} | ({"logits": logits} if self.has_logits else {})

    def write(self, read: Mapping[str, Tensor], rows: slice, digests: NDArray[np.int64]) -> None:
        """Write the rows; leave the head out where it does not make the logits: scorers would compute otherwise."""
        super().write(read, rows, digests)
        if self.head is None or rows.start > 0:
            return
        if not is_explained(self.head, read["embeddings"], read["logits"]):
            _LOG.warning(
                "%s logits that are not its linear classifier's outputs for the embeddings: scorers that need the "
                "head cannot be fitted, those of the logits can",
                self.gives,
            )
            self.head = None

    def width_of(self, name: str) -> int | None:
        """Return the width of embeddings."""
        return self.network.num_features if name == "embeddings" else None

    def file(self, folder: Path, name: str) -> Path:
        """Return the file of this name."""
        return folder / f"{name}.npy"

    def finish(self, good: Good, seconds: float) -> None:
        """Add labels, digests and the head."""
        super().finish(good, seconds)
        if self.folder is not None:
            np.save(self.folder / ROWS, good.rows)
            np.save(self.folder / DIGESTS, good.digests[good.rows])
            np.save(self.folder / "labels.npy", self.labels[good.rows])
            if not self.has_logits:
                np.save(self.folder / "logits.npy", np.empty((len(good.rows), 0), np.float32))
            if self.head is not None:
                save_tensors(self.folder / HEAD, {"weight": self.head.weight, "bias": self.head.bias})
        self.facts |= {"dimensions": self.network.num_features}
        self.facts |= {"logits": self.has_logits, "head": self.head is not None}


class _LayersWriter(_Writer):
    """The arrays that a probe reads."""

    def __init__(
        self, stage: ExtractStage, network: Network, folder: Path | None, facts: dict[str, Any], probe: Probe
    ) -> None:
        super().__init__(stage, network, folder, facts)
        self.probe = probe
        self.gives = f"probe '{type(probe).__name__}' reads"
        self.layers = probe.layers(network)

    def read(self, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the probe reads."""
        found = self.probe.read(self.network, features, maps)
        if not isinstance(found, Mapping):
            raise OODError(f"{self.gives} a {type(found).__name__}, not tensors by name")
        return dict(found)

    def file(self, folder: Path, name: str) -> Path:
        """Return the next numbered file."""
        return folder / layer_file(len(self.arrays))

    def finish(self, good: Good, seconds: float) -> None:
        """Add the names of the arrays."""
        super().finish(good, seconds)
        if self.folder is not None:
            save_layers(self.folder, list(self.arrays))
        self.facts["dimensions"] = sum(array.shape[1] for array in self.arrays.values())


def _keep_rows(file: Path, rows: NDArray[np.int64]) -> None:
    """Write an array again with these rows alone."""
    array = map_array(file)
    kept = create_array(file.with_name("kept.npy"), (len(rows), *array.shape[1:]), array.dtype.type)
    for start in range(0, len(rows), COPIED):
        kept[start : start + COPIED] = array[rows[start : start + COPIED]]
    kept.flush()
    file.with_name("kept.npy").replace(file)


def _usable_head(stage: ExtractStage, network: Network) -> Head | None:
    """Return the head if it tells the ID classes apart: it was trained to, or came with one output for each."""
    head = networks.head_of(network)
    if stage.weights is not None:
        return head if stage.weights.trains_head else None
    return head if head is not None and len(head.bias) == stage.classes else None

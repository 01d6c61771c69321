"""One pass of a data set through the network: the outputs that every scorer works on.

The outputs, and what probes read of the same images, are artifacts of their own that are written in the same pass.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.data.loaders import BROKEN, EvaluationTransform, evaluation_batches
from ood_core.data.selection import to_unit
from ood_core.errors import OODError
from ood_core.interfaces import Network
from ood_core.interfaces.checks import (
    check_alone,
    check_arrays,
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
from ood_core.store.artifacts import HEAD, LAYERS
from ood_core.store.files import create_array, map_array, save_tensors
from ood_core.store.store import Store

_LOG = logging.getLogger(__name__)

BATCH_SIZE = 128

PASSED_TOGETHER = 4
"""Images of the first batch that pass once more, and two of them twice again, to check that outputs are their own."""

DIGESTS = "digests.npy"
"""int64 [N]: a digest of each picture's pixels, by which the same picture in two sets is found."""

COPIED_ROWS = 65536
"""Rows that are copied at once if some are left out."""

ROWS = "rows.npy"
"""int64 [N]: which images of the set these are; not all where broken pictures are skipped."""


def execute(stages: Sequence[ExtractStage], store: Store, observer: Observer) -> None:
    """Extract the outputs of all these stages, which have one `pass_key`, in one pass and in float32.

    Where several processes share the run each passes its part of the images, and the first one writes all.
    """
    network = networks.extracted(stages[0], store)
    with ExitStack() as stack:
        writers: list[_Writer] = []
        for stage in stages:
            folder, facts = stack.enter_context(store.put(stage)) if distributed.rank() == 0 else (None, {})
            kind = _OutputsWriter if stage.probe is None else _LayersWriter
            writers.append(kind(stage, network, folder, facts))
        begun = time.monotonic()
        digests = _pass(stages[0], network, writers, observer)
        errors, images = [], stages[0].images.opened
        for row in np.flatnonzero(digests == BROKEN):
            try:
                images.pixels(int(row))
            except OODError as error:
                errors.append(str(error))
        if len(errors) == len(images):
            raise OODError(f"none of the {len(images)} pictures can be read; the first: {errors[0]}")
        shared = time.monotonic() - begun - sum(writer.seconds for writer in writers)
        for writer in writers:  # the first stage takes the time that all have in common
            writer.finish(digests, errors, writer.seconds + (shared if writer is writers[0] else 0.0))


def shown(stage: ExtractStage, network: Network) -> EvaluationTransform:
    """Return the transform with which an extraction stage shows images to its network."""
    if stage.augmented_by is None:
        return EvaluationTransform(image_size=stage.image_size, view=stage.view)
    views = stage.augmented_by.views(stage.image_size, getattr(network, "grid", None))
    return EvaluationTransform(image_size=stage.image_size, views=views, seed=stage.seed or 0)


@torch.inference_mode()
def _pass(stage: ExtractStage, network: Network, writers: Sequence[_Writer], observer: Observer) -> NDArray[np.int64]:
    """Pass all images; return the digest of each, `BROKEN` for those that cannot be read."""
    images, done = stage.images.opened, 0
    count, digests = len(images), np.empty(len(images), np.int64)
    world = distributed.world_size()
    batches = evaluation_batches(images, shown(stage, network), BATCH_SIZE, distributed.rank(), world)
    in_parts = memory.Halving()
    with networks.capture_layers(network, [name for writer in writers for name in writer.layers]) as maps:
        for batch in batches:
            parts = in_parts(partial(_read, network, writers, maps), batch.images)
            rows = slice(done, min(done + len(batch.digests) * world, count))
            all_digests = distributed.all_gather(batch.digests.to(networks.device())).cpu().numpy()
            digests[rows] = all_digests[: rows.stop - rows.start]
            for writer, *read in zip(writers, *parts, strict=True):
                begun = time.monotonic()
                writer.write({name: torch.cat([part[name] for part in read]) for name in read[0]}, rows, digests[rows])
                writer.seconds += time.monotonic() - begun
            if done == 0:  # pass a few images again: the outputs of each must be its own
                some = to_unit(batch.images[:PASSED_TOGETHER].to(networks.device()))
                good = (batch.digests[:PASSED_TOGETHER] != BROKEN).nonzero()[:, 0].to(some.device)
                gives = f"backbone '{stage.backbone.name}' gives"
                check_alone(gives, network, some, network.forward_features(some), good)
            done = rows.stop
            observer.progress(done, count)
    return digests


def _read(
    network: Network, writers: Sequence[_Writer], maps: Mapping[str, Tensor], images: Tensor
) -> list[dict[str, Tensor]]:
    """Pass images, and return the rows of each stage; torch settings that the code of one changes are restored."""
    with torch_state.restoring():
        features = network.forward_features(to_unit(images.to(networks.device())))
    found = []
    for writer in writers:
        begun = time.monotonic()
        with torch_state.restoring():
            found.append(writer.read_checked(features, maps, len(images)))
        writer.seconds += time.monotonic() - begun
    return found


class _Writer(ABC):
    """Writes the arrays of one stage, batch by batch; without a folder it sends its rows to the first process."""

    layers: tuple[str, ...] = ()
    numbered = False  # names that a probe chooses may be no file names

    def __init__(self, stage: ExtractStage, network: Network, folder: Path | None, facts: dict[str, Any]) -> None:
        self.network, self.folder, self.facts = network, folder, facts
        self.images = stage.images.opened
        self.gives = f"backbone '{stage.backbone.name}' gives"
        self.expected_widths: dict[str, int] = {}
        self.widths: dict[str, int | None] | None = None
        self.arrays: dict[str, np.memmap[Any, Any]] = {}
        self.seconds = 0.0  # that this stage took of the pass

    @abstractmethod
    def read(self, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the rows of a batch by the names of their arrays."""

    def read_checked(self, features: Tensor, maps: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """Return the rows of a batch, float32 [B, D]; the first batch decides the names and widths of arrays."""
        found = self.read(features, maps)
        if self.widths is None:
            self.widths = {name: self.expected_widths.get(name) for name in found}
        if found.keys() != self.widths.keys():
            raise OODError(f"{self.gives} {sorted(found)} for one batch, and {sorted(self.widths)} for the one before")
        for name, values in found.items():
            what = f"{self.gives} {name}"
            found[name] = check_float32(what, check_rows(what, values, count, self.widths[name]))
            self.widths[name] = found[name].shape[1]
        return found

    def write(self, read: Mapping[str, Tensor], rows: slice, digests: NDArray[np.int64]) -> None:
        """Write the rows of a batch, all of which must be finite where a picture could be read."""
        good = np.flatnonzero(digests != BROKEN)
        for name, values in read.items():
            all_values = distributed.all_gather(values)[: len(digests)].cpu()
            if (row := first_not_finite(all_values[torch.from_numpy(good)])) is not None:
                place = self.images.place(rows.start + int(good[row]))
                raise OODError(f"{self.gives} {name} that are not finite for {place}")
            if self.folder is not None:
                if name not in self.arrays:
                    shape = (len(self.images), values.shape[1])
                    file = f"{len(self.arrays) if self.numbered else name}.npy"
                    self.arrays[name] = create_array(self.folder / file, shape)
                self.arrays[name][rows] = all_values.numpy()

    def finish(self, digests: NDArray[np.int64], errors: list[str], seconds: float) -> None:
        """Complete the arrays, and note the facts of this stage."""
        rows, count = np.flatnonzero(digests != BROKEN), len(self.images)
        for array in self.arrays.values():
            array.flush()
            if len(rows) < count:
                _keep_rows(Path(str(array.filename)), rows)
        self.facts |= {
            "images": len(rows),
            "skipped": errors,
            "seconds": round(seconds, 3),
            "images_per_second": round(count / max(seconds, 1e-9), 1),
        }


class _OutputsWriter(_Writer):
    """Writes embeddings, logits and labels, and the head beside them."""

    def __init__(self, stage: ExtractStage, network: Network, folder: Path | None, facts: dict[str, Any]) -> None:
        super().__init__(stage, network, folder, facts)
        self.expected_widths = {"embeddings": network.num_features}
        linear = networks.head_of(network)
        fits = linear is None or len(linear.bias) == stage.classes
        for_id_classes = fits if stage.weights is None else stage.weights.trains_head
        self.head = linear if for_id_classes else None
        # a classifier that is no linear layer may tell the ID classes apart as well
        self.has_logits = for_id_classes and (linear is not None or has_classifier(network))
        self.classes = None if self.head is not None or stage.weights is not None else stage.classes

    def read(self, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        embeddings = self.network.forward_head(features, pre_logits=True)
        if not self.has_logits:
            return {"embeddings": embeddings}
        logits = self.network.forward_head(features)
        if self.widths is None and self.classes is not None and isinstance(logits, Tensor):
            self.has_logits = logits.shape[1:] == (self.classes,)
        return {"embeddings": embeddings} | ({"logits": logits} if self.has_logits else {})

    def write(self, read: Mapping[str, Tensor], rows: slice, digests: NDArray[np.int64]) -> None:
        """Write the rows; leave the head out if it does not make the logits: scorers would compute otherwise."""
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

    def finish(self, digests: NDArray[np.int64], errors: list[str], seconds: float) -> None:
        super().finish(digests, errors, seconds)
        if self.folder is not None:
            rows = np.flatnonzero(digests != BROKEN)
            np.save(self.folder / ROWS, rows)
            np.save(self.folder / DIGESTS, digests[rows])
            np.save(self.folder / "labels.npy", self.images.labels.numpy()[rows])
            if not self.has_logits:
                np.save(self.folder / "logits.npy", np.empty((len(rows), 0), np.float32))
            if self.head is not None:
                save_tensors(self.folder / HEAD, {"weight": self.head.weight, "bias": self.head.bias})
        head = self.head is not None
        self.facts |= {"dimensions": self.network.num_features, "logits": self.has_logits, "head": head}


class _LayersWriter(_Writer):
    """Writes the arrays that a probe reads, and their names."""

    numbered = True

    def __init__(self, stage: ExtractStage, network: Network, folder: Path | None, facts: dict[str, Any]) -> None:
        super().__init__(stage, network, folder, facts)
        assert stage.probe is not None, "a probe reads layers"
        self.probe = stage.probe
        self.gives = f"probe '{type(self.probe).__name__}' reads"
        self.layers = self.probe.layers(network)

    def read(self, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return check_arrays(self.gives, self.probe.read(self.network, features, maps))

    def finish(self, digests: NDArray[np.int64], errors: list[str], seconds: float) -> None:
        super().finish(digests, errors, seconds)
        if self.folder is not None:
            (self.folder / LAYERS).write_text(json.dumps(list(self.arrays)), encoding="utf-8")
        self.facts["dimensions"] = sum(array.shape[1] for array in self.arrays.values())


def _keep_rows(file: Path, rows: NDArray[np.int64]) -> None:
    """Write an array again with these rows alone."""
    array = map_array(file)
    kept = create_array(file.with_name("kept.npy"), (len(rows), *array.shape[1:]), array.dtype.type)
    for start in range(0, len(rows), COPIED_ROWS):
        kept[start : start + COPIED_ROWS] = array[rows[start : start + COPIED_ROWS]]
    kept.flush()
    file.with_name("kept.npy").replace(file)

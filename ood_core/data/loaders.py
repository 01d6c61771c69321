"""Data loading: augmented batches of a training, plain batches of an evaluation.

Randomness is a function of the seed, the step and the image alone, so the order of loading, the number of workers and
processes and an interruption do not change what is drawn.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ood_core.data.decoding import pixel_digest
from ood_core.data.selection import PLAIN, SelectedImages, evaluation_view, to_unit
from ood_core.errors import OODError
from ood_core.interfaces import Batch, EvaluationView, Views
from ood_core.interfaces.checks import check_views, stack_views
from ood_core.runtime import torch_state
from ood_core.runtime.plugin_errors import RAISED, PluginError, full_traceback, named, plugin_of

T = TypeVar("T")

BROKEN = -1  # digest of a picture that cannot be read
INLINE_IMAGES = 50_000  # sets up to this size are decoded in the main process: workers would cost more than they save


def sample(images: SelectedImages, image_size: int, count: int) -> Tensor:
    """Return up to `count` images in a fixed random order, float32 [n, 3, S, S] in [0, 1]."""
    order = np.random.default_rng(0).permutation(len(images))[:count]
    # whether an image is decoded or cached must not shift what a task draws
    with torch_state.restoring(generators=True):
        return to_unit(torch.stack([evaluation_view(images.readable(int(i)).pixels, image_size) for i in order]))


def step_seed(seed: int, step: int, purpose: str, of: int = 0) -> int:
    """Return the seed of a purpose ("order", "views", "model") at a step from 0; `of` an image's place or a rank."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{purpose}/{of}".encode()).digest()[:8], "big") >> 1


class BatchIndices(NamedTuple):
    """The images of a training step that a process loads; `first` is the place of the first in the whole batch."""

    number: int
    first: int
    rows: list[int]


@dataclass(frozen=True, kw_only=True)
class ShuffledBatchSampler(Sampler[BatchIndices]):
    """Shuffles the images every epoch, drops the incomplete last batch, and cuts batches up between processes.

    A set of fewer images than `batch_size` makes one step of all it has. A continued training begins at step `begin`.
    """

    images: int
    batch_size: int
    epochs: int
    seed: int
    begin: int = 0
    process: int = 0
    processes: int = 1

    @property
    def step_size(self) -> int:
        """Images of one step, in all processes."""
        return min(self.batch_size, self.images)

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        return max(self.images // self.batch_size, 1)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.begin

    def __iter__(self) -> Iterator[BatchIndices]:
        share = self.step_size // self.processes
        for epoch in range(self.begin // self.per_epoch, self.epochs):
            order = np.random.default_rng(step_seed(self.seed, epoch, "order")).permutation(self.images)
            for index in range(max(self.begin - epoch * self.per_epoch, 0), self.per_epoch):
                first = index * self.batch_size + self.process * share
                rows = order[first : first + share].tolist()
                yield BatchIndices(epoch * self.per_epoch + index, self.process * share, rows)


@dataclass(frozen=True, kw_only=True)
class AuxiliarySampler:
    """Draws the images of an auxiliary set that come with every batch of a training."""

    images: SelectedImages
    step_size: int  # in all processes
    process: int = 0
    processes: int = 1

    def draw(self, seed: int, step: int, views: Views) -> tuple[Tensor, tuple[str, ...]]:
        """Return this process's images of a step, through the first view, and the errors of broken ones."""
        generator = np.random.default_rng(step_seed(seed, step, "outliers"))
        rows = generator.choice(len(self.images), self.step_size, replace=self.step_size > len(self.images))
        share = self.step_size // self.processes
        drawn, broken = list[Tensor](), list[str]()
        for place in range(self.process * share, (self.process + 1) * share):
            found = self.images.readable(int(rows[place]))
            torch_state.seed_cpu(step_seed(seed, step, "outlier views", place))
            drawn.append(check_views(views(found.pixels))[0])
            broken += found.broken
        return stack_views(drawn), tuple(broken)


@dataclass(frozen=True)
class _AugmentedBatches(Dataset[Batch]):
    images: SelectedImages
    views: Views
    seed: int
    outliers: AuxiliarySampler | None = None

    @torch_state.restoring()
    def __getitems__(self, step: BatchIndices) -> Batch:
        samples, rows, broken = [], [], list[str]()
        for place, row in enumerate(step.rows, step.first):
            found = self.images.readable(row)
            # by place in the whole batch, so that the number of processes does not matter
            torch_state.seed_cpu(step_seed(self.seed, step.number, "views", place))
            samples.append(check_views(self.views(found.pixels)))
            rows.append(found.index)
            broken += found.broken
        views = tuple(stack_views(view) for view in zip(*samples, strict=True))
        if self.outliers is None:
            return Batch(views, self.images.labels[rows], broken=tuple(broken))
        outliers, unreadable = self.outliers.draw(self.seed, step.number, self.views)
        return Batch(views, self.images.labels[rows], outliers, (*broken, *unreadable))


@dataclass(frozen=True, kw_only=True)
class EvaluationTransform:
    """What turns an image into the input of a network in evaluation.

    Resized and cropped to a square of S pixels by `view`, or the first of the augmentation `views` if there is one.
    """

    image_size: int
    view: EvaluationView = PLAIN
    views: Views | None = None
    seed: int = 0

    def __call__(self, pixels: Tensor, index: int) -> Tensor:
        """Return the view of an image [3, S, S]; `index` is its place in the set."""
        if self.views is None:
            return evaluation_view(pixels, self.image_size, self.view)
        torch_state.seed_cpu(step_seed(self.seed, 0, "views", index))
        return check_views(self.views(pixels))[0]


class EvaluationBatch(NamedTuple):
    """Images in the order of their set."""

    images: Tensor
    """[B, 3, S, S]; uint8, or float32 in [0, 1] after an augmentation. Black for a broken picture."""
    digests: Tensor
    """int64 [B], of the pixels before any view; `BROKEN` for a broken picture that is skipped."""


@dataclass(frozen=True)
class _PlainBatches(Dataset[EvaluationBatch]):
    images: SelectedImages
    transform: EvaluationTransform

    def __getitems__(self, rows: list[int]) -> EvaluationBatch:
        views, digests, size = [], [], self.transform.image_size
        for row in rows:
            try:
                pixels = self.images.pixels(row)
                digests.append(pixel_digest(pixels))
            except OODError:
                if not self.images.skip_broken:
                    raise
                pixels = torch.zeros(3, size, size, dtype=torch.uint8)
                digests.append(BROKEN)
            views.append(self.transform(pixels, row))
        return EvaluationBatch(stack_views(views), torch.tensor(digests))


def sample_batch(images: SelectedImages, views: Views, count: int) -> Batch:
    """Return the views of up to `count` images in a fixed random order, the same each time."""
    rows = np.random.default_rng(0).permutation(len(images))[:count].tolist()
    return _AugmentedBatches(images, views, 0).__getitems__(BatchIndices(0, 0, rows))


def training_batches(
    images: SelectedImages, views: Views, steps: ShuffledBatchSampler, outliers: AuxiliarySampler | None = None
) -> Iterable[Batch]:
    """Return the augmented batches of a training, in order."""
    return _loader(_AugmentedBatches(images, views, steps.seed, outliers), steps, len(images))


def evaluation_batches(
    images: SelectedImages, transform: EvaluationTransform, batch_size: int, process: int = 0, processes: int = 1
) -> Iterator[EvaluationBatch]:
    """Return all images in their own order.

    Several processes take turns, a batch each; the last image is repeated until their batches are of equal size.
    """
    rows = []
    for begin in range(0, len(images), batch_size * processes):
        share = -(-min(len(images) - begin, batch_size * processes) // processes)
        first = begin + process * share
        rows.append([min(row, len(images) - 1) for row in range(first, first + share)])
    return _prefetch(_loader(_PlainBatches(images, transform), rows, len(images)), images)


def _prefetch(batches: Iterable[T], images: SelectedImages) -> Iterator[T]:
    """Yield batches, each decoded in a thread while the consumer computes on the one before it.

    Not for training, where batches and network draw from one random generator. The thread gets one core: a second team
    of torch's threads would cost the network more than it gains. Sets whose first batch changes process-wide settings
    are decoded between the batches; later ones must not.
    """
    source = iter(batches)

    def read() -> tuple[T | None, bool]:
        with torch_state.restoring() as changed:
            batch = next(source, None)
        return batch, bool(changed) or images.disturbs

    with ThreadPoolExecutor(1, initializer=torch_state.use_one_core) as thread:
        batch, disturbs = thread.submit(read).result()
        while batch is not None:
            coming = None if disturbs else thread.submit(read)
            yield batch
            batch, disturbed = (coming or thread.submit(read)).result()
            if disturbed and not disturbs:
                raise OODError("a data set changed settings of torch while the network was at work beside it")


def _loader(batches: Dataset[T], order: Any, images: int) -> Iterable[T]:
    """Return a loader whose sampler `order` yields the arguments of `__getitems__` of the batches."""
    if images <= INLINE_IMAGES:
        return DataLoader(batches, batch_sampler=order, collate_fn=_identity)
    workers = min(8, max((os.cpu_count() or 1) - 1, 1))
    return _received(DataLoader(_Sent(batches), batch_sampler=order, collate_fn=_identity, num_workers=workers))


@dataclass(frozen=True)
class _Sent(Dataset[T | Exception]):
    """The batches of a worker process, or what one raises: torch's loader would make its traceback the message."""

    batches: Dataset[T]

    def __getitems__(self, rows: Any) -> T | Exception:
        try:
            batch: T = self.batches.__getitems__(rows)  # type: ignore[attr-defined]
            return batch
        except OODError as error:
            return OODError(str(error))
        except RAISED as error:
            sent = (RuntimeError if plugin_of(error) is None else PluginError)(named(error))
            sent.add_note(full_traceback(error))
            return sent


def _received(batches: Iterable[T | Exception]) -> Iterator[T]:
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _identity(batch: Any) -> Any:  # a lambda could not be pickled for workers
    return batch

"""From selected images to batches: the augmented stream of a training, the plain one of an evaluation.

Randomness is a function of the seed, the step and the image alone, so the order of loading, the number of workers and
processes and an interruption do not change what is drawn.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ood_core.data import SelectedImages, evaluation_view, to_unit
from ood_core.interfaces import Batch, Views

INLINE_IMAGES = 50_000
"""Sets up to this size are decoded in the main process: starting workers would cost more than it saves."""


def sample(images: SelectedImages, image_size: int, count: int) -> Tensor:
    """Return up to `count` images in a fixed random order, float32 [n, 3, S, S] in [0, 1]."""
    order = np.random.default_rng(0).permutation(len(images))[:count]
    return to_unit(torch.stack([evaluation_view(images.pixels(int(i)), image_size) for i in order]))


def step_seed(seed: int, step: int, purpose: str, of: int = 0) -> int:
    """Return the seed of one purpose at one step: "order", the "views" of an image, the "model" in a process.

    Args:
        seed: Of the stage.
        step: Counted from 0.
        purpose: What it is for.
        of: Which image of the batch, or which process.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{purpose}/{of}".encode()).digest()[:8], "big") >> 1


def _seed_views(seed: int) -> None:
    """Seed all that an augmentation may draw from; timm's draw from Python and numpy."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


class Step(NamedTuple):
    """Which images of a training step a process takes, and the place of the first one in the whole batch."""

    number: int
    first: int
    rows: list[int]


@dataclass(frozen=True, kw_only=True)
class Steps(Sampler[Step]):
    """The order of the images: a fresh shuffle every epoch, the incomplete last batch dropped.

    Attributes:
        images: Size of the set.
        batch_size: Images a step; a smaller set makes one step of all it has.
        epochs: Passes over the set.
        seed: Decides the shuffles.
        begin: Step to begin with, for a continued run.
        process: Number of this process, which takes its part of every batch.
        processes: How many there are.
    """

    images: int
    batch_size: int
    epochs: int
    seed: int
    begin: int = 0
    process: int = 0
    processes: int = 1

    @property
    def of_a_step(self) -> int:
        """Images of one step, in all processes."""
        return min(self.batch_size, self.images)

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        return max(self.images // self.batch_size, 1)

    def after(self, step: int) -> Steps:
        """Return what is left after so many steps."""
        return replace(self, begin=step)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.begin

    def __iter__(self) -> Iterator[Step]:
        share = self.of_a_step // self.processes
        for epoch in range(self.begin // self.per_epoch, self.epochs):
            order = np.random.default_rng(step_seed(self.seed, epoch, "order")).permutation(self.images)
            for index in range(max(self.begin - epoch * self.per_epoch, 0), self.per_epoch):
                first = index * self.batch_size + self.process * share
                rows = order[first : first + share].tolist()
                yield Step(epoch * self.per_epoch + index, self.process * share, rows)


@dataclass(frozen=True)
class _AugmentedBatches(Dataset[Batch]):
    images: SelectedImages
    views: Views
    seed: int

    def __getitems__(self, step: Step) -> Batch:
        samples = []
        for place, row in enumerate(step.rows, step.first):
            # by image: however many processes share the batch, an image is augmented in the same way
            _seed_views(step_seed(self.seed, step.number, "views", place))
            samples.append(self.views(self.images.pixels(row)))
        return Batch(tuple(torch.stack(view) for view in zip(*samples, strict=True)), self.images.labels[step.rows])


@dataclass(frozen=True)
class _PlainBatches(Dataset[Batch]):
    images: SelectedImages
    image_size: int

    def __getitems__(self, rows: list[int]) -> Batch:
        view = torch.stack([evaluation_view(self.images.pixels(row), self.image_size) for row in rows])
        return Batch((view,), self.images.labels[rows])


def sample_batch(images: SelectedImages, views: Views, count: int) -> Batch:
    """Return the views of up to `count` images in a fixed random order, the same each time."""
    rows = np.random.default_rng(0).permutation(len(images))[:count].tolist()
    return _AugmentedBatches(images, views, 0).__getitems__(Step(0, 0, rows))


def training_batches(images: SelectedImages, views: Views, steps: Steps) -> Iterable[Batch]:
    """Return the augmented batches of a training, in order."""
    return _loader(_AugmentedBatches(images, views, steps.seed), steps, len(images))


def evaluation_batches(
    images: SelectedImages, image_size: int, batch_size: int, process: int = 0, processes: int = 1
) -> Iterable[Batch]:
    """Return all images in their own order, un-augmented, uint8.

    Several processes take turns, a batch each; where the images do not go round, the last one is given more than once.
    """
    rows = []
    for begin in range(0, len(images), batch_size * processes):
        share = -(-min(len(images) - begin, batch_size * processes) // processes)
        first = begin + process * share
        rows.append([min(row, len(images) - 1) for row in range(first, first + share)])
    return _ahead(_loader(_PlainBatches(images, image_size), rows, len(images)))


def _ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches, each decoded in a thread while the one before it is at work.

    Not for training, where batches and network draw from one random generator. The thread gets one core: a second team
    of torch's threads would cost the network more than it gains.
    """
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        source = iter(batches)
        coming = thread.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield batch


def _loader(batches: Dataset[Batch], order: Any, images: int) -> Iterable[Batch]:
    """Return a loader of whole batches: `order` yields what `__getitems__` of the batches takes."""
    workers = 0 if images <= INLINE_IMAGES else min(8, max((os.cpu_count() or 1) - 1, 1))
    return DataLoader(batches, batch_sampler=order, collate_fn=_keep, num_workers=workers)


def _keep(batch: Any) -> Any:
    return batch

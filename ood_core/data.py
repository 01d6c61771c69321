"""From a data source to batches: class selection, hold-out, decoding to RGB, the evaluation transform, the two streams.

Randomness is a function of the seed and the step alone, so the order of loading, the number of workers and an
interruption do not change what is drawn.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ood_core.errors import OODError, suggest
from ood_core.interfaces import Batch, DatasetSource, ImageSet, Split, Views
from ood_core.vision import prepare_torchvision

Part: TypeAlias = Literal["train", "holdout", "known", "test"]
"""What a set of images is for: fitting, calibrating the threshold, being known as OOD, or measuring."""

CACHE_BYTES = 512 * 2**20
"""Decoded images kept in memory for one set; beyond that they are decoded again."""

INLINE_IMAGES = 50_000
"""Sets up to this size are decoded in the main process: starting workers would cost more than it saves."""


def file_digest(path: Path) -> str:
    """Return a hash over a file's content."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash over names and contents; the folder they lie in does not count."""
    files = sorted(paths)
    root = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(root).as_posix()}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images a recipe asks for from one source.

    Attributes:
        name: What the report calls them.
        source: Where they come from.
        classes: Names of the classes to keep, in label order; None keeps all.
        limit: At most so many images of each class, the first ones; None keeps all.
        holdout: Share of every class's training images kept back for calibration.
    """

    name: str
    source: DatasetSource
    classes: tuple[str, ...] | None = None
    limit: int | None = None
    holdout: float = 0.0

    def open(self, part: Part) -> SelectedImages:
        """Return the images for this purpose.

        Raises:
            OODError: A class does not exist, or nothing is left.
        """
        split: Split = "test" if part == "test" else "train"
        images = self.source.open(split)
        labels = range(len(images.classes)) if self.classes is None else [self._label(n, images) for n in self.classes]
        known = np.asarray(images.labels)
        chosen = [np.flatnonzero(known == label)[: self.limit] for label in labels]
        rows = [_part_of(rows, part, self.holdout) for rows in chosen]
        if not any(len(of_class) for of_class in rows):
            hint = "; holdout: 0 does without" if part == "holdout" else ""
            raise OODError(f"data set '{self.name}' has no image for {part}{hint}")
        return SelectedImages(images, tuple(images.classes[label] for label in labels), rows, part)

    def _label(self, name: str, images: ImageSet) -> int:
        found = [label for label, known in enumerate(images.classes) if known == name]
        if not found:
            raise OODError(f"no class '{name}' in data set '{self.name}'.{suggest(name, images.classes)}")
        if len(found) > 1:
            raise OODError(
                f"data set '{self.name}' has {len(found)} classes called '{name}'; it cannot be chosen by name"
            )
        return found[0]


def _part_of(rows: NDArray[np.int64], part: Part, holdout: float) -> NDArray[np.int64]:
    """Cut one class's ID training rows in two by a fixed shuffle; other sets stay whole."""
    if part in ("known", "test"):
        return rows
    shuffled = np.random.default_rng(0).permutation(rows)
    held = round(len(rows) * holdout)
    return np.sort(shuffled[:held] if part == "holdout" else shuffled[held:])


class SelectedImages:
    """Decoded images and labels of a selection; label c is the c-th selected class."""

    def __init__(
        self, images: ImageSet, classes: tuple[str, ...], rows_by_class: list[NDArray[np.int64]], part: Part
    ) -> None:
        rows = np.concatenate(rows_by_class)
        labels = np.concatenate([np.full(len(rows), label) for label, rows in enumerate(rows_by_class)])
        order = np.argsort(rows, kind="stable")
        self.classes = classes
        self.rows = rows[order]
        self.labels = torch.from_numpy(labels[order])
        self.source = images.fingerprint
        self.fingerprint = _fingerprint(images.fingerprint, classes, self.rows, part)
        self._images = images
        self._decoded: dict[int, Tensor] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def shared_with(self, other: SelectedImages) -> int:
        """Return how many images of one source both have."""
        return len(np.intersect1d(self.rows, other.rows)) if self.source == other.source else 0

    def pixels(self, index: int) -> Tensor:
        """Return one image, uint8 [3, H, W]."""
        if (found := self._decoded.get(index)) is not None:
            return found
        pixels = to_rgb(self._images.image(int(self.rows[index])))
        if self._bytes + pixels.nbytes <= CACHE_BYTES:
            self._decoded[index] = pixels
            self._bytes += pixels.nbytes
        return pixels


def _fingerprint(source: str, classes: tuple[str, ...], rows: NDArray[np.int64], part: Part) -> str:
    digest = hashlib.sha256("\0".join((source, part, *classes)).encode())
    digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return digest.hexdigest()


def to_rgb(image: Image.Image) -> Tensor:
    """Return a picture of any mode as uint8 [3, H, W], turned upright, transparency on white, 16 bits scaled to 8."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I;16", "I")):
        upright = Image.fromarray((np.asarray(upright).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1).contiguous()


def evaluation_view(image: Tensor, image_size: int) -> Tensor:
    """Return uint8 [3, S, S]: shorter side to S (bicubic, antialiased), then the centre."""
    if image.shape[-2:] == (image_size, image_size):
        return image
    prepare_torchvision()
    from torchvision.transforms import InterpolationMode  # slow, and not needed where sizes fit already
    from torchvision.transforms.v2 import functional

    resized = functional.resize(image, [image_size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    cropped: Tensor = functional.center_crop(resized, [image_size, image_size])
    return cropped


def random_crop(image_size: int, smallest: float) -> Callable[[Tensor], Tensor]:
    """Return what makes any image S x S: a random crop of at least this share of its area; at 1 the evaluation view."""
    if smallest == 1:
        return partial(evaluation_view, image_size=image_size)
    prepare_torchvision()
    from torchvision.transforms import InterpolationMode, v2  # slow, and not needed where nothing is cropped

    crop: Callable[[Tensor], Tensor] = v2.RandomResizedCrop(
        image_size, scale=(smallest, 1), interpolation=InterpolationMode.BICUBIC
    )
    return crop


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [0, 1]; floats pass."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def sample(images: SelectedImages, image_size: int, count: int) -> Tensor:
    """Return up to `count` images in a fixed random order, float32 [n, 3, S, S] in [0, 1]."""
    order = np.random.default_rng(0).permutation(len(images))[:count]
    return to_unit(torch.stack([evaluation_view(images.pixels(int(i)), image_size) for i in order]))


def step_seed(seed: int, step: int, purpose: str) -> int:
    """Return the seed of one purpose ("order", "views", "model") at one step."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()[:8], "big") >> 1


class Step(NamedTuple):
    """Which images a training step uses."""

    number: int
    rows: list[int]


@dataclass(frozen=True)
class Steps(Sampler[Step]):
    """The order of the images: a fresh shuffle every epoch, the incomplete last batch dropped.

    Attributes:
        images: Size of the set.
        batch_size: Images a step; a smaller set makes one step of all it has.
        epochs: Passes over the set.
        seed: Decides the shuffles.
        first: Where to begin, for a continued run.
    """

    images: int
    batch_size: int
    epochs: int
    seed: int
    first: int = 0

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        return max(self.images // self.batch_size, 1)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.first

    def __iter__(self) -> Iterator[Step]:
        for epoch in range(self.first // self.per_epoch, self.epochs):
            order = np.random.default_rng(step_seed(self.seed, epoch, "order")).permutation(self.images)
            begin = max(self.first - epoch * self.per_epoch, 0)
            for index in range(begin, self.per_epoch):
                rows = order[index * self.batch_size : (index + 1) * self.batch_size]
                yield Step(epoch * self.per_epoch + index, rows.tolist())


@dataclass(frozen=True)
class _AugmentedBatches(Dataset[Batch]):
    images: SelectedImages
    views: Views
    seed: int

    def __getitems__(self, step: Step) -> Batch:
        torch.default_generator.manual_seed(step_seed(self.seed, step.number, "views"))
        samples = [self.views(self.images.pixels(row)) for row in step.rows]
        return Batch(tuple(torch.stack(view) for view in zip(*samples, strict=True)), self.images.labels[step.rows])


@dataclass(frozen=True)
class _PlainBatches(Dataset[Batch]):
    images: SelectedImages
    image_size: int

    def __getitems__(self, rows: list[int]) -> Batch:
        view = torch.stack([evaluation_view(self.images.pixels(row), self.image_size) for row in rows])
        return Batch((view,), self.images.labels[rows])


def training_batches(images: SelectedImages, views: Views, steps: Steps) -> Iterable[Batch]:
    """Return the augmented batches of a training, in order."""
    return _loader(_AugmentedBatches(images, views, steps.seed), steps, len(images))


def evaluation_batches(images: SelectedImages, image_size: int, batch_size: int) -> Iterable[Batch]:
    """Return all images in their own order, un-augmented, uint8."""
    rows = [list(range(i, min(i + batch_size, len(images)))) for i in range(0, len(images), batch_size)]
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

"""The images of a torchvision data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch.utils.data import Dataset

from ood_core.errors import OODError
from ood_core.files import digest_files
from ood_core.interfaces import ImageSet


class TorchvisionImages(ImageSet):
    """A data set object of torchvision, asked for what those objects have no common name for."""

    def __init__(self, name: str, dataset: Dataset[Any]) -> None:
        self.labels = _labels(vars(dataset))
        self.classes = _classes(dataset) or tuple(map(str, range(max(self.labels) + 1)))
        content = name, _digest(vars(dataset)), self.classes, self.labels
        self.fingerprint = sha256(repr(content).encode()).hexdigest()
        self._name = name
        self._dataset = dataset

    def image(self, index: int) -> PIL.Image.Image:
        """Return one picture; torchvision turns those it reads from files into RGB."""
        try:
            picture, _ = self._dataset[index]
        except (OSError, SyntaxError, ValueError) as error:
            raise OODError(f"torchvision data set '{self._name}', image {index}: {error}") from error
        assert isinstance(picture, PIL.Image.Image)
        return picture


def _classes(dataset: Dataset[Any]) -> tuple[str, ...]:
    """Return the class names, none where the set knows only numbers."""
    names: Iterable[str | tuple[str, ...]] = getattr(dataset, "classes", getattr(dataset, "categories", ()))
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)  # ImageNet: tuples of synonyms


def _labels(held: Mapping[str, Any]) -> list[int]:
    for attribute in ("targets", "labels", "_labels", "y"):
        if attribute in held:
            return [int(label) for label in held[attribute]]
    return [int(label) for _, label in held["_samples"]]


def _digest(held: Mapping[str, Any]) -> str:
    if "data" in held:
        return sha256(np.ascontiguousarray(held["data"]).data).hexdigest()
    return digest_files(_files(held))


def _files(held: Mapping[str, Any]) -> Iterable[Path]:
    for attribute in ("_image_files", "_images"):
        if attribute in held:
            return [Path(file) for file in held[attribute]]
    for attribute in ("imgs", "_samples"):
        if attribute in held:
            return [Path(file) for file, _ in held[attribute]]
    return Path(held["root"]).rglob("*.jpg")  # Caltech's sets keep no list, and have their root to themselves

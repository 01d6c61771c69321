"""The images of a torchvision data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch.utils.data import Dataset

from ood_core.data.files import digest_files
from ood_core.errors import OODError
from ood_core.interfaces import ImageSet
from ood_torchvision.splits import LYING, UNORDERED


class TorchvisionImages(ImageSet):
    """Images, labels and classes of a data set of torchvision, whose classes have no common attributes for them."""

    def __init__(self, name: str, dataset: Dataset[Any]) -> None:
        held = vars(dataset)
        labels, files = _labels(held), _files(held)
        classes = _classes(dataset, held) or tuple(map(str, range(max(labels) + 1)))
        self._order: Sequence[int] = range(len(labels))
        if name in UNORDERED:
            self._order = sorted(self._order, key=lambda row: files[row])
            labels, classes = _sorted(labels, classes)
        self.classes = classes
        self.labels = [labels[row] for row in self._order]
        self.encoded = bool(files)
        content = name, _digest(held, files), self.classes, self.labels
        self.fingerprint = sha256(repr(content).encode()).hexdigest()
        self._name = name
        self._dataset = dataset

    def image(self, index: int) -> PIL.Image.Image:
        """Return one picture; torchvision turns those it reads from files into RGB."""
        try:
            picture, _ = self._dataset[self._order[index]]
        except (OSError, SyntaxError, ValueError) as error:
            raise OODError(f"torchvision data set '{self._name}', image {index}: {error}") from error
        assert isinstance(picture, PIL.Image.Image)
        return picture.transpose(PIL.Image.Transpose.TRANSPOSE) if self._name in LYING else picture


def _classes(dataset: Dataset[Any], held: Mapping[str, Any]) -> tuple[str, ...]:
    if named := held.get("all_categories", held.get("_characters")):  # iNaturalist, Omniglot
        return tuple(named)
    names: Iterable[str | tuple[str, ...]] = getattr(dataset, "classes", getattr(dataset, "categories", ()))
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)  # ImageNet: tuples of synonyms


def _sorted(labels: Sequence[int], classes: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
    """Return the labels for the classes in alphabetical order, and these."""
    ordered = sorted(range(len(classes)), key=lambda label: classes[label])
    numbers = {label: number for number, label in enumerate(ordered)}
    return [numbers[label] for label in labels], tuple(classes[label] for label in ordered)


def _labels(held: Mapping[str, Any]) -> list[int]:
    if "all_categories" in held:  # iNaturalist
        return [int(label) for label, _ in held["index"]]
    for attribute in ("targets", "labels", "_labels", "y"):
        if attribute in held:
            return [int(label) for label in held[attribute]]
    return [int(label) for _, label in held.get("_samples", held.get("_flat_character_images"))]


def _digest(held: Mapping[str, Any], files: Sequence[Path]) -> str:
    if "data" in held:
        return sha256(np.ascontiguousarray(held["data"]).data).hexdigest()
    return digest_files(files)


def _files(held: Mapping[str, Any]) -> Sequence[Path]:
    """Return the files of the images, row by row; none where the images are in memory."""
    if "data" in held:
        return []
    if "all_categories" in held:  # iNaturalist
        return [Path(held["root"], held["all_categories"][label], name) for label, name in held["index"]]
    if "_characters" in held:  # Omniglot
        folder = held["target_folder"]
        return [Path(folder, held["_characters"][label], name) for name, label in held["_flat_character_images"]]
    for attribute in ("_image_files", "_images"):
        if attribute in held:
            return [Path(file) for file in held[attribute]]
    for attribute in ("imgs", "_samples"):
        if attribute in held:
            return [Path(file) for file, _ in held[attribute]]
    return list(Path(held["root"]).rglob("*.jpg"))  # Caltech's sets keep no list, and have their root to themselves

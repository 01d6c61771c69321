"""torchvision's data sets as a data source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from torch.utils.data import Dataset

from ood_core.data.decoding import open_header
from ood_core.data.files import digest_files
from ood_core.errors import OODError, one_line, suggest
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_core.runtime.torchvision_compat import prepare_torchvision

Arguments: TypeAlias = Mapping[str, str | bool]  # keyword arguments of a data set's constructor

_FLAG: dict[Split, Arguments] = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: dict[Split, Arguments] = {"train": {}, "test": {}}


def _named(train: str, test: str) -> dict[Split, Arguments]:
    return {"train": {"split": train}, "test": {"split": test}}


SPLITS: dict[str, Mapping[Split, Arguments]] = {
    "CIFAR10": _FLAG,
    "CIFAR100": _FLAG,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "Country211": _named("train", "test"),
    "DTD": _named("train", "test"),
    "EMNIST": {"train": {"split": "balanced", "train": True}, "test": {"split": "balanced", "train": False}},
    "EuroSAT": _WHOLE,
    "FGVCAircraft": _named("trainval", "test"),
    "FashionMNIST": _FLAG,
    "Flowers102": _named("train", "test"),
    "Food101": _named("train", "test"),
    "GTSRB": _named("train", "test"),
    "ImageNet": _named("train", "val"),
    "INaturalist": {"train": {"version": "2021_train_mini"}, "test": {"version": "2021_valid"}},
    "Imagenette": _named("train", "val"),
    "KMNIST": _FLAG,
    "MNIST": _FLAG,
    "Omniglot": {"train": {"background": True}, "test": {"background": False}},
    "OxfordIIITPet": _named("trainval", "test"),
    "Places365": _named("train-standard", "val"),
    "SEMEION": _WHOLE,
    "STL10": _named("train", "test"),
    "SUN397": _WHOLE,
    "SVHN": _named("train", "test"),
    "StanfordCars": _named("train", "test"),
    "USPS": _FLAG,
}
"""The data sets on offer. One without splits gives all its images for either; `val` stands in where test has no labels.

The constructors' signatures tell neither the names of the splits nor which set is one of labelled images. Of EMNIST it
is the balanced split, of iNaturalist the mini training set of 2021; Omniglot has other characters in training than in
test, so it serves as an OOD set. PCAM is left out: it needs h5py.
"""

UNORDERED = frozenset({"INaturalist", "Omniglot", "SUN397"})
"""Sets whose images or classes come in the order of the file system; here they are sorted by path."""

UNLISTED = frozenset({"Caltech101", "Caltech256"})
"""Sets that keep no list of their files, and open a picture without decoding it."""

LYING = frozenset({"EMNIST"})  # sets whose pictures lie on their side, mirrored; here they are turned upright

GONE = frozenset({"StanfordCars"})
"""Sets that torchvision has an option to download, from an address that no longer answers."""


class TorchvisionImages(ImageSet):
    """Images, labels and classes of a data set of torchvision, whose classes have no common attributes for them."""

    def __init__(self, name: str, dataset: Dataset[Any]) -> None:
        held = vars(dataset)
        labels, files = _labels(held), _files(name, held)
        classes = _classes(dataset, held) or tuple(map(str, range(max(labels) + 1)))
        self._order: Sequence[int] = range(len(labels))
        if name in UNORDERED:
            self._order = sorted(self._order, key=lambda row: files[row])
            labels, classes = _sorted(labels, classes)
        self.classes = classes
        self.labels = [labels[row] for row in self._order]
        self.encoded = bool(files)
        digest = sha256(np.ascontiguousarray(held["data"]).data).hexdigest() if "data" in held else digest_files(files)
        content = name, digest, self.classes, self.labels
        self.fingerprint = sha256(repr(content).encode()).hexdigest()
        self._name, self._dataset = name, dataset

    def image(self, index: int) -> PIL.Image.Image:
        """Return one picture; torchvision turns those it reads from files into RGB."""
        row = self._order[index]
        try:
            if self.encoded and self._name not in UNLISTED:
                open_header(_file(vars(self._dataset), row)).close()  # torchvision decodes also what is not allowed
            picture, _ = self._dataset[row]
        except MemoryError:
            raise
        except Exception as error:  # of the file; torchvision reads many formats
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


def _files(name: str, held: Mapping[str, Any]) -> Sequence[Path]:
    """Return the files of the images, row by row; none where the images are in memory."""
    if "data" in held:
        return []
    if name in UNLISTED:
        return list(Path(held["root"]).rglob("*.jpg"))  # they have their root to themselves
    return [_file(held, row) for row in range(len(_labels(held)))]


def _file(held: Mapping[str, Any], row: int) -> Path:
    if "all_categories" in held:  # iNaturalist
        label, name = held["index"][row]
        return Path(held["root"], held["all_categories"][label], name)
    if "_characters" in held:  # Omniglot
        name, label = held["_flat_character_images"][row]
        return Path(held["target_folder"], held["_characters"][label], name)
    for attribute in ("_image_files", "_images"):
        if attribute in held:
            return Path(held[attribute][row])
    return Path(held["imgs" if "imgs" in held else "_samples"][row][0])


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(DatasetSource):
    """A classification data set of torchvision, in the files and folders that torchvision expects.

    Attributes:
        dataset: Name of the class in `torchvision.datasets`.
        root: The folder torchvision is given; most sets have a folder of their own in it.
        download: Whether torchvision fetches what is missing, and compares its checksums.
    """

    name = "torchvision"
    dataset: str
    root: Path
    download: bool = False

    def check(self) -> None:
        if self.dataset not in SPLITS:
            raise OODError(f"no torchvision data set '{self.dataset}'.{suggest(self.dataset, SPLITS)}")
        if self.download and (self.dataset in GONE or not _can_download(self._constructor())):
            raise OODError(f"torchvision data set '{self.dataset}' cannot be downloaded, so set download: false")

    def open(self, split: Split) -> ImageSet:
        self.check()
        if not self.download and not self.root.is_dir():
            raise self._missing("no such folder")
        constructor, arguments = self._constructor(), dict(SPLITS[self.dataset][split])
        if _can_download(constructor):
            arguments["download"] = self.download  # said in any case: SEMEION downloads by default
        try:
            found = constructor(str(self.root), **arguments)  # type: ignore[call-arg]
        except MemoryError:
            raise
        except Exception as error:  # of a broken file; torchvision reads many formats
            raise self._missing(one_line(error).partition(". ")[0].rstrip(".")) from error
        return TorchvisionImages(self.dataset, found)

    def _constructor(self) -> type[Dataset[Any]]:
        prepare_torchvision()
        from torchvision import datasets

        constructor: type[Dataset[Any]] = getattr(datasets, self.dataset)
        return constructor

    def _missing(self, reason: str) -> OODError:
        known = self.dataset not in GONE and _can_download(self._constructor())
        hint = "; download: true fetches it" if known and not self.download else ""
        return OODError(f"torchvision data set '{self.dataset}' in {self.root}: {reason}{hint}")


def _can_download(constructor: type[Dataset[Any]]) -> bool:
    # EMNIST hands it on to the class it is made of
    return any("download" in signature(cls).parameters for cls in constructor.__mro__[:-1])

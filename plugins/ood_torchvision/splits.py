"""How torchvision's data sets call their splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ood_core.interfaces import Split

Arguments: TypeAlias = Mapping[str, str | bool]
"""Keyword arguments of a data set's constructor."""

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

LYING = frozenset({"EMNIST"})
"""Sets whose pictures lie on their side, mirrored; here they are turned upright."""

GONE = frozenset({"StanfordCars"})
"""Sets that torchvision has an option to download, from an address that no longer answers."""

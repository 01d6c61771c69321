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
    "EuroSAT": _WHOLE,
    "FGVCAircraft": _named("trainval", "test"),
    "FashionMNIST": _FLAG,
    "Flowers102": _named("train", "test"),
    "Food101": _named("train", "test"),
    "GTSRB": _named("train", "test"),
    "ImageNet": _named("train", "val"),
    "Imagenette": _named("train", "val"),
    "KMNIST": _FLAG,
    "MNIST": _FLAG,
    "OxfordIIITPet": _named("trainval", "test"),
    "Places365": _named("train-standard", "val"),
    "SEMEION": _WHOLE,
    "STL10": _named("train", "test"),
    "SVHN": _named("train", "test"),
    "USPS": _FLAG,
}
"""The data sets on offer. One without splits gives all its images for either; `val` stands in where test has no labels.

The constructors' signatures tell neither the names of the splits nor which set is one of labelled images. Left out are
SUN397, whose images come in the order of the file system, StanfordCars, which says it can be downloaded and cannot,
EMNIST, whose pictures lie on their side, and PCAM, which needs h5py.
"""

"""Data sets of the hub, or on disk in the hub's format, as a data source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ood_core.errors import OODError, suggest
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_huggingface.images import HubImages

if TYPE_CHECKING:
    from datasets import Dataset, Features

SAVED = ("dataset_dict.json", "state.json")
"""What save_to_disk writes for a set in splits, and for one without."""


@dataclass(frozen=True, kw_only=True)
class HubDataset(DatasetSource):
    """A data set of the Hugging Face hub, through the library `datasets`.

    Attributes:
        dataset: Its name on the hub, or a folder that `save_to_disk` made, relative to where the run is started; a set
            saved without splits is both of ours.
        config: Which configuration of it; None where it has only one.
        train_split: What its training split is called.
        test_split: What its test split is called; "validation" where test labels are secret, as in ImageNet.
        image_column: Where the pictures are; None takes the first column of the type Image.
        label_column: Where the labels are: classes, whole numbers or names. None takes the first column of the type
            ClassLabel; without one, all pictures are of one class.
        download: Whether to download a set that is not in the library's cache.
    """

    name = "huggingface"
    dataset: str
    config: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    download: bool = False

    def open(self, split: Split) -> ImageSet:
        """Return one split; all its pictures are read once, for the fingerprint."""
        _require_library()
        rows = self._split(split)
        where = f"{self._called} ({split})"
        image = _column(rows.features, "Image", self.image_column, where)
        if image is None:
            raise OODError(f"{where}: no column of pictures; there is: {', '.join(rows.features)}")
        return HubImages(rows, image, _column(rows.features, "ClassLabel", self.label_column, where), where)

    @property
    def _called(self) -> str:
        return f"Hugging Face data set '{self.dataset}'"

    def _split(self, split: Split) -> Dataset:
        from datasets import Dataset

        loaded = self._load()
        if isinstance(loaded, Dataset):
            return loaded
        option = f"{split}_split"
        name = getattr(self, option)
        if name not in loaded:
            raise OODError(f"{self._called}: no split '{name}', which '{option}' sets.{suggest(name, loaded)}")
        return loaded[name]

    def _load(self) -> Dataset | Mapping[str, Dataset]:
        from datasets import exceptions

        try:
            return self._from_folder() if Path(self.dataset).exists() else self._from_hub()
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
            raise OODError(f"{self._called} cannot be read: {reason}") from error

    def _from_folder(self) -> Any:
        from datasets import load_from_disk

        if not any((Path(self.dataset) / name).is_file() for name in SAVED):
            raise OODError(f"{self._called}: not a folder that save_to_disk made, which has {' or '.join(SAVED)} in it")
        return load_from_disk(self.dataset)

    def _from_hub(self) -> Any:
        from datasets import load_dataset

        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.dataset):  # the library has other ideas of what a plain word means
            raise OODError(f"{self._called}: no such folder, nor a name on the hub, as 'uoft-cs/cifar10' is")
        with _network(self.download):
            try:
                return load_dataset(self.dataset, self.config)
            except ConnectionError as error:
                if self.download:
                    raise
                raise OODError(f"{self._called}: not in the library's cache; download: true fetches it") from error


def _require_library() -> None:
    try:
        import datasets  # noqa: F401 - it is slow to import, and of no use before a set is opened
    except ImportError as error:
        raise OODError(
            "dataset 'huggingface' needs the library 'datasets': pip install 'ood-framework[huggingface]'"
        ) from error


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep the libraries off the network, unless it is allowed.

    HF_HUB_OFFLINE would do the same, but is read only once, when they are imported.
    """
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not allowed:
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _column(features: Features, kind: str, wanted: str | None, where: str) -> str | None:
    """Return the wanted column, by default the first one of a type; None if there is none."""
    if wanted is None:
        return next((name for name, feature in features.items() if type(feature).__name__ == kind), None)
    if wanted not in features:
        raise OODError(f"{where}: no column '{wanted}'.{suggest(wanted, features)}")
    if kind == "Image" and type(features[wanted]).__name__ != kind:
        raise OODError(f"{where}: column '{wanted}' holds no pictures, but {features[wanted]}")
    return wanted

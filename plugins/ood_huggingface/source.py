"""Data sets of the hub, or on disk in the hub's format, as a data source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import PIL.Image

from ood_core.data.decoding import decode
from ood_core.data.files import file_digest
from ood_core.data.image_files import UNLABELLED, numbers_first
from ood_core.errors import OODError, one_line, suggest
from ood_core.interfaces import DatasetSource, ImageSet, Split

if TYPE_CHECKING:
    from datasets import Dataset, Features


ROWS = 256  # rows that are in memory at once while the fingerprint is made

Encoded: TypeAlias = bytes | Path | None  # a picture in its file format, the file that it is in, or nothing


SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes for a set in splits, and for one without


class HubImages(ImageSet):
    """The pictures of a `Dataset`, decoded when they are read."""

    encoded = True

    def __init__(self, rows: Dataset, image: str, label: str | None, where: str) -> None:
        from datasets import Image

        self.labels, self.classes = _labels(rows, label, where)
        self._rows = rows.select_columns([image]).cast_column(image, Image(decode=False))
        self._image, self._where = image, where
        self.fingerprint = self._digest()

    def image(self, index: int) -> PIL.Image.Image:
        where, found = f"{self._where}: row {index}", _encoded(self._rows[index][self._image])
        if found is None:
            raise OODError(f"{where}: no picture in column '{self._image}'")
        return decode(BytesIO(found) if isinstance(found, bytes) else found, where)

    def _digest(self) -> str:
        """Return a hash over pictures, labels and class names: the same however the rows are cut into files."""
        total = sha256(repr((self.classes, self.labels)).encode())
        tables = self._rows.with_format("arrow").iter(batch_size=ROWS)
        held = (one for table in tables for one in table.column(self._image).to_pylist())
        for row, found in enumerate(map(_encoded, held)):
            if isinstance(found, Path):
                if not found.is_file():
                    raise OODError(f"{self._where}: row {row}: {found}: no such file")
                found = file_digest(found).encode()
            content = found or b""  # a row without a picture is an error when it is read
            total.update(len(content).to_bytes(8, "little"))
            total.update(content)
        return total.hexdigest()


def _encoded(held: dict[str, Any] | None) -> Encoded:
    if held is None:
        return None
    found: bytes | None = held["bytes"]
    return found if found is not None else Path(held["path"]) if held["path"] else None


def _labels(rows: Dataset, column: str | None, where: str) -> tuple[list[int], tuple[str, ...]]:
    """Return a label for each row, and the names of the classes."""
    if column is None:
        return [0] * len(rows), (UNLABELLED,)
    found = rows.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
    names = getattr(rows.features[column], "names", None)  # a ClassLabel has them
    if names is None and found and all(isinstance(label, str) for label in found):
        names = sorted(set(found), key=numbers_first)
        numbers = {name: number for number, name in enumerate(names)}
        found = [numbers[label] for label in found]
    _check(found, names, f"column '{column}'", where)
    return found, tuple(names if names is not None else map(str, range(max(found) + 1)))


def _check(labels: Sequence[Any], names: Sequence[str] | None, column: str, where: str) -> None:
    if not labels:
        raise OODError(f"{where}: the split has no rows")
    for row, label in enumerate(labels):
        if type(label) is not int or label < 0 or (names is not None and label >= len(names)):
            hint = "; labels of a test split may be secret, and another split has them" if label in (-1, None) else ""
            raise OODError(f"{where}: row {row} has {label} in {column}, not a class{hint}")


@dataclass(frozen=True, kw_only=True)
class HubDataset(DatasetSource):
    """A data set of the Hugging Face hub, through the library `datasets`.

    Attributes:
        dataset: Its name on the hub, or a folder that `save_to_disk` made; a set saved without splits is both of ours.
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
        try:
            import datasets  # noqa: F401 - it is slow to import, and of no use before a set is opened
        except ImportError as error:
            hint = "pip install 'ood-framework[huggingface]'"
            raise OODError(f"dataset 'huggingface' needs the library 'datasets': {hint}") from error
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

        try:
            loaded = self._from_folder() if Path(self.dataset).exists() else self._from_hub()
        except (OODError, MemoryError):
            raise
        except Exception as error:  # of a broken file; the library reads many formats
            reason = one_line(error).partition(". ")[0].rstrip(".")
            raise OODError(f"{self._called} cannot be read: {reason}") from error
        if isinstance(loaded, Dataset):
            return loaded
        option = f"{split}_split"
        name = getattr(self, option)
        if name not in loaded:
            raise OODError(f"{self._called}: no split '{name}', which '{option}' sets.{suggest(name, loaded)}")
        return loaded[name]

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


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    # HF_HUB_OFFLINE in the environment would do the same, but is read only once, when the libraries are imported
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

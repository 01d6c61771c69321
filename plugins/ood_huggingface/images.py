"""The images and labels of one split, as the library `datasets` holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import PIL.Image

from ood_core.data.decoding import decode
from ood_core.data.files import file_digest
from ood_core.data.image_files import UNLABELLED, numbers_first
from ood_core.errors import OODError
from ood_core.interfaces import ImageSet

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = 256
"""Rows that are in memory at once while the fingerprint is made."""

Encoded: TypeAlias = bytes | Path | None
"""A picture in its file format, the file that it is in, or nothing."""


class HubImages(ImageSet):
    """The pictures of a `Dataset`, decoded when they are read.

    Args:
        rows: The split.
        image: Column of the pictures.
        label: Column of the labels; None where the pictures have none.
        where: What errors call the split.
    """

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
        for row, found in enumerate(self._pictures()):
            if isinstance(found, Path):
                if not found.is_file():
                    raise OODError(f"{self._where}: row {row}: {found}: no such file")
                found = file_digest(found).encode()
            content = found or b""  # a row without a picture is an error when it is read
            total.update(len(content).to_bytes(8, "little"))
            total.update(content)
        return total.hexdigest()

    def _pictures(self) -> Iterator[Encoded]:
        for table in self._rows.with_format("arrow").iter(batch_size=ROWS):
            yield from map(_encoded, table.column(self._image).to_pylist())


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

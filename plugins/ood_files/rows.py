"""Pictures in the rows of parquet files, read a row group at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import PIL.Image

from ood_core.data.decoding import decode
from ood_core.errors import OODError
from ood_core.interfaces import ImageSet

if TYPE_CHECKING:
    import pyarrow as pa

CACHE_BYTES = 256 * 2**20
"""Encoded pictures kept in memory by each process; the row group in use may exceed it."""


@dataclass(frozen=True)
class Shard:
    """What is known of one file before a picture is read."""

    path: Path  # the file
    image_column: str  # where the pictures are
    label_column: str  # where the class numbers are
    labels: list[int]  # class numbers, one a row
    group_rows: list[int]  # number of rows in each row group
    classes: tuple[str, ...]  # class names, none where the file does not say


class _RowGroup(NamedTuple):
    shard: Shard
    number: int
    first_row: int
    """Of the group in its file."""


class ParquetImages(ImageSet):
    """The rows of some parquet files, one file after the other.

    It holds no open file, so that it can be pickled and used in forked processes.
    """

    encoded = True

    def __init__(self, shards: Sequence[Shard], classes: tuple[str, ...], fingerprint: str) -> None:
        self.classes = classes
        self.labels = [label for shard in shards for label in shard.labels]
        self.fingerprint = fingerprint
        self._groups = [
            _RowGroup(shard, number, first)
            for shard in shards
            for number, first in enumerate(list(accumulate(shard.group_rows, initial=0))[:-1])
            if shard.group_rows[number]
        ]
        sizes = (group.shard.group_rows[group.number] for group in self._groups)
        self._starts = list(accumulate(sizes, initial=0))[:-1]
        self._cache: dict[int, pa.ChunkedArray] = {}  # in the order of use, the latest last

    def image(self, index: int) -> PIL.Image.Image:
        position = bisect_right(self._starts, index) - 1
        group, row = self._groups[position], index - self._starts[position]
        where = f"{group.shard.path}: row {group.first_row + row}"
        encoded = self._encoded(position)[row].as_py()
        if encoded is None:
            raise OODError(f"{where}: no bytes in column '{group.shard.image_column}'")
        return decode(BytesIO(encoded), where)

    def _encoded(self, position: int) -> pa.ChunkedArray:
        found = self._cache.pop(position, None)
        if found is None:
            found = _read(self._groups[position])
            while self._cache and found.nbytes + sum(column.nbytes for column in self._cache.values()) > CACHE_BYTES:
                del self._cache[next(iter(self._cache))]
        self._cache[position] = found
        return found


def _read(group: _RowGroup) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    shard = group.shard
    try:
        with pq.ParquetFile(shard.path, memory_map=True) as file:
            # One thread: loader processes are forked, and read side by side already.
            table = file.read_row_group(group.number, columns=[f"{shard.image_column}.bytes"], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        rows = f"rows from {group.first_row}"
        raise OODError(f"{shard.path}: {rows} cannot be read: {' '.join(str(error).split())}") from error
    return pc.struct_field(table.column(0), "bytes")

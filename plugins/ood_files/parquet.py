"""Parquet files in the style of Hugging Face data sets: encoded pictures in one column, class numbers in another."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image

from ood_core.data.decoding import decode
from ood_core.data.files import digest_files, listing, reading
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import numbered

if TYPE_CHECKING:
    import pyarrow as pa


CACHE_BYTES = 256 * 2**20  # encoded pictures kept in memory by each process; the row group in use may exceed it


@dataclass(frozen=True)
class Shard:
    """What is known of one file before a picture is read."""

    path: Path
    image_column: str  # where the pictures are
    label_column: str  # where the class numbers are
    labels: list[int]  # class numbers, one a row
    group_rows: list[int]  # number of rows in each row group
    classes: tuple[str, ...]  # class names, none where the file does not say


class _RowGroup(NamedTuple):
    shard: Shard
    number: int
    first_row: int  # of the group in its file


class ParquetImages(ImageSet):
    """The rows of some parquet files. It holds no open file, so that it can be used in forked processes."""

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
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    shard = group.shard
    objection = f"rows from {group.first_row} cannot be read"
    with reading(shard.path, objection), pq.ParquetFile(shard.path, memory_map=True) as file:
        # One thread: loader processes are forked, and read side by side already.
        table = file.read_row_group(group.number, columns=[f"{shard.image_column}.bytes"], use_threads=False)
        if len(table) != shard.group_rows[group.number]:
            raise OODError(f"{shard.path}: {objection}: there are {len(table)} of {shard.group_rows[group.number]}")
    return pc.struct_field(table.column(0), "bytes")


@dataclass(frozen=True, kw_only=True)
class ParquetFiles(DatasetSource):
    """Parquet files with encoded pictures (struct of bytes and path) and class numbers, as Hugging Face stores them.

    Attributes:
        path: A folder with train-*.parquet and test-*.parquet, or one file, which is then both splits.
        test_prefix: What the names of test files begin with; "validation" where test labels are secret, as in ImageNet.
        image_column: Where the pictures are; None takes `img` or `image`.
        label_column: Where the class numbers are; None takes `label` or `fine_label`.
    """

    name = "parquet"
    path: Path
    test_prefix: str = "test"
    image_column: str | None = None
    label_column: str | None = None

    def check(self) -> None:
        if not self.path.exists():
            raise OODError(f"{self.path}: no such folder or file")

    def open(self, split: Split) -> ImageSet:
        self.check()
        prefix = self.test_prefix if split == "test" else "train"
        files = [file for file in sorted(self.path.glob("*.parquet")) if re.split("[-.]", file.name)[0] == prefix]
        files = [self.path] if self.path.is_file() else files
        if not files:
            raise OODError(f"{self.path}: no {prefix}-*.parquet for the {split} split, only {listing(self.path)}")
        shards = [self._read(file) for file in files]
        labels = [label for shard in shards for label in shard.labels if label is not None]
        if not any(shard.labels for shard in shards):
            raise OODError(f"{self.path}: no rows for the {split} split")
        # numbers for names where the file has none; a label that is no class number is refused with its row below
        classes = shards[0].classes or numbered(max(labels, default=-1), str(files[0].parent))
        for shard in shards:
            _check_labels(shard, len(classes))
        columns = shards[0].image_column, shards[0].label_column
        fingerprint = sha256(repr((digest_files(files), columns)).encode()).hexdigest()
        return ParquetImages(shards, classes, fingerprint)

    def _read(self, path: Path) -> Shard:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with reading(path, "not a readable parquet file"), pq.ParquetFile(path, memory_map=True) as file:
            schema = file.schema_arrow
            image = _column(path, schema, self.image_column, ("img", "image"), "image_column")
            kind = schema.field(image).type
            if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
                raise OODError(f"{path}: column '{image}' holds {kind}, not pictures (a struct with bytes)")
            label = _column(path, schema, self.label_column, ("label", "fine_label"), "label_column")
            kind = schema.field(label).type
            if not pa.types.is_integer(kind):
                raise OODError(f"{path}: column '{label}' holds {kind}, not class numbers")
            labels = file.read([label], use_threads=False).column(label).to_pylist()
            features = (
                json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
            )
            names = tuple(features.get(label, {}).get("names", ()))
            groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            return Shard(path, image, label, labels, groups, names)


def _column(path: Path, schema: pa.Schema, wanted: str | None, usual: tuple[str, ...], option: str) -> str:
    names = (wanted,) if wanted else usual
    for name in names:
        if name in schema.names:
            return name
    raise OODError(
        f"{path}: no column {' or '.join(names)}, which {option} chooses; there is: {', '.join(schema.names) or 'none'}"
    )


def _check_labels(shard: Shard, classes: int) -> None:
    labels = np.array([-1 if label is None else label for label in shard.labels], dtype=np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        row = int(outside[0])
        raise OODError(
            f"{shard.path}: row {row} has {shard.label_column} {shard.labels[row]}, not a class number below {classes}"
        )

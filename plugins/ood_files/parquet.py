"""Parquet files in the style of Hugging Face data sets: encoded pictures in one column, class numbers in another."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ood_core.data.files import digest_files, listing
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.labels import numbered
from ood_files.rows import ParquetImages, Shard

if TYPE_CHECKING:
    import pyarrow as pa


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

        try:
            with pq.ParquetFile(path, memory_map=True) as file:
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
                groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
                return Shard(path, image, label, labels, groups, _class_names(schema, label))
        except (pa.ArrowException, OSError) as error:
            raise OODError(f"{path}: not a readable parquet file: {' '.join(str(error).split())}") from error


def _column(path: Path, schema: pa.Schema, wanted: str | None, usual: tuple[str, ...], option: str) -> str:
    names = (wanted,) if wanted else usual
    for name in names:
        if name in schema.names:
            return name
    raise OODError(
        f"{path}: no column {' or '.join(names)}, which {option} chooses; there is: {', '.join(schema.names) or 'none'}"
    )


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Return the names in Hugging Face's description of the features, if there is one."""
    description = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = description.get("info", {}).get("features", {}).get(label, {})
    return tuple(feature.get("names", ()))


def _check_labels(shard: Shard, classes: int) -> None:
    labels = np.array([-1 if label is None else label for label in shard.labels], dtype=np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        row = int(outside[0])
        raise OODError(
            f"{shard.path}: row {row} has {shard.label_column} {shard.labels[row]}, not a class number below {classes}"
        )

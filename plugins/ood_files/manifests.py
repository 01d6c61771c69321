"""Manifests: tables with a row for each picture, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ood_core.errors import OODError, suggest
from ood_core.image_files import UNLABELLED, numbers_first, require_distinct
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import file_images

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train", "training"), "test": ("test", "val", "validation")}
FORMATS = (".csv", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Manifest(DatasetSource):
    """A CSV or JSONL file with a row for each picture: its path, its label, and the split if there are several.

    Attributes:
        path: The file; relative paths of pictures start from its folder.
        image_column: Where the paths are.
        label_column: Where the labels are, names or numbers; none makes all pictures one class.
        split_column: Where `train` or `test` stands (or `val`, where there is no test); without it both splits are all
            rows.
    """

    name = "manifest"
    path: Path
    image_column: str = "image"
    label_column: str | None = "label"
    split_column: str | None = None

    def check(self) -> None:
        """Raise OODError where there is no such file, or its name has another ending."""
        if not self.path.is_file():
            raise OODError(f"{self.path}: no such file; the option 'path' sets it")
        if self.path.suffix.lower() not in FORMATS:
            raise OODError(f"{self.path}: a manifest ends in {' or '.join(FORMATS)}")

    def open(self, split: Split) -> ImageSet:
        """Return the rows of one split, in their order."""
        self.check()
        rows = list(_rows(self.path))
        if not rows:
            raise OODError(f"{self.path}: no rows")
        paths = [self.path.parent / str(self._value(row, self.image_column, n)) for n, row in rows]
        labels = [self._label(row, number) for number, row in rows]
        classes = sorted(set(labels), key=numbers_first)
        require_distinct(classes, str(self.path))
        chosen = self._of_split(rows, split)
        numbers = {name: number for number, name in enumerate(classes)}
        return file_images([paths[i] for i in chosen], [numbers[labels[i]] for i in chosen], classes, str(self.path))

    def _label(self, row: Mapping[str, Any], number: int) -> str:
        if self.label_column is None:
            return UNLABELLED
        value = self._value(row, self.label_column, number)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise OODError(f"{self.path}: line {number} has the label {json.dumps(value)}, neither a name nor a number")
        return str(value)

    def _of_split(self, rows: list[tuple[int, dict[str, Any]]], split: Split) -> list[int]:
        if self.split_column is None:
            return list(range(len(rows)))
        values = [str(self._value(row, self.split_column, number)) for number, row in rows]
        name = next((name for name in SPLIT_NAMES[split] if name in values), None)
        if name is None:
            wanted = " or ".join(SPLIT_NAMES[split])
            there = ", ".join(sorted(set(values))[:5])
            raise OODError(f"{self.path}: no row whose '{self.split_column}' is {wanted}, only {there}")
        return [index for index, value in enumerate(values) if value == name]

    def _value(self, row: Mapping[str, Any], column: str, number: int) -> Any:
        if column not in row:
            raise OODError(f"{self.path}: line {number} has no column '{column}'.{suggest(column, map(str, row))}")
        if row[column] in (None, ""):
            raise OODError(f"{self.path}: line {number} has nothing in column '{column}'")
        return row[column]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows with their line numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(opened, restkey="", restval="")
                for row in reader:
                    yield reader.line_num, row
            else:
                yield from (
                    (number, _parsed(path, number, line)) for number, line in enumerate(opened, 1) if line.strip()
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OODError(f"{path}: cannot be read: {error}") from error


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise OODError(f"{path}: line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise OODError(f"{path}: line {number} is no JSON object")
    return row

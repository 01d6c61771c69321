"""Manifests: tables with a row for each picture, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ood_core.data.folders import SPLIT_NAMES, is_picture
from ood_core.data.image_files import UNLABELLED, numbers_first, require_distinct
from ood_core.errors import OODError, listed, suggest
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import encoding, file_images, located, reading_text

FORMATS = (".csv", ".tsv", ".jsonl")
DELIMITERS = ",;\t|"


@dataclass(frozen=True, kw_only=True)
class Manifest(DatasetSource):
    """A CSV or JSONL file with a row for each picture: its path, its label, and the split if there are several.

    A CSV file has a header, by which it is found out what separates the columns: commas, semicolons, tabs or `|`.

    Attributes:
        path: The file.
        image_column: Where the paths are.
        label_column: Where the labels are, names or numbers; none makes all pictures one class.
        split_column: Where the splits are; without it both are all rows.
        train: What the training split is called there, in any case; of several names that occur, the first is taken.
        test: What the test split is called.
        folder: What relative paths of pictures start from; default: the folder of the file.
    """

    name = "manifest"
    path: Path
    image_column: str = "image"
    label_column: str | None = "label"
    split_column: str | None = None
    train: tuple[str | int, ...] = SPLIT_NAMES["train"]
    test: tuple[str | int, ...] = SPLIT_NAMES["test"]
    folder: Path | None = None

    def check(self) -> None:
        if not self.path.is_file():
            raise OODError(f"{self.path}: no such file; the option 'path' sets it")
        if self.path.suffix.lower() not in FORMATS:
            raise OODError(f"{self.path}: a manifest ends in {' or '.join(FORMATS)}")

    def open(self, split: Split) -> ImageSet:
        self.check()
        rows = list(_rows(self.path, self.image_column))
        if not rows:
            raise OODError(f"{self.path}: no rows")
        root = self.folder or self.path.parent
        paths = [located(root, str(self._value(row, "image_column", n))) for n, row in rows]
        labels = [self._label(row, number) for number, row in rows]
        classes = sorted(set(labels), key=numbers_first)
        require_distinct(classes, str(self.path))
        chosen, notes = self._of_split(rows, split)
        numbers = {name: number for number, name in enumerate(classes)}
        of = [numbers[labels[index]] for index in chosen]
        return file_images([paths[index] for index in chosen], of, classes, str(self.path), "folder", notes)

    def _label(self, row: Mapping[str, Any], number: int) -> str:
        if self.label_column is None:
            return UNLABELLED
        value = self._value(row, "label_column", number)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise OODError(f"{self.path}: line {number} has the label {json.dumps(value)}, neither a name nor a number")
        return str(value)

    def _of_split(self, rows: list[tuple[int, dict[str, Any]]], split: Split) -> tuple[list[int], tuple[str, ...]]:
        """Return the rows of a split, and a note on those of neither, or on a column of splits that is not used."""
        if self.split_column is None:
            column = next((column for column in rows[0][1] if column.casefold() == "split"), None)
            hint = f"all rows are in both splits; the option 'split_column' can name the column '{column}'"
            unused = column is not None and column not in (self.image_column, self.label_column)
            return list(range(len(rows))), (f"{self.path}: {hint}",) if unused else ()
        values = [str(self._value(row, "split_column", number)) for number, row in rows]
        folded = [value.casefold() for value in values]
        names = {
            of: next((name for name in map(str, called) if name.casefold() in folded), None)
            for of, called in (("train", self.train), ("test", self.test))
        }
        if (name := names[split]) is None:
            wanted = " or ".join(map(str, getattr(self, split)))
            only = f"only {listed(sorted(set(values)))}; the option '{split}' says what the split is called"
            raise OODError(f"{self.path}: no row whose '{self.split_column}' is {wanted}, {only}")
        read = {one.casefold() for one in names.values() if one is not None}
        others = [value for value, one in zip(values, folded, strict=True) if one not in read]
        called = listed(sorted(set(others)))
        note = f"{self.path}: {len(others)} rows are of neither split, their '{self.split_column}' is {called}"
        chosen = [index for index, one in enumerate(folded) if one == name.casefold()]
        return chosen, (note,) if others else ()

    def _value(self, row: Mapping[str, Any], option: str, number: int) -> Any:
        column = getattr(self, option)
        if column not in row:
            hint = f"The option '{option}' names the column"
            if is_picture(next(iter(row), "")):
                hint = "A table without a header is read by 'image-list'"
            raise OODError(
                f"{self.path}: line {number} has no column '{column}'.{suggest(column, map(str, row))} {hint}"
            )
        if row[column] in (None, ""):
            raise OODError(f"{self.path}: line {number} has nothing in column '{column}'")
        return row[column]


def _rows(path: Path, image_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with reading_text(path), path.open(encoding=encoding(path), newline="") as opened:
        if path.suffix.lower() == ".jsonl":
            yield from ((number, _parsed(path, number, line)) for number, line in enumerate(opened, 1) if line.strip())
            return
        header = opened.readline()
        opened.seek(0)
        columns = {sign: next(csv.reader([header], delimiter=sign, skipinitialspace=True), []) for sign in DELIMITERS}
        # what gives the column with the paths, or else the most columns
        delimiter = max(DELIMITERS, key=lambda sign: (image_column in columns[sign], len(columns[sign])))
        reader = csv.DictReader(opened, restkey="", restval="", delimiter=delimiter, skipinitialspace=True)
        for row in reader:
            yield reader.line_num, row


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OODError(f"{path}: line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise OODError(f"{path}: line {number} is no JSON object")
    return row

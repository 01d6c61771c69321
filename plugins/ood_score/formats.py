"""Rows as CSV and JSON Lines, and back.

Numbers are written so that reading gives the same bits. A file name is written as the bytes that it has: in CSV as they
are, so that other programs find the file; in JSON Lines as Python escapes those that are no UTF-8. A text in CSV that
a spreadsheet would take for a formula has an apostrophe before it, which reading removes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, BinaryIO, ClassVar, TypeAlias

from ood_core.escapes import from_cell, to_record
from ood_score.rows import DECISION, Columns, Row

BOOLEANS = {"true": True, "false": False, "": None}


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    JSONL = "jsonl"
    TABLE = "table"


SUFFIXES = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}


@dataclass(frozen=True)
class CSV:
    """Comma-separated values (RFC 4180) with a header; nothing where there is no value."""

    columns: Columns

    @property
    def header(self) -> bytes:
        """The record before the first row."""
        return _csv_record(self.columns.names)

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return whole records."""
        return b"".join(_csv_record(self.columns.values(row).values()) for row in rows)

    def decode(self, record: bytes) -> Row:
        """Return the row of a record.

        Raises:
            ValueError, csv.Error: It is none.
        """
        cells = next(csv.reader([record.decode("utf-8", "surrogateescape")], strict=True))
        values: dict[str, Any] = dict(zip(self.columns.names, cells, strict=True))
        texts = values.keys() - {*DECISION[2:5], *self.columns.scorers}
        values |= {name: from_cell(values[name]) for name in texts}
        file, is_ood = values.pop("file"), BOOLEANS[values.pop("is_ood")]
        values = {name: value or None for name, value in values.items()}
        for name in (*DECISION[2:5], *self.columns.scorers):
            values[name] = None if values[name] is None else float(values[name])
        return self.columns.row(values | {"file": file, "is_ood": is_ood})

    def records(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield the records that are whole, the header among them, also those with line ends in a name."""
        record = b""
        for line in source:
            record += line
            if record.endswith(b"\n") and record.count(b'"') % 2 == 0:
                yield record
                record = b""


@dataclass(frozen=True)
class JSONLines:
    """A JSON object a line; null where there is no value."""

    columns: Columns
    header: ClassVar[bytes] = b""

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return whole records."""
        return b"".join(map(_json_record, map(self.columns.values, rows)))

    def decode(self, record: bytes) -> Row:
        """Return the row of a record.

        Raises:
            ValueError: It is none.
            KeyError, TypeError: It has other columns, or is no object.
        """
        return self.columns.row(json.loads(record))

    def records(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield the records that are whole."""
        return (line for line in source if line.endswith(b"\n"))


RowEncoder: TypeAlias = CSV | JSONLines


def row_encoder(format: Format, columns: Columns) -> RowEncoder:
    """Return the encoder of a format for programs."""
    return CSV(columns) if format is Format.CSV else JSONLines(columns)


def _csv_record(values: Iterable[Any]) -> bytes:
    cells = (str(value).lower() if isinstance(value, bool) else value for value in values)
    return to_record(cells).encode("utf-8", "surrogateescape")


def _json_record(values: dict[str, Any]) -> bytes:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is no UTF-8
        return json.dumps(values, allow_nan=False).encode() + b"\n"

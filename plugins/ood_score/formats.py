"""Rows as CSV and JSON Lines, and back.

Numbers are written so that reading gives the same bits. A file name is written as the bytes that it has: in CSV as they
are, so that other programs find the file; in JSON Lines as Python escapes those that are no UTF-8.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, BinaryIO

from ood_score.rows import DECISION, Columns, Row

BOOLEANS = {"true": True, "false": False, "": None}


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    JSONL = "jsonl"
    TABLE = "table"


SUFFIXES = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}


class RowEncoder(ABC):
    """Rows as bytes, one record after another."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    @property
    @abstractmethod
    def header(self) -> bytes:
        """The record before the first row."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return whole records."""

    @abstractmethod
    def decode(self, record: bytes) -> Row:
        """Return the row of a record.

        Raises:
            ValueError: It is none, KeyError: it lacks a column.
        """

    @abstractmethod
    def records(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield the records that are whole; the header is one."""


class CSV(RowEncoder):
    """Comma-separated values (RFC 4180) with a header; nothing where there is no value."""

    @property
    def header(self) -> bytes:
        """The names of the columns."""
        return _csv([self.columns.names])

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return whole records."""
        return _csv([_cell(value) for value in self.columns.values(row).values()] for row in rows)

    def decode(self, record: bytes) -> Row:
        """Return the row of a record."""
        cells = next(csv.reader([record.decode("utf-8", "surrogateescape")], strict=True))
        values: dict[str, Any] = dict(zip(self.columns.names, cells, strict=True))
        file = values.pop("file")
        values = {name: value or None for name, value in values.items()}
        for name in (*DECISION[2:5], *self.columns.scorers):
            values[name] = None if values[name] is None else float(values[name])
        return self.columns.row(values | {"file": file, "is_ood": BOOLEANS[values["is_ood"] or ""]})

    def records(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield the records that are whole, also those with line ends in a name."""
        record = b""
        for line in source:
            record += line
            if record.endswith(b"\n") and record.count(b'"') % 2 == 0:
                yield record
                record = b""


class JSONLines(RowEncoder):
    """A JSON object a line; null where there is no value."""

    header = b""

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return whole records."""
        return b"".join(map(_json, map(self.columns.values, rows)))

    def decode(self, record: bytes) -> Row:
        """Return the row of a record."""
        return self.columns.row(json.loads(record))

    def records(self, source: BinaryIO) -> Iterator[bytes]:
        """Yield the records that are whole."""
        return (line for line in source if line.endswith(b"\n"))


def row_encoder(format: Format, columns: Columns) -> RowEncoder:
    """Return the encoder of a format for programs."""
    return CSV(columns) if format is Format.CSV else JSONLines(columns)


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    return "".join(map(_line, rows)).encode("utf-8", "surrogateescape")


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # with "\n" it would leave a "\r" in a cell unquoted
    return text.getvalue()[:-2] + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)  # all digits, as JSON has them


def _json(values: dict[str, Any]) -> bytes:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is no UTF-8
        return json.dumps(values, allow_nan=False).encode() + b"\n"

"""The content of a run's reports as files of its folder.

    report.json            everything but the content of the other files
    scores.safetensors     the scores of every row and the points of the maps, each array once
    accepted.csv           the accepted pairs
    classes.csv            the OOD classes

report.json is written last, so that a folder that has one is whole. It holds a checksum of each other file and, as its
last entry, one of itself. Nothing is pickled.
"""

from __future__ import annotations

import csv
import hashlib
import json
import types
import typing
from dataclasses import Field, fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from ood_core.errors import OODError, one_line
from ood_core.escapes import from_cell
from ood_core.records.report_data import KEY, AcceptedPair, ClassRow, ReportData
from ood_core.report.formats.csv_tables import of_records
from ood_core.runtime.run_files import DOCUMENT
from ood_core.store.files import file_checksum, replacing, signed, verified, write_text

FORMAT = 4
"""Grows when a field changes its meaning, not when one is added. Until 3 there were no checksums."""

ARRAYS = "scores.safetensors"
TABLES: dict[str, type] = {"accepted": AcceptedPair, "classes": ClassRow}
"""Fields that are CSV files of their own: a hundred classes make a hundred thousand pairs."""

FILES = (DOCUMENT, ARRAYS, *(f"{name}.csv" for name in TABLES))

Arrays = dict[str, NDArray[Any]]


def save(report: ReportData, folder: Path) -> None:
    """Write the files; the pictures are in the folder already."""
    arrays: Arrays = {}
    document = {"format": FORMAT} | {
        name: _encode(getattr(report, name), arrays) for name in _hints(ReportData) if name not in TABLES
    }
    for name, cls in TABLES.items():
        write_text(folder / f"{name}.csv", of_records(getattr(report, name), cls))
    with replacing(folder / ARRAYS) as temporary:
        temporary.write_bytes(save_tensors(dict(sorted(arrays.items()))))
    document["files"] = {name: file_checksum(folder / name) for name in FILES if name != DOCUMENT}
    write_text(folder / DOCUMENT, json.dumps(signed(document), indent=1, allow_nan=False) + "\n")


def load(folder: Path) -> ReportData:
    """Return the content of a run's reports.

    Raises:
        OODError: There is no run, or its files are damaged or of another format.
    """
    if not (folder / DOCUMENT).is_file():
        raise OODError(f"{folder}: no run lies there: it has no {DOCUMENT}; `ood-run RECIPE --out {folder}` makes one")
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise OODError(f"{folder}: {DOCUMENT} has format {document['format']}, not {FORMAT}; run the recipe again")
        for name, noted in verified(document)["files"].items():
            if file_checksum(folder / name) != noted:
                raise ValueError(f"{name} was changed since it was written")
        arrays = load_file(folder / ARRAYS)
        values: dict[str, Any] = {name: _read_table(folder / f"{name}.csv", cls) for name, cls in TABLES.items()}
        for name, hint in _hints(ReportData).items():
            if name not in TABLES:
                values[name] = _decode(hint, document[name], arrays)
        report = ReportData(**values)
        if len(report.scores) != len(report.rows):
            raise ValueError(f"{len(report.scores)} pairs of scores for {len(report.rows)} rows")
        return report
    except (OSError, ValueError, TypeError, LookupError, AttributeError, SafetensorError) as error:
        reason = one_line(error)
        raise OODError(
            f"{folder}: what the run filed is damaged ({type(error).__name__}: {reason}); run the recipe again"
        ) from error


def _encode(value: Any, arrays: Arrays) -> Any:
    """Return plain values: an infinite number as a word, which JSON has no number for, an array as its name."""
    if isinstance(value, np.ndarray):  # by content, so that equal ones are stored once
        content = np.ascontiguousarray(value)
        name = hashlib.sha256(f"{content.dtype}{content.shape}".encode() + content.tobytes()).hexdigest()[:16]
        arrays[name] = content
        return name
    if is_dataclass(value):
        return {_key(field): _encode(getattr(value, field.name), arrays) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): _encode(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item, arrays) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _decode(hint: Any, value: Any, arrays: Arrays) -> Any:
    """Return the value of an annotated type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is np.ndarray:
        return arrays[value]
    if isinstance(hint, type) and is_dataclass(hint):
        hints = _hints(hint)
        there = [of for of in fields(hint) if _key(of) in value]  # a field with a default may be newer than the file
        return hint(**{of.name: _decode(hints[of.name], value[_key(of)], arrays) for of in there})
    if origin is tuple:
        hints_of = [inner[0]] * len(value) if inner[1:] == (...,) else inner
        return tuple(_decode(of, item, arrays) for of, item in zip(hints_of, value, strict=True))
    if origin is dict:
        return {key: _decode(inner[1], item, arrays) for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _decode(inner[0], value, arrays)
    return hint(value) if hint in (float, int, str, bool) else value


def _key(of: Field[Any]) -> str:
    """Return the name of a field in report.json."""
    return str(of.metadata.get(KEY, of.name))


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read_table(path: Path, cls: type) -> tuple[Any, ...]:
    hints = _hints(cls)
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            cls(**{name: hints[name](from_cell(text)) for name, text in line.items()}) for line in csv.DictReader(file)
        )

"""What a run found, in its folder.

    report.json            everything but what lies in the other files
    scores.safetensors     the scores of every row and the points of the maps; what several share is there once
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
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from ood_core.errors import OODError
from ood_core.records.findings import AcceptedPair, ClassRow, Findings
from ood_core.report.formats.csv_tables import sheet
from ood_core.store import checksums
from ood_core.store.store import replacing, write_text

FORMAT = 4
"""Grows when a field changes its meaning, not when one is added. Until 3 there were no checksums."""

DOCUMENT = "report.json"
ARRAYS = "scores.safetensors"
TABLES: dict[str, type] = {"accepted": AcceptedPair, "classes": ClassRow}
"""Fields of the findings that are CSV files of their own: a hundred classes make a hundred thousand pairs."""

FILES = (DOCUMENT, ARRAYS, *(f"{name}.csv" for name in TABLES))

Arrays = dict[str, NDArray[Any]]


def save(findings: Findings, folder: Path) -> None:
    """File what was found; the pictures it names are in the folder already."""
    arrays: Arrays = {}
    document = {"format": FORMAT} | {
        field.name: _encode(getattr(findings, field.name), arrays)
        for field in fields(findings)
        if field.name not in TABLES
    }
    for name, cls in TABLES.items():
        write_text(folder / f"{name}.csv", sheet(getattr(findings, name), cls))
    with replacing(folder / ARRAYS) as temporary:
        temporary.write_bytes(save_tensors(dict(sorted(arrays.items()))))
    document["files"] = {name: checksums.of_file(folder / name) for name in FILES if name != DOCUMENT}
    write_text(folder / DOCUMENT, json.dumps(checksums.signed(document), indent=1, allow_nan=False) + "\n")


def load(folder: Path) -> Findings:
    """Return what a run filed in its folder.

    Raises:
        OODError: There is no run, or what is there is damaged or of another format.
    """
    if not (folder / DOCUMENT).is_file():
        raise OODError(f"{folder}: no run lies there: it has no {DOCUMENT}; `ood-run RECIPE --out {folder}` makes one")
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise OODError(f"{folder}: {DOCUMENT} has format {document['format']}, not {FORMAT}; run the recipe again")
        for name, noted in checksums.verified(document)["files"].items():
            if checksums.of_file(folder / name) != noted:
                raise ValueError(f"{name} was changed since it was written")
        arrays = load_file(folder / ARRAYS)
        read: dict[str, Any] = {name: _read_table(folder / f"{name}.csv", cls) for name, cls in TABLES.items()}
        rest = {
            name: _decode(hint, document[name], arrays) for name, hint in _hints(Findings).items() if name not in TABLES
        }
        found = Findings(**read, **rest)
        if len(found.scores) != len(found.rows):
            raise ValueError(f"{len(found.scores)} pairs of scores for {len(found.rows)} rows")
        return found
    except (OSError, ValueError, TypeError, LookupError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise OODError(
            f"{folder}: what the run filed is damaged ({type(error).__name__}: {reason}); run the recipe again"
        ) from error


# ------------------------------------------------------------------------------------------------------- writing


def _encode(value: Any, arrays: Arrays) -> Any:
    """Return plain values; what is not finite, and so no JSON, is written as a word, arrays as their names."""
    if isinstance(value, np.ndarray):
        return _named(value, arrays)
    if is_dataclass(value):
        return {field.name: _encode(getattr(value, field.name), arrays) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): _encode(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item, arrays) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _named(array: NDArray[Any], arrays: Arrays) -> str:
    """Return the name of an array, which is made of its content, so that equal ones are filed once."""
    content = np.ascontiguousarray(array)
    name = hashlib.sha256(f"{content.dtype}{content.shape}".encode() + content.tobytes()).hexdigest()[:16]
    arrays[name] = content
    return name


# ------------------------------------------------------------------------------------------------------- reading


def _decode(hint: Any, value: Any, arrays: Arrays) -> Any:
    """Return the value as its annotation says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is np.ndarray:
        return arrays[value]
    if is_dataclass(hint):
        return _decode_fields(hint, value, arrays)
    if origin is tuple:
        return tuple(_decode(of, item, arrays) for of, item in _elements(inner, value))
    if origin is dict:
        return {key: _decode(inner[1], item, arrays) for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _decode(inner[0], value, arrays)
    return hint(value) if hint in (float, int, str, bool) else value


def _decode_fields(cls: Any, value: dict[str, Any], arrays: Arrays) -> Any:
    hints = _hints(cls)
    return cls(**{field.name: _decode(hints[field.name], value[field.name], arrays) for field in fields(cls)})


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _elements(inner: tuple[Any, ...], value: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return the elements of a tuple with the annotation of each."""
    if inner[1:] == (...,):
        return [(inner[0], item) for item in value]
    return list(zip(inner, value, strict=True))


def _read_table(path: Path, cls: type) -> tuple[Any, ...]:
    hints = _hints(cls)
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(cls(**{name: hints[name](text) for name, text in line.items()}) for line in csv.DictReader(file))

"""The file of `--out`: after an interruption the same command continues behind its last whole row.

`results.csv.about.json` beside `results.csv` records what made it, so that no other command appends to it. Rows are
only added; a row cut short by an interruption is removed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedRandom
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ood_core.detector.manifest import FILE as MANIFEST
from ood_core.errors import OODError
from ood_core.escapes import printable
from ood_core.store.files import require_writable, write_text
from ood_score.formats import Format, RowEncoder
from ood_score.predict_files import Request
from ood_score.rows import Row, ScoreCounts

ABOUT, LOCK = ".about.json", ".lock"


class ResumableTable:
    """A file of rows, open for reading and appending."""

    def __init__(self, path: Path, file: BufferedRandom, encoder: RowEncoder) -> None:
        self.path, self.file, self.encoder = path, file, encoder

    def skip_written(self, paths: Iterator[str], counts: ScoreCounts) -> Iterator[str]:
        """Return the paths without a row, and count the rows that are there; a row cut short is removed.

        Raises:
            OODError: A row is damaged, or of another image than the one named now.
        """
        self.file.seek(0)
        end = 0
        for number, record in enumerate(self.encoder.records(self.file), 0 if self.encoder.header else 1):
            end += len(record)
            if number:
                counts.add([self._checked_row(record, next(paths, None), number)])
            elif record != self.encoder.header:
                raise OODError(f"{self.path}: has other columns than it was begun with; delete it to begin again")
        self.file.seek(end)
        self.file.truncate()
        if not end:
            self._append(self.encoder.header)
        first = next(paths, None)
        return iter(()) if first is None else chain([first], paths)

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; after it they outlive the process.

        Raises:
            OODError: The disk is full.
        """
        self._append(self.encoder.encode(rows))

    def _append(self, records: bytes) -> None:
        end = self.file.tell()
        try:
            self.file.write(records)
            self.file.flush()
        except OSError as error:
            os.ftruncate(self.file.fileno(), end)  # a row that was cut short
            self.file.raw.close()  # closing the buffer as well would write it again, and raise in place of this error
            raise OODError(f"{self.path}: cannot be written: {error.strerror}; the same command goes on") from error

    def _checked_row(self, record: bytes, named: str | None, number: int) -> Row:
        try:
            row = self.encoder.decode(record)
        except (ValueError, KeyError, TypeError, csv.Error):
            raise OODError(f"{self.path}: its row {number} is damaged; delete the file to begin again") from None
        if row.file != named:
            now = "there is no such image now" if named is None else f"it would now be of '{printable(named)}'"
            found = f"its row {number} is of '{printable(row.file)}', and {now}"
            raise OODError(f"{self.path}: {found}; name the same images to go on, or another file")
        return row


def describe(request: Request, folder: Path, format: Format) -> dict[str, Any]:
    """Return what determines the rows, by the names that users know."""
    digest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["digest"]
    return {
        "detector": f"{request.state.origin.name} ({digest[:12]})",
        "scorer": request.rule.scorer,
        "tpr": request.rule.tpr,
        "per-class": request.rule.per_class,
        "format": format,
        "columns": list(request.columns.names),
    }


@contextmanager
def open_resumable(path: Path, encoder: RowEncoder, about: Mapping[str, Any]) -> Iterator[ResumableTable]:
    """Open the table, new or as far as it was written, for this process alone; `about` is the result of `describe`.

    Raises:
        OODError: It cannot be written, another process is writing it, or something else made it.
    """
    require_writable(path.parent, "--out")
    lock = FileLock(path.with_name(f".{path.name}{LOCK}"), timeout=0)
    try:
        if path.exists() and not path.is_file():
            raise OODError(f"--out {path}: is not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OODError(f"{path}: another process is writing it; name another file") from None
    except OSError as error:
        raise OODError(f"--out {path}: cannot be written: {error.strerror}") from error
    try:
        beside = path.with_name(path.name + ABOUT)
        if path.is_file() and path.stat().st_size:
            try:
                was = json.loads(beside.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                reason = f"is there, and no {beside.name} beside it says what made it"
                raise OODError(f"{path}: {reason}; name another file") from None
            if differing := [
                f"{key} was {was.get(key)}, now {now}" for key, now in about.items() if was.get(key) != now
            ]:
                raise OODError(f"{path}: was begun otherwise: {'; '.join(differing)}; name another file, or delete it")
        else:
            write_text(beside, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        try:
            path.touch()
            file = path.open("r+b")
        except OSError as error:
            raise OODError(f"--out {path}: cannot be written: {error.strerror}") from error
        with file:
            yield ResumableTable(path, file, encoder)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while the lock is held: no other process can have it
        lock.release()

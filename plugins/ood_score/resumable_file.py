"""The file of `--out`: it survives whatever interrupts it, and the same command goes on behind its last whole row.

Beside `results.csv` lies `results.csv.about.json`, which says what made it, so that nothing else goes on with it. The
table itself holds rows alone, and any program can read it. Rows are only ever added; a row that was not written to its
end is cut off.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedRandom
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ood_core.detector.manifest import FILE as MANIFEST
from ood_core.errors import OODError
from ood_core.store.store import require_writable, write_text
from ood_score.counts import Tally
from ood_score.formats import Format, Lines
from ood_score.predict_files import Request
from ood_score.rows import Row
from ood_score.table import printable

ABOUT, LOCK = ".about.json", ".lock"


class Kept:
    """A file of rows that is open for more.

    Args:
        path: The table.
        file: Open for reading and writing.
        lines: How rows are written.
    """

    def __init__(self, path: Path, file: BufferedRandom, lines: Lines) -> None:
        self.path, self.file, self.lines = path, file, lines

    def remaining(self, paths: Iterator[str], tally: Tally) -> Iterator[str]:
        """Return the paths that have no row yet, and prepare the file for their rows; those that are there are counted.

        Raises:
            OODError: A row that is there is of another image than was named now, or is damaged.
        """
        self.file.seek(0)
        end = 0
        for number, record in enumerate(self.lines.records(self.file), 0 if self.lines.header else 1):
            end += len(record)
            if number:
                row = self._row(record, number)
                self._require_same(row.file, next(paths, None), number)
                tally.add([row])
            elif record != self.lines.header:
                raise OODError(f"{self.path}: has other columns than it was begun with; delete it to begin again")
        self.file.seek(end)
        self.file.truncate()
        if not end:
            self._append(self.lines.header)
        first = next(paths, None)
        return iter(()) if first is None else chain([first], paths)

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows; when this returns they outlive the process.

        Raises:
            OODError: The disk is full.
        """
        self._append(self.lines.encode(rows))

    def _append(self, records: bytes) -> None:
        try:
            self.file.write(records)
            self.file.flush()
        except OSError as error:
            self.file.raw.close()  # closing the buffer as well would write it again, and raise in place of this error
            raise OODError(f"{self.path}: cannot be written: {error.strerror}; the same command goes on") from error

    def _row(self, record: bytes, number: int) -> Row:
        try:
            return self.lines.decode(record)
        except (ValueError, KeyError, TypeError, csv.Error):
            raise OODError(f"{self.path}: its row {number} is damaged; delete the file to begin again") from None

    def _require_same(self, there: str, named: str | None, number: int) -> None:
        if there != named:
            now = "there is no such image now" if named is None else f"it would now be of '{printable(named)}'"
            raise OODError(
                f"{self.path}: its row {number} is of '{printable(there)}', and {now}; name the same images to go on, "
                "or another file"
            )


def about(request: Request, folder: Path, format: Format) -> dict[str, Any]:
    """Return what makes rows what they are, by the names that users know."""
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
def kept(path: Path, lines: Lines, about: Mapping[str, Any]) -> Iterator[Kept]:
    """Open the file, new or as far as it was written, for this process alone.

    Args:
        path: The table.
        lines: How rows are written.
        about: What makes its rows what they are, by the names that users know.

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
        with _opened(path, about) as file:
            yield Kept(path, file, lines)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody else can have it
        lock.release()


def _opened(path: Path, about: Mapping[str, Any]) -> BufferedRandom:
    """Open the file, which is there now and was begun as this command would."""
    beside = path.with_name(path.name + ABOUT)
    if path.is_file() and path.stat().st_size:
        _require_alike(path, beside, about)
    else:
        write_text(beside, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    try:
        path.touch()
        return path.open("r+b")
    except OSError as error:
        raise OODError(f"--out {path}: cannot be written: {error.strerror}") from error


def _require_alike(path: Path, beside: Path, about: Mapping[str, Any]) -> None:
    try:
        was = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OODError(
            f"{path}: is there, and no {beside.name} beside it says what made it; name another file"
        ) from None
    differing = [f"{name} was {was.get(name)}, now {about[name]}" for name in about if was.get(name) != about[name]]
    if differing:
        raise OODError(f"{path}: was begun otherwise: {'; '.join(differing)}; name another file, or delete it")

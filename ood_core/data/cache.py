"""What is kept on this machine to save work: digests of files, and decoded pictures of small sets.

Nothing here decides a result. Whatever is missing, broken or locked is computed again, and OOD_CACHE=off does without.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib import metadata
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = "OOD_CACHE"
"""Environment variable: where the cache lies; "off" for none. Else beneath XDG_CACHE_HOME, or ~/.cache."""

LARGEST = 2 * 2**30
"""Bytes of decoded pictures of one set; larger sets are decoded again."""

KEPT = 8 * 2**30
"""Bytes of decoded pictures of all sets; beyond that those that were not used for longest go."""

SPARE = 2 * 2**30
"""Bytes that stay free on the disk."""

RACY_SECONDS = 2.0
"""A file that changed so shortly before it was read might change again under the same time."""

DECODERS = ("pillow", "simplejpeg")
"""What pixels depend on besides the files, and besides:"""

CONVERSION = 1
"""Counts up whenever the core makes other pixels of the same file."""

PATIENCE = 5.0
"""Seconds to wait for another process that writes digests."""

SAVED_EVERY = 5.0
"""Seconds of reading after which digests are kept, so that an interruption loses no more."""

AT_ONCE = 500
"""Rows of a statement to sqlite."""


_CHECK = 4  # bytes of a checksum


def folder() -> Path | None:
    """Return where the cache lies, None where there is none."""
    chosen = os.environ.get(FOLDER)
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ood-framework"


# ------------------------------------------------------------------------------------------------ digests of files


def digests(paths: Iterable[Path], read: Callable[[Path], str]) -> dict[Path, str]:
    """Return the digest of each file; only those that changed since they were last read are read.

    A file is what it was if place, size, both times and inode are the same. The time of the last change of the inode is
    among them because archives are unpacked with times of their own, over files of the same size.
    """
    marks = {path: _mark(path) for path in paths}  # before reading: a file that changes meanwhile is not the marked one
    found = _known(marks)
    fresh: dict[Path, str] = {}
    saved = time.monotonic()
    for path in marks.keys() - found.keys():
        fresh[path] = read(path)
        if time.monotonic() - saved > SAVED_EVERY:
            _remember(fresh, marks)
            found, fresh, saved = found | fresh, {}, time.monotonic()
    _remember(fresh, marks)
    return found | fresh


def _mark(path: Path) -> str | None:
    """Return by what a file is known again; None where it is not there, or changed just now."""
    with suppress(OSError):
        known = path.stat()
        if time.time() - max(known.st_mtime, known.st_ctime) > RACY_SECONDS:
            return f"{known.st_size}/{known.st_mtime_ns}/{known.st_ctime_ns}/{known.st_ino}"
    return None


def _name(path: Path) -> str:
    """Return the whole path as text that sqlite takes, also of names that are no UTF-8."""
    return str(path.absolute()).encode("utf-8", "backslashreplace").decode()


def _known(marks: Mapping[Path, str | None]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    paths = {_name(path): path for path, mark in marks.items() if mark is not None}
    names = list(paths)
    with _database() as database:
        for start in range(0, len(names) if database is not None else 0, AT_ONCE):
            some = names[start : start + AT_ONCE]
            assert database is not None, "the loop is empty without one"
            query = f"SELECT path, mark, digest FROM digests WHERE path IN ({','.join('?' * len(some))})"
            rows = database.execute(query, some)
            found |= {paths[name]: digest for name, mark, digest in rows if mark == marks[paths[name]]}
    return found


def _remember(fresh: Mapping[Path, str], marks: Mapping[Path, str | None]) -> None:
    rows = [(_name(path), marks[path], digest) for path, digest in fresh.items() if marks[path] is not None]
    with _database() as database:
        if database is not None and rows:
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
            database.commit()


@contextmanager
def _database() -> Iterator[sqlite3.Connection | None]:
    """Yield the table of digests, None where it cannot be used; trouble on the way ends quietly."""
    root = folder()
    if root is None:
        yield None
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        opened = sqlite3.connect(root / "digests.sqlite", timeout=PATIENCE)
        opened.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, mark TEXT, digest TEXT)")
    except (OSError, sqlite3.Error):
        yield None
        return
    with closing(opened), suppress(sqlite3.Error):
        yield opened


# ------------------------------------------------------------------------------------------------ decoded pictures


class PixelCache:
    """Decoded pictures of one set, all of one size, in a file that processes share.

    Any process fills any row at any time. Behind the pixels of a row lies a checksum; a row without the right one
    counts as absent, so neither a killed process nor a power cut leaves a wrong picture. The file is read and written
    by calls and not mapped into memory: through a map, a disk that has filled up would kill the process. It is opened
    anew in a process that is handed the object.
    """

    def __init__(self, file: Path, rows: int, shape: tuple[int, ...]) -> None:
        self.file, self.rows, self.shape = file, rows, shape
        self._bytes = int(np.prod(shape))
        self._open: FileIO | None = None

    @classmethod
    def of(cls, fingerprint: str, rows: int, shape: tuple[int, ...]) -> PixelCache | None:
        """Return the cache of a set's pictures; None where there is no room for it, or no cache at all."""
        root, size = folder(), rows * (int(np.prod(shape)) + _CHECK)
        if root is None or size > LARGEST:
            return None
        decoders = [metadata.version(name) for name in DECODERS]
        name = hashlib.sha256(repr((fingerprint, rows, shape, decoders, CONVERSION)).encode()).hexdigest()
        file = root / "pixels" / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_file() or file.stat().st_size != size:
                _make_room(file.parent, size)
                if shutil.disk_usage(file.parent).free < size + SPARE:
                    return None
                _create(file, size)
            os.utime(file)
        except OSError:
            return None
        return cls(file, rows, shape)

    def get(self, row: int) -> Tensor | None:
        """Return a picture, uint8 [3, H, W]; None where it is not there."""
        record = np.empty(self._bytes + _CHECK, np.uint8)
        try:
            if os.preadv(self._descriptor(), [record.data], row * record.nbytes) < record.nbytes:
                return None
        except OSError:
            return None
        pixels, check = record[: self._bytes], record[self._bytes :]
        return torch.from_numpy(pixels.reshape(self.shape)) if check.tobytes() == _check(pixels, row) else None

    def put(self, row: int, picture: Tensor) -> bool:
        """Keep a picture, and return whether there was room; one of another size is not kept."""
        if tuple(picture.shape) != self.shape:
            return False
        pixels = np.ascontiguousarray(picture.numpy()).reshape(-1)
        record = pixels.tobytes() + _check(pixels, row)
        try:
            return os.pwrite(self._descriptor(), record, row * len(record)) == len(record)
        except OSError:
            return False

    def _descriptor(self) -> int:
        if self._open is None:
            self._open = FileIO(self.file, "r+")
        return self._open.fileno()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


def _check(pixels: NDArray[np.uint8], row: int) -> bytes:
    """Return a checksum over a picture and its place that is never 0, which means absent."""
    return (zlib.crc32(pixels.data, row) or 1).to_bytes(_CHECK, "little")


def _create(file: Path, size: int) -> None:
    """Make a file of zeros that takes up no room yet, so that others see it whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as opened:
        opened.truncate(size)
    temporary.replace(file)


def _make_room(root: Path, needed: int) -> None:
    """Delete what was not used for longest; a process that still has it open keeps it until it ends."""
    files = sorted((path for path in root.iterdir() if path.is_file()), key=lambda path: path.stat().st_mtime)
    total = needed + sum(path.stat().st_blocks * 512 for path in files)
    for path in files:
        if total <= KEPT:
            return
        total -= path.stat().st_blocks * 512
        path.unlink(missing_ok=True)

"""The cache on disk: digests of files, and decoded pictures of small sets.

Nothing here decides a result. Whatever is missing, broken or locked is computed again; OOD_CACHE=off disables it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from importlib import metadata
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.escapes import printable
from ood_core.runtime.leftovers import remove_leftovers, temporary_path

FOLDER = "OOD_CACHE"  # environment variable: the folder, or "off"; default: below XDG_CACHE_HOME, or ~/.cache
LARGEST = 2 * 2**30  # bytes of decoded pictures of one set; larger sets are not cached
CAPACITY = 8 * 2**30  # bytes of decoded pictures of all sets; the least recently used sets are evicted
SPARE = 2 * 2**30  # bytes left free on the disk
RACY_SECONDS = 2.0  # a file that changed so shortly before it was read might change again under the same time
DECODERS = ("pillow", "simplejpeg")  # distributions whose versions decide pixels, beside the files
CONVERSION = 1  # version of the core's conversion to RGB
PATIENCE = 5.0  # seconds to wait for another process that is writing digests
SAVED_EVERY = 5.0  # seconds between writes of new digests, which is what an interruption loses at most
AT_ONCE = 500  # rows of a statement to sqlite
_CHECK = 4  # bytes of a checksum


def folder() -> Path | None:
    """Return the folder of the cache, None if it is disabled."""
    chosen = os.environ.get(FOLDER)
    if chosen:
        return None if chosen == "off" else Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ood-framework"


def digests(paths: Iterable[Path], read: Callable[[Path], str]) -> dict[Path, str]:
    """Return the digest of each file; only files that changed since their last digest are read.

    A file is unchanged if path, size, both times and inode are the same. The time of the last change of the inode is
    among them because archives are unpacked with times of their own, over files of the same size.
    """
    marks = {path: _mark(path) for path in paths}  # before reading: a file that changes meanwhile is not the marked one
    found = _load_digests(marks)
    fresh: dict[Path, str] = {}
    saved = time.monotonic()
    for path in marks.keys() - found.keys():
        fresh[path] = read(path)
        if time.monotonic() - saved > SAVED_EVERY:
            _save_digests(fresh, marks)
            found, fresh, saved = found | fresh, {}, time.monotonic()
    _save_digests(fresh, marks)
    return found | fresh


def _mark(path: Path) -> str | None:
    """Return size, times and inode of a file; None if it does not exist, or was changed just now."""
    with suppress(OSError):
        of = path.stat()
        if time.time() - max(of.st_mtime, of.st_ctime) > RACY_SECONDS:
            return f"{of.st_size}/{of.st_mtime_ns}/{of.st_ctime_ns}/{of.st_ino}"
    return None


def _name(path: Path) -> str:
    """Return the absolute path as text that sqlite accepts, also of names that are not UTF-8."""
    return printable(str(path.absolute()))


def _load_digests(marks: Mapping[Path, str | None]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    paths = {_name(path): path for path, mark in marks.items() if mark is not None}
    with _database() as database:
        if database is not None:
            for start in range(0, len(paths), AT_ONCE):
                names = list(paths)[start : start + AT_ONCE]
                query = f"SELECT path, mark, digest FROM digests WHERE path IN ({','.join('?' * len(names))})"
                rows = database.execute(query, names)
                found |= {paths[name]: digest for name, mark, digest in rows if mark == marks[paths[name]]}
    return found


def _save_digests(fresh: Mapping[Path, str], marks: Mapping[Path, str | None]) -> None:
    rows = [(_name(path), marks[path], digest) for path, digest in fresh.items() if marks[path] is not None]
    with _database() as database:
        if database is not None and rows:
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
            database.commit()


@contextmanager
def _database() -> Iterator[sqlite3.Connection | None]:
    """Yield the table of digests, None if it cannot be used; errors of sqlite are suppressed."""
    opened = None
    with suppress(OSError, sqlite3.Error):
        if (root := folder()) is not None:
            root.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(root / "digests.sqlite", timeout=PATIENCE)
            connection.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, mark TEXT, digest TEXT)")
            opened = connection
    with closing(opened) if opened is not None else nullcontext(), suppress(sqlite3.Error):
        yield opened


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
        """Return the cache of a set's pictures; None if there is no room for it, or it is disabled."""
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
                remove_leftovers(file.parent)
                temporary = temporary_path(file)
                with temporary.open("wb") as opened:
                    opened.truncate(size)  # zeros that take up no room yet
                temporary.replace(file)  # so that others see the file whole or not at all
            os.utime(file)
        except OSError:
            return None
        return cls(file, rows, shape)

    def get(self, row: int) -> Tensor | None:
        """Return a picture, uint8 [3, H, W]; None if it is not cached."""
        record = np.empty(self._bytes + _CHECK, np.uint8)
        with suppress(OSError):
            read = os.preadv(self._descriptor(), [record.data], row * record.nbytes)
            pixels, check = record[: self._bytes], record[self._bytes :]
            if read == record.nbytes and check.tobytes() == _check(pixels, row):
                return torch.from_numpy(pixels.reshape(self.shape))
        return None

    def put(self, row: int, picture: Tensor) -> bool:
        """Cache a picture and return whether there was room; pictures of another size are not cached."""
        if tuple(picture.shape) != self.shape:
            return False
        pixels = np.ascontiguousarray(picture.numpy()).reshape(-1)
        record = pixels.tobytes() + _check(pixels, row)
        with suppress(OSError):
            return os.pwrite(self._descriptor(), record, row * len(record)) == len(record)
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


def _make_room(root: Path, needed: int) -> None:
    """Delete the least recently used files; processes that have one open can still read it."""
    files = sorted((path for path in root.iterdir() if path.is_file()), key=lambda path: path.stat().st_mtime)
    total = needed + sum(path.stat().st_blocks * 512 for path in files)
    for path in files:
        if total <= CAPACITY:
            return
        total -= path.stat().st_blocks * 512
        path.unlink(missing_ok=True)

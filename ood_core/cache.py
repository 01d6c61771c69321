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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
"""What pixels depend on besides the files."""

PATIENCE = 5.0
"""Seconds to wait for another process that writes digests."""

AT_ONCE = 500
"""Rows of a statement to sqlite."""


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


def known_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the digests of files that were read before and did not change since: same place, size, time and inode."""
    marks = {str(path.absolute()): (path, _mark(path)) for path in paths}
    found: dict[Path, str] = {}
    with _database() as database:
        names = list(marks)
        for start in range(0, len(names) if database is not None else 0, AT_ONCE):
            some = names[start : start + AT_ONCE]
            assert database is not None, "the loop is empty without one"
            query = f"SELECT path, mark, digest FROM digests WHERE path IN ({','.join('?' * len(some))})"
            for name, mark, digest in database.execute(query, some):
                path, now = marks[name]
                if mark == now:
                    found[path] = digest
    return found


def remember_digests(digests: Mapping[Path, str]) -> None:
    """Keep the digests of files, but for those that changed just now."""
    now = time.time()
    rows = []
    for path, digest in digests.items():
        with suppress(OSError):
            if now - path.stat().st_mtime > RACY_SECONDS:
                rows.append((str(path.absolute()), _mark(path), digest))
    with _database() as database:
        if database is not None and rows:
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
            database.commit()


def _mark(path: Path) -> str:
    with suppress(OSError):
        known = path.stat()
        return f"{known.st_size}/{known.st_mtime_ns}/{known.st_ino}"
    return ""


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
    """Decoded pictures of one set, all of one size, in a memory-mapped file that processes share.

    Any process fills any row at any time. Beside the pixels lies a checksum for each row, written after them; a row
    without the right one counts as absent, so neither a killed process nor a power cut leaves a wrong picture. The file
    is found by the set's fingerprint, and opened anew in a process that is handed the object.
    """

    def __init__(self, file: Path, rows: int, shape: tuple[int, ...]) -> None:
        self.file, self.rows, self.shape = file, rows, shape
        self._open: tuple[np.memmap[Any, Any], np.memmap[Any, Any]] | None = None

    @classmethod
    def of(cls, fingerprint: str, rows: int, shape: tuple[int, ...]) -> PixelCache | None:
        """Return the cache of a set's pictures; None where there is no room for it, or no cache at all."""
        root, size = folder(), rows * int(np.prod(shape))
        if root is None or size > LARGEST:
            return None
        decoders = [metadata.version(name) for name in DECODERS]
        name = hashlib.sha256(repr((fingerprint, rows, shape, decoders)).encode()).hexdigest()
        file = root / "pixels" / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_file():
                _make_room(file.parent, size)
                if shutil.disk_usage(file.parent).free < size + SPARE:
                    return None
                _create(file, size + 4 * rows)
            os.utime(file)
        except OSError:
            return None
        return cls(file, rows, shape)

    def get(self, row: int) -> Tensor | None:
        """Return a picture, uint8 [3, H, W]; None where it is not there."""
        pixels, checks = self._maps()
        if not checks[row]:
            return None
        picture = np.array(pixels[row])
        return torch.from_numpy(picture) if checks[row] == _check(picture) else None

    def put(self, row: int, picture: Tensor) -> None:
        """Keep a picture; one of another size is not kept."""
        if tuple(picture.shape) == self.shape:
            pixels, checks = self._maps()
            array = picture.numpy()
            pixels[row] = array
            checks[row] = _check(array)

    def _maps(self) -> tuple[np.memmap[Any, Any], np.memmap[Any, Any]]:
        if self._open is None:
            size = self.rows * int(np.prod(self.shape))
            pixels = np.memmap(self.file, np.uint8, "r+", shape=(self.rows, *self.shape))
            self._open = pixels, np.memmap(self.file, np.uint32, "r+", offset=size - size % 4 + 4, shape=(self.rows,))
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


def _check(picture: np.ndarray[Any, Any]) -> int:
    """Return a checksum that is never 0, which means absent."""
    return zlib.crc32(np.ascontiguousarray(picture).data) | 1


def _create(file: Path, size: int) -> None:
    """Make a file of zeros that takes up no room yet, so that others see it whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as opened:
        opened.truncate(size + 8)
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

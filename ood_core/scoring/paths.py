"""What a command line names - files, folders, globs, lists on stdin - to paths, lazily and in a fixed order.

Paths stay texts: `./a.png` is called so in the results because it was called so when it was named. A folder
of a million files is never a list: its names are read again for every `AT_ONCE` of them.
"""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path
from typing import BinaryIO

from ood_core.errors import OODError
from ood_core.image_files import SUFFIXES

STDIN = "-"

AT_ONCE = 20_000
"""Names of one folder that are in memory at once; a folder of more is read once for each so many."""

READ = 1 << 16
"""Bytes of a list that are read at once, at most; fewer where fewer are there."""

Pattern = tuple[str, ...]
"""A glob, part by part; `()` matches the folder it begins in."""


def named(images: Sequence[str], null: bool = False) -> Iterator[str]:
    """Yield the paths that the arguments name, in the order of the arguments; within a folder or glob sorted by path.

    A path that is there is meant as such, even if it looks like a glob. What is not there is yielded too: that it
    cannot be read is a result.

    Args:
        images: Files, folders and globs; `-` is the list of files and folders on stdin.
        null: Whether the paths on stdin end with NUL instead of a newline.
    """
    for image in images:
        if image != STDIN:
            yield from _argument(image)
            continue
        for listed in lines(sys.stdin.buffer, b"\0" if null else b"\n"):
            yield from pictures(listed) if Path(listed).is_dir() else [listed]


def require(images: Sequence[str]) -> None:
    """Refuse folders without pictures and globs that match nothing, before anything is scored.

    Raises:
        OODError: Names the first one.
    """
    for image in images:
        if image == STDIN or next(_argument(image), None) is not None:
            continue
        if Path(image).is_dir():
            raise OODError(f"{image}: the folder holds no pictures")
        raise OODError(f"{image}: matches no file")


def lines(source: BinaryIO, end: bytes) -> Iterator[str]:
    """Yield the paths of a list as they come, without waiting for more than is there; empty ones are left out."""
    rest = b""
    while read := source.read1(READ) if hasattr(source, "read1") else source.read(READ):
        *whole, rest = (rest + read).split(end)
        yield from map(os.fsdecode, filter(None, map(_bare, whole)) if end == b"\n" else filter(None, whole))
    if last := _bare(rest) if end == b"\n" else rest:
        yield os.fsdecode(last)


def _bare(line: bytes) -> bytes:
    return line.removesuffix(b"\r")


def _argument(image: str) -> Iterator[str]:
    if Path(image).is_dir():
        yield from pictures(image)
    elif has_magic(image) and not os.path.lexists(image):
        parts = image.split("/")
        first = next(place for place, part in enumerate(parts) if has_magic(part))
        folder = "/".join(parts[:first]) or ("/" if first else "")
        yield from _matching(folder, frozenset(_begun(tuple(filter(None, parts[first:])))))
    else:
        yield image


# ------------------------------------------------------------------------------------------------------------- folders


def pictures(folder: str) -> Iterator[str]:
    """Yield all pictures in a folder and beneath it, sorted by path, as `image_files.pictures_in` lists them.

    A folder that may not be read is itself yielded, so that it becomes a row with an error.
    """
    try:
        for entry in _entries(folder):
            if entry.is_dir():
                if not entry.is_symlink():
                    yield from pictures(entry.path)
            elif not entry.name.startswith(".") and Path(entry.name).suffix.lower() in SUFFIXES:
                yield entry.path
    except FileNotFoundError:  # has vanished
        return
    except OSError:
        yield folder


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield what a folder holds, sorted by name."""
    last = ""
    while True:
        with os.scandir(folder or os.curdir) as found:
            later = (entry for entry in found if entry.name > last)
            chunk = heapq.nsmallest(AT_ONCE, later, key=lambda entry: entry.name)
        yield from chunk
        if len(chunk) < AT_ONCE:
            return
        last = chunk[-1].name


# --------------------------------------------------------------------------------------------------------------- globs


def _matching(folder: str, patterns: frozenset[Pattern]) -> Iterator[str]:
    """Yield the files beneath a folder that match one of the patterns; of a folder that does, its pictures."""
    try:
        for entry in _entries(folder):
            path, is_folder = entry.path if folder else entry.name, entry.is_dir()
            linked = is_folder and entry.is_symlink()
            rest = frozenset(after for pattern in patterns for after in _after(pattern, entry.name, linked))
            if is_folder:
                yield from pictures(path) if () in rest else _matching(path, rest) if rest else ()
            elif () in rest:
                yield path
    except OSError:  # what may not be read matches nothing, as in a shell
        return


def _after(pattern: Pattern, name: str, linked: bool) -> Iterator[Pattern]:
    """Yield what is left of a pattern when its first part has matched a name; `linked` is a link to a folder."""
    if not pattern or (name.startswith(".") and not pattern[0].startswith(".")):
        return
    if pattern[0] == "**":  # any number of folders, this one among them, but none that may lead back
        if not linked:
            yield from _begun(pattern)
        if len(pattern) == 1:
            yield ()
    elif fnmatchcase(name, pattern[0]):
        yield from _begun(pattern[1:])


def _begun(pattern: Pattern) -> Iterator[Pattern]:
    """Yield a pattern, and without the `**` that it begins with, as that may stand for no folder."""
    yield pattern
    if len(pattern) > 1 and pattern[0] == "**":
        yield from _begun(pattern[1:])

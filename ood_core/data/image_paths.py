"""Paths of the images that a command line names, as files, folders, globs or a list on stdin; lazily and in order.

Paths stay strings, so that `./a.png` is also `./a.png` in the results. A folder of a million files is never a list: its
names are read again for every `folders.AT_ONCE` of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from typing import BinaryIO

from ood_core.data.folders import AT_ONCE, PassedOver, entries, is_folder, pictures
from ood_core.errors import OODError

STDIN = "-"
READ = 1 << 16  # maximum number of bytes of a list to read at once
UNFOLLOWED = "{} folder link{s} that ** does not follow"
Pattern = tuple[str, ...]
"""A glob, part by part; `()` matches the folder it begins in."""


def named(images: Sequence[str], passed: PassedOver, null: bool = False) -> Iterator[str]:
    """Yield the paths that the arguments name, in the order of the arguments; within a folder or glob sorted by path.

    Arguments are files, folders and globs; `-` is the list of files and folders on stdin, each of which ends with a
    newline, or with NUL if `null`. A path that exists is meant as such, even if it looks like a glob. One that does not
    exist is yielded too, since its error is a result. `passed` counts the files that are skipped in folders.
    """
    for image in images:
        if image != STDIN:
            yield from _argument(image, passed)
            continue
        for listed in lines(sys.stdin.buffer, b"\0" if null else b"\n"):
            yield from pictures(listed, passed) if os.path.isdir(listed) else [listed]  # noqa: PTH112 - never raises


def require(images: Sequence[str]) -> None:
    """Raise OODError for the first folder without pictures or glob without a match, before anything is scored."""
    for image in images:
        passed = PassedOver()
        if image == STDIN or next(_argument(image, passed), None) is not None:
            continue
        if os.path.isdir(image):  # noqa: PTH112
            raise OODError(passed.behind(f"{image}: the folder holds no pictures"))
        raise OODError(f"{image}: matches no file")


def lines(source: BinaryIO, end: bytes) -> Iterator[str]:
    """Yield the paths of a list as they come, without waiting for more than is there; empty ones are left out."""
    carriage, rest = b"\r" if end == b"\n" else b"", b""
    while read := source.read1(READ) if hasattr(source, "read1") else source.read(READ):
        *whole, rest = (rest + read).split(end)
        yield from (os.fsdecode(path) for line in whole if (path := line.removesuffix(carriage)))
    if last := rest.removesuffix(carriage):
        yield os.fsdecode(last)


def _argument(image: str, passed: PassedOver) -> Iterator[str]:
    if os.path.isdir(image):  # noqa: PTH112
        yield from pictures(image, passed)
    elif has_magic(image) and not os.path.lexists(image):
        parts = image.split("/")
        first = next(place for place, part in enumerate(parts) if has_magic(part))
        folder = "/".join(parts[:first]) or ("/" if first else "")
        yield from _matching(folder, frozenset(_begun(tuple(filter(None, parts[first:])))), passed)
    else:
        yield image


def _matching(folder: str, patterns: frozenset[Pattern], passed: PassedOver) -> Iterator[str]:
    """Yield the files beneath a folder that match one of the patterns; of a folder that does, its pictures.

    What may not be read is itself yielded, so that it becomes a row with an error.
    """
    inside = entries(folder, AT_ONCE)
    while True:
        try:
            entry = next(inside, None)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            yield folder
            return
        if entry is None:
            return
        path = entry.path if folder else entry.name
        try:
            deeper, unknown = is_folder(entry), False
        except OSError:
            deeper, unknown = False, True
        linked = deeper and entry.is_symlink()
        rest = frozenset(after for pattern in patterns for after in _after(pattern, entry.name, linked))
        if not deeper:
            yield from [path] if () in rest or (unknown and rest) else []
        elif () in rest:
            yield from pictures(path, passed)
        elif rest:
            yield from _matching(path, rest, passed)
        elif linked and any(pattern[:1] == ("**",) for pattern in patterns):
            passed.reasons[UNFOLLOWED] += 1


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

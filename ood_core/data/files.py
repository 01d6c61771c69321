"""Reading of data files, whose errors are one line each; digests of files, and listings of folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from ood_core.data import cache
from ood_core.errors import OODError, abridge, one_line


@contextmanager
def reading(path: Path, objection: str = "cannot be read") -> Iterator[None]:
    """Turn whatever a library raises for the content of a file into one line, which begins with path and objection.

    Libraries document few of these exceptions: broken files have brought up TokenError, RecursionError and
    NotImplementedError. Memory that runs out says nothing about the file.
    """
    try:
        yield
    except (OODError, MemoryError):
        raise
    except Exception as error:
        reason = abridge(one_line(error)) or type(error).__name__
        raise OODError(f"{path}: {objection}: {reason}") from error


def file_digest(path: Path) -> str:
    """Return a hash over a file's content."""
    return cache.digests([path], content_digest)[path]


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash over names and contents, relative to the folder that they share."""
    files = sorted(paths, key=lambda path: path.parts)  # as paths are ordered, in a third of the time
    ends = zip(files[0].parent.parts, files[-1].parent.parts, strict=False) if files else ()
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))  # by the first and last, so by all
    total, digests = hashlib.sha256(), cache.digests(files, content_digest)
    for file in files:
        name = "/".join(file.parts[shared:])
        total.update(f"{name}\0{digests[file]}\n".encode("utf-8", "surrogateescape"))  # a name may be no UTF-8
    return total.hexdigest()


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, without the cache."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def listing(folder: Path, most: int = 5) -> str:
    """Return the first few names in a folder, or "nothing"."""
    names = sorted(entry.name for entry in folder.iterdir())
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "nothing"

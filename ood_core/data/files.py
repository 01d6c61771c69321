"""Files as data sources see them: what lies in a folder, and a digest over content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from ood_core.data import cache


def file_digest(path: Path) -> str:
    """Return a hash over a file's content."""
    return cache.digests([path], content_digest)[path]


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash over names and contents; the folder they lie in does not count."""
    files = sorted(paths, key=lambda path: path.parts)  # as paths are ordered, in a third of the time
    shared = _shared(files[0].parent.parts, files[-1].parent.parts) if files else 0  # by the first and last, so by all
    total, digests = hashlib.sha256(), cache.digests(files, content_digest)
    for file in files:
        name = "/".join(file.parts[shared:])
        total.update(f"{name}\0{digests[file]}\n".encode("utf-8", "surrogateescape"))  # a name may be no UTF-8
    return total.hexdigest()


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many parts two paths begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, which is read whatever the cache knows of it."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def source_digest(package: str, parts: Collection[str] = ()) -> str:
    """Return eight letters that change with the files of an importable package, its data and libraries included.

    Args:
        package: Its name, without dots.
        parts: Names of files and folders at its top that alone count; all if there are none.
    """
    spec = find_spec(package)
    total = hashlib.sha256()
    if spec is None:
        pass
    elif spec.submodule_search_locations is None:  # a single module, beside which anything may lie
        total.update(Path(spec.origin).read_bytes() if spec.origin and spec.has_location else b"")
    else:
        for folder in map(Path, spec.submodule_search_locations):
            for file in _sources(folder):
                name = file.relative_to(folder)
                if not parts or name.parts[0] in parts:
                    content = file.read_bytes()
                    total.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:8]


def _sources(folder: Path) -> list[Path]:
    """Return the files in a folder and beneath it, sorted, without hidden ones and those that Python compiles."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".") and not name.endswith(".pyc")]
    return sorted(found)


def listing(folder: Path, most: int = 5) -> str:
    """Return the first few names in a folder, or "nothing"."""
    names = sorted(entry.name for entry in folder.iterdir())
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "nothing"

"""Files as data sources see them: what lies in a folder, and a digest over content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ood_core import cache


def file_digest(path: Path) -> str:
    """Return a hash over a file's content."""
    return _digests([path])[path]


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash over names and contents; the folder they lie in does not count."""
    files = sorted(paths)
    root = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    total, digests = hashlib.sha256(), _digests(files)
    for file in files:
        total.update(f"{file.relative_to(root).as_posix()}\0{digests[file]}\n".encode())
    return total.hexdigest()


def _digests(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the digest of each file; those that did not change since are not read again."""
    known = cache.known_digests(paths)
    read = {path: _read(path) for path in paths if path not in known}
    cache.remember_digests(read)
    return known | read


def _read(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def listing(folder: Path, most: int = 5) -> str:
    """Return the first few names in a folder, or "nothing"."""
    names = sorted(entry.name for entry in folder.iterdir())
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "nothing"

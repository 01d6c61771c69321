"""Files as data sources see them: what lies in a folder, and a digest over content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def file_digest(path: Path) -> str:
    """Return a hash over a file's content."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash over names and contents; the folder they lie in does not count."""
    files = sorted(paths)
    root = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(root).as_posix()}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


def listing(folder: Path, most: int = 5) -> str:
    """Return the first few names in a folder, or "nothing"."""
    names = sorted(entry.name for entry in folder.iterdir())
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "nothing"

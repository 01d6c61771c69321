"""Digests of the source of installed packages, so that changed code does not find old results."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path


def source_digest(package: str, parts: Collection[str] = ()) -> str:
    """Return eight letters that change with the files of an importable package, its data and libraries included.

    If there are `parts`, paths of files and folders in it, those alone count.
    """
    spec, total = find_spec(package), hashlib.sha256()
    if spec is not None and spec.submodule_search_locations is None:  # a single module, beside which anything may lie
        total.update(Path(spec.origin).read_bytes() if spec.origin and spec.has_location else b"")
    elif spec is not None and spec.submodule_search_locations is not None:
        for folder in map(Path, spec.submodule_search_locations):
            for file in _sources(folder):
                name = file.relative_to(folder)
                paths = {name.as_posix(), *(parent.as_posix() for parent in name.parents)}
                if not parts or not paths.isdisjoint(parts):
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

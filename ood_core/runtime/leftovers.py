"""Temporary files and folders beside their place, and the removal of those that a killed process left.

Their names hold the machine, the process and a number of its own, so that what a living process writes is left alone.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

import psutil

FOREIGN_SECONDS = 24 * 3600.0
"""Age from which those of another machine, whose processes cannot be seen, count as left."""

_NAME = re.compile(r"\.ood-([0-9a-f]{8})-([0-9]+)-([0-9a-f]{6})-[0-9a-f]{6}\..+", re.DOTALL)
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
_PROCESS = uuid.uuid4().hex[:6]
"""Where a container is started again, another process has the same number."""


def temporary_path(path: Path) -> Path:
    """Return a name beside a path for what will take its place; ends in the same suffix."""
    own = f"{_MACHINE}-{os.getpid()}-{_PROCESS}-{uuid.uuid4().hex[:6]}"
    return path.with_name(f".ood-{own}.{path.name}")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of processes that are gone."""
    with suppress(OSError):
        with os.scandir(folder) as entries:  # names, not paths: each file of a folder of thousands is written so
            found = [named for entry in entries if (named := _NAME.fullmatch(entry.name))]
        for named in found:
            path = folder / named[0]
            if _is_left(path, *named.groups()):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _is_left(path: Path, machine: str, process: str, own: str) -> bool:
    if machine != _MACHINE:
        return time.time() - path.lstat().st_mtime > FOREIGN_SECONDS
    if int(process) == os.getpid():
        return own != _PROCESS
    return not psutil.pid_exists(int(process))

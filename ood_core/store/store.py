"""The store: one folder for each finished stage, under the key of all that decides its result.

    <root>/<kind>/<key>/stage.json      what it is, how long it took, what it recorded; a checksum of each file
                        ...             its artifact: safetensors, .npy
    <root>/temporary/<key>/             an artifact while it is written
    <root>/unfinished/<key>/            checkpoints of a training that was interrupted
    <root>/locks/<key>                  held while a process, whose number is in it, works on the stage; deleted by it

An artifact is written into a temporary folder, flushed to disk and renamed, so a folder that is there is whole.
Damage after that is noticed: a file is read through `Store.file`, which compares its content with the checksum that
was noted when it was stored. stage.json holds a checksum of itself; a damaged one counts as absent.
Nothing is pickled: weights and scores are safetensors, arrays .npy, the rest JSON.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ood_core.errors import OODError, one_line
from ood_core.records.facts import StageFacts, read_facts
from ood_core.records.stages import Stage
from ood_core.runtime import memory
from ood_core.store.cost_model import cost_key, image_count
from ood_core.store.files import DamagedError, file_checksum, put_in_place, reading, signed, verified, writing

_LOG = logging.getLogger(__name__)
_warn_once = cache(_LOG.warning)

PATIENCE = 3.0
"""Seconds to wait for another process without a message."""

FACTS, LOCKS, TEMPORARY = "stage.json", "locks", "temporary"

FILES = "files"
"""The entry of stage.json that holds the checksum of each other file."""

RATES = 1000
"""Maximum number of stages to read for an estimate, the newest first."""


@dataclass(frozen=True)
class Store:
    """A folder of finished stages. Made when something is first written."""

    root: Path
    _verified: dict[Path, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """State of each file when its checksum was last found right, so that a process reads it for that once."""

    def folder(self, stage: Stage) -> Path:
        """Return where the artifact of a finished stage lies; what is read of it, `file` returns."""
        return self.root / stage.kind / stage.key

    def facts(self, stage: Stage) -> StageFacts | None:
        """Return the facts of a finished stage; None, with a warning if stage.json is damaged, for any other."""
        return self._noted(stage)[0]

    def names(self, stage: Stage) -> Collection[str]:
        """Return the names of the files of a finished stage."""
        return self._noted(stage)[1]

    def file(self, stage: Stage, name: str) -> Path:
        """Return the path of a file of a finished stage, with its checksum verified.

        Raises:
            DamagedError: The file is damaged or missing.
            OODError: The stage is not in the store.
        """
        path = self.folder(stage) / name
        with reading(path):
            if path in self._verified and self._verified[path] == _state(path):
                return path
        facts, checksums = self._noted(stage)
        if facts is None:
            raise OODError(f"{stage}: is not in the store {self.root}; with another --store it is computed again")
        with reading(path):
            state = _state(path)  # before reading: a file that changes meanwhile is not the one that was verified
            if (found := file_checksum(path)) != (wanted := checksums.get(name)):
                raise ValueError(f"its checksum is {found}, not {wanted}")
        self._verified[path] = state
        return path

    def _noted(self, stage: Stage) -> tuple[StageFacts | None, dict[str, str]]:
        """Return the facts, and the checksum of each file; None and {} for a stage that is not in the store."""
        path = self.folder(stage) / FACTS
        if not os.path.isfile(path):  # noqa: PTH113 - that of pathlib raises OSError for names that are too long
            return None, {}
        try:
            entries = _read_entries(path, stage.key)
            with reading(path):
                files = dict(entries.pop(FILES))
                return read_facts(stage.kind, entries), files
        except DamagedError as error:
            _warn_once(f"{path} is damaged ({one_line(error.__cause__)}): '{stage}' counts as not stored")
            return None, {}

    def rates(self, wanted: Collection[str]) -> dict[str, float]:
        """Return the seconds that an image took the last time, by those of these cost keys that newer stages have."""
        found: dict[str, float] = {}
        for path in heapq.nlargest(RATES, self.root.glob(f"*/*/{FACTS}"), key=_modified):
            if len(found) == len(wanted):
                break
            with suppress(DamagedError):
                facts = _read_entries(path, path.parent.name)
                if facts["alike"] in wanted:
                    found.setdefault(facts["alike"], facts["seconds"] / facts["work"])
        return found

    def prepare(self) -> None:
        """Make the folder before the first stage is computed, or raise OODError; remove what killed processes left."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OODError(f"--store {self.root}: cannot be written into: {error.strerror}") from error
        for path in [*(self.root / LOCKS).glob("*"), *(self.root / TEMPORARY).glob("*")]:
            lock = FileLock(self.root / LOCKS / path.name, timeout=0)
            with suppress(OSError), lock:  # Timeout is an OSError: somebody is at work
                shutil.rmtree(self.root / TEMPORARY / path.name, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def lock(self, stage: Stage) -> Iterator[None]:
        """Keep a second process from computing the same stage at the same time."""
        path = self.root / LOCKS / stage.key
        lock = FileLock(path)
        try:
            with writing(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                _acquire(lock, path, stage)
        except OSError as error:
            raise OODError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps files that are open
                path.unlink()  # who waits for it finds it without a name, and makes another one
            lock.release()

    def unfinished(self, stage: Stage) -> Path:
        """Return the folder for checkpoints of a stage at work; it vanishes with `put`."""
        folder = self.root / "unfinished" / stage.key
        with writing(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def put(self, stage: Stage) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield a temporary folder to write the artifact into, and a dict for its facts; then file both as finished.

        The facts are those of the kind in `records.facts`; the common ones are added, `seconds` only if the stage has
        none. After an error nothing is left. To be called under the stage's lock.
        """
        begun = time.monotonic()
        temporary = self.root / TEMPORARY / stage.key
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left; the lock keeps others away
        try:
            with writing(self.root):
                temporary.mkdir(parents=True)
                facts: dict[str, Any] = {}
                yield temporary, facts
                common = {"stage": str(stage), "key": stage.key, "seconds": round(time.monotonic() - begun, 3)}
                common |= {"threads": torch.get_num_threads(), "alike": cost_key(stage), "work": image_count(stage)}
                noted = read_facts(stage.kind, common | memory.peaks() | facts)
                files = {file.name: file_checksum(file) for file in sorted(temporary.iterdir())}
                text = json.dumps(signed({**noted, FILES: files}), indent=1)
                (temporary / FACTS).write_text(text, encoding="utf-8")
                target = self.folder(stage)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)  # a folder with no facts, or damaged ones, is no artifact
                put_in_place(temporary, target)
                self._verified.update({target / name: _state(target / name) for name in files})
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.root / "unfinished" / stage.key, ignore_errors=True)


def _acquire(lock: FileLock, path: Path, stage: Stage) -> None:
    """Acquire the lock of a stage, and note this process in its file; name the process that is waited for."""
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        with suppress(OSError):
            holder = path.read_text(encoding="utf-8")
            _LOG.warning("%s: waiting for process %s, which is at work on it", stage, holder or "of unknown number")
        lock.acquire()
    with suppress(OSError):  # it serves that message alone; Windows keeps others from writing into it
        path.write_text(f"{os.getpid()} of {platform.node()}", encoding="utf-8")


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does."""
    known = path.stat()
    return known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns


def _modified(path: Path) -> float:
    with suppress(OSError):  # another process has just replaced it
        return path.stat().st_mtime
    return 0.0


def _read_entries(path: Path, key: str) -> dict[str, Any]:
    with reading(path):
        facts = verified(json.loads(path.read_text(encoding="utf-8")))
        if facts["key"] != key:
            raise ValueError("it is that of another stage")
        return facts

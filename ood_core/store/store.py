"""The store: one folder for each finished stage, under the key of all that decides its result.

    <root>/<kind>/<key>/stage.json      what it is, how long it took, what it recorded; a checksum of each file
                        ...             its artifact: safetensors, .npy
    <root>/temporary/<key>/             an artifact while it is written
    <root>/unfinished/<key>/            checkpoints of a training that was interrupted
    <root>/locks/<key>                  held while a process works on the stage; deleted once that is finished

An artifact is written into a temporary folder, flushed to disk and renamed, so a folder that is there is whole.
Damage after that is noticed: a file is read through `Store.file`, which compares its content with the checksum that
was noted when it was filed. stage.json holds a checksum of itself; a damaged one counts as absent.
Nothing is pickled: weights and scores are safetensors, arrays .npy, the rest JSON.
"""

from __future__ import annotations

import errno
import heapq
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ood_core.errors import OODError
from ood_core.records.facts import StageFacts, read_facts
from ood_core.records.stages import Stage
from ood_core.runtime import memory
from ood_core.store import checksums
from ood_core.store.cost_model import cost_key, image_count

_LOG = logging.getLogger(__name__)

FACTS = "stage.json"

FILES = "files"
"""The entry of stage.json that holds the checksum of each other file."""

RATES = 1000
"""Maximum number of stages to read for an estimate, the newest first."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedError(OODError):
    """A file of the store that is not what was filed; says what to delete."""


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
        """Return what a finished stage recorded, None for one that is not in the store.

        A damaged stage.json counts as absent, with a warning: the stage is computed again where it is needed.
        """
        noted = self._noted(stage)
        return None if noted is None else noted[0]

    def names(self, stage: Stage) -> Collection[str]:
        """Return the names of the files of a finished stage."""
        noted = self._noted(stage)
        return () if noted is None else noted[1]

    def file(self, stage: Stage, name: str) -> Path:
        """Return the path of a file of a finished stage, whose content is what was filed.

        Raises:
            DamagedError: The file is damaged or missing.
            OODError: The stage is not in the store.
        """
        path = self.folder(stage) / name
        with reading(path):
            if path in self._verified and self._verified[path] == _state(path):
                return path
        noted = self._noted(stage)
        if noted is None:
            raise OODError(f"{stage}: is not in the store {self.root}; with another --store it is computed again")
        with reading(path):
            state = _state(path)  # before reading: a file that changes meanwhile is not the one that was verified
            if (found := checksums.of_file(path)) != (wanted := noted[1].get(name)):
                raise ValueError(f"its checksum is {found}, not {wanted}")
        self._verified[path] = state
        return path

    def _noted(self, stage: Stage) -> tuple[StageFacts, dict[str, str]] | None:
        """Return what stage.json holds: the facts, and the checksum of each file."""
        path = self.folder(stage) / FACTS
        if not os.path.isfile(path):  # noqa: PTH113 - that of pathlib raises OSError for names that are too long
            return None
        try:
            entries = _read_entries(path, stage.key)
            with reading(path):
                files = dict(entries.pop(FILES))
                return read_facts(stage.kind, entries), files
        except DamagedError as error:
            _warn(f"{path} is damaged ({_line(error.__cause__)}): '{stage}' counts as not stored")
            return None

    def rates(self, wanted: Collection[str]) -> dict[str, float]:
        """Return, by the cost key of stages (`cost_model.cost_key`), the seconds that an image took the last time.

        Args:
            wanted: The cost keys to look for, among the newest stages.
        """
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
        """Make the folder before the first stage is computed.

        Raises:
            OODError: It cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OODError(f"--store {self.root}: cannot be written into: {error.strerror}") from error

    @contextmanager
    def lock(self, stage: Stage) -> Iterator[None]:
        """Keep a second process from computing the same stage at the same time."""
        path = self.root / "locks" / stage.key
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise OODError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            # a process that waits for this file and one that makes it anew may then work at the same time, but both
            # find the stage finished
            if self._noted(stage) is not None:
                with suppress(OSError):  # Windows keeps files that are open
                    path.unlink()
            lock.release()

    def unfinished(self, stage: Stage) -> Path:
        """Return the folder for checkpoints of a stage at work; it vanishes with `put`."""
        folder = self.root / "unfinished" / stage.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def put(self, stage: Stage) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield a temporary folder to write the artifact into, and a dict for its facts; then file both as finished.

        The facts are those of the kind in `records.facts`; the common ones are added, `seconds` only if the stage has
        none. After an error nothing is left. To be called under the stage's lock.
        """
        begun = time.monotonic()
        temporary = self.root / "temporary" / stage.key
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left; the lock keeps others away
        try:
            with writing(temporary):
                temporary.mkdir(parents=True)
                facts: dict[str, Any] = {}
                yield temporary, facts
                common = {"stage": str(stage), "key": stage.key, "seconds": round(time.monotonic() - begun, 3)}
                common |= {"threads": torch.get_num_threads(), "alike": cost_key(stage), "work": image_count(stage)}
                self._file(stage, temporary, read_facts(stage.kind, common | memory.peaks() | facts))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.root / "unfinished" / stage.key, ignore_errors=True)

    def _file(self, stage: Stage, temporary: Path, facts: StageFacts) -> None:
        """Note the checksums, and put the folder in its place."""
        files = {file.name: checksums.of_file(file) for file in sorted(temporary.iterdir())}
        text = json.dumps(checksums.signed({**facts, FILES: files}), indent=1)
        (temporary / FACTS).write_text(text, encoding="utf-8")
        for file in temporary.iterdir():
            flush(file)
        target = self.folder(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # a folder without its facts, or with damaged ones, is no artifact
        temporary.rename(target)
        flush(target.parent)
        for name in files:
            self._verified[target / name] = _state(target / name)


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
        facts = checksums.verified(json.loads(path.read_text(encoding="utf-8")))
        if facts["key"] != key:
            raise ValueError("it is that of another stage")
        return facts


@cache
def _warn(message: str) -> None:
    """Log a warning once in a process."""
    _LOG.warning(message)


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def flush(path: Path) -> None:
    """Write the content of a file or folder to disk, so that a power cut leaves no half artifact."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made or written into; nothing is written to find out.

    Raises:
        OODError: Names the option that chose the folder.
    """
    # os.path.exists: that of pathlib raises OSError for names that are too long
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    if not nearest.is_dir():
        raise OODError(f"{option} {folder}: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OODError(f"{option} {folder}: no permission to write into {nearest}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a missing, cut off or foreign file of the store raises into one line that says how to go on."""
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, SafetensorError) as error:
        raise DamagedError(
            f"{path} is damaged ({_line(error)}); delete the folder {path.parent}, and it is computed again"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a disk that is full into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors has no errno, and numpy says how many items were "requested and" how many written
        said = any(words in str(error) for words in (*map(os.strerror, FULL), "requested and"))
        if not said and getattr(error, "errno", None) not in FULL:
            raise
        raise OODError(f"{path}: cannot be written, the disk is full: {_line(error)}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that then takes the place of another one; it is found as it was, or whole, never a part.

    Raises:
        OODError: The disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with writing(path):
            yield temporary
            flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old text or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------- artifacts


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
    """Write named tensors, and plain values beside them, as one safetensors file."""
    metadata = {"notes": json.dumps(notes)} if notes is not None else None
    # a clone for each: safetensors refuses tensors that share memory or have strides
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path, metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file."""
    with reading(path):
        return dict(load_file(path))


def load_notes(path: Path) -> dict[str, Any]:
    """Return the plain values saved beside the tensors of a file."""
    with reading(path), safe_open(path, framework="pt") as opened:
        return dict(json.loads((opened.metadata() or {}).get("notes", "{}")))


def create_array(path: Path, shape: tuple[int, ...], dtype: type = np.float32) -> np.memmap[Any, Any]:
    """Return a new .npy file as a writable, memory-mapped array."""
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process through the map
        try:
            with path.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in FULL:
                raise  # else the file system knows no such thing
    return array


def map_array(path: Path) -> np.memmap[Any, Any]:
    """Return a .npy file as a memory-mapped array; writing to it changes this process's view alone."""
    with reading(path):
        array: np.memmap[Any, Any] = np.load(path, mmap_mode="c")
        return array


def load_array(path: Path) -> Tensor:
    """Return a .npy file as a memory-mapped tensor."""
    return torch.from_numpy(map_array(path))

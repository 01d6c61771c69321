"""The store: one folder for each finished stage, under the key of all that decides its result.

    <root>/<kind>/<key>/stage.json      what it is, how long it took, what it recorded
                        ...             its artifact: safetensors, .npy
    <root>/temporary/<key>/             an artifact while it is written
    <root>/unfinished/<key>/            checkpoints of a training that was interrupted
    <root>/locks/<key>                  held while a process works on the stage

An artifact is written into a temporary folder, flushed to disk and renamed, so a folder that is there is whole.
Nothing is pickled: weights and scores are safetensors, arrays .npy, the rest JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ood_core import memory
from ood_core.costs import alike, work
from ood_core.errors import OODError
from ood_core.interfaces import StageFacts
from ood_core.stages import Stage

FACTS = "stage.json"


@dataclass(frozen=True)
class Store:
    """A folder of finished stages. Made when something is first written."""

    root: Path

    def folder(self, stage: Stage) -> Path:
        """Return where the artifact of a finished stage lies."""
        return self.root / stage.kind / stage.key

    def facts(self, stage: Stage) -> StageFacts | None:
        """Return what a finished stage recorded, None for one that is not in the store."""
        path = self.folder(stage) / FACTS
        if not path.is_file():
            return None
        with reading(path):
            facts = dict(json.loads(path.read_text(encoding="utf-8")))
            if facts.get("key") != stage.key:
                raise ValueError("it is that of another stage")
            return facts

    def rates(self) -> dict[str, float]:
        """Return, for each likeness of stages (`costs.alike`), the seconds that an image took the last time."""
        paths = sorted(self.root.glob(f"*/*/{FACTS}"), key=lambda path: path.stat().st_mtime)
        found = {}
        for path in paths:
            with reading(path):
                facts = json.loads(path.read_text(encoding="utf-8"))
                if "alike" in facts:  # not in stores of earlier versions
                    found[str(facts["alike"])] = facts["seconds"] / facts["work"]
        return found

    def lock(self, stage: Stage) -> FileLock:
        """Return the lock that keeps a second process from computing the same stage at the same time."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / stage.key)

    def unfinished(self, stage: Stage) -> Path:
        """Return the folder for checkpoints of a stage at work; it vanishes with `put`."""
        folder = self.root / "unfinished" / stage.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def put(self, stage: Stage) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield a temporary folder to write the artifact into, and a dict for its facts; then file both as finished.

        The seconds between are among the facts, unless the stage notes its own. After an error nothing is left. To be
        called under the stage's lock.
        """
        begun = time.monotonic()
        temporary = self.root / "temporary" / stage.key
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left; the lock keeps others away
        temporary.mkdir(parents=True)
        facts: dict[str, Any] = {}
        try:
            yield temporary, facts
            facts = {"stage": str(stage), "key": stage.key, "seconds": round(time.monotonic() - begun, 3)} | facts
            facts |= {"threads": torch.get_num_threads(), **memory.peaks(), "alike": alike(stage), "work": work(stage)}
            write_text(temporary / FACTS, json.dumps(facts, indent=1))
            for file in temporary.iterdir():
                flush(file)
            target = self.folder(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # a folder without its facts is no artifact
            temporary.rename(target)
            flush(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.root / "unfinished" / stage.key, ignore_errors=True)


def flush(path: Path) -> None:
    """Have the file's or the folder's content written to disk, so that a power cut leaves no half artifact."""
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
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise OODError(f"{option} {folder}: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OODError(f"{option} {folder}: no permission to write into {nearest}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a missing, cut off or foreign file of the store raises into one line that says how to go on."""
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise OODError(f"{path} is damaged ({reason}); delete its folder, and it is computed again") from error


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    return array


def map_array(path: Path) -> np.memmap[Any, Any]:
    """Return a .npy file as a memory-mapped array; writing to it changes this process's view alone."""
    with reading(path):
        array: np.memmap[Any, Any] = np.load(path, mmap_mode="c")
        return array


def load_array(path: Path) -> Tensor:
    """Return a .npy file as a memory-mapped tensor."""
    return torch.from_numpy(map_array(path))

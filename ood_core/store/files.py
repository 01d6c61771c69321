"""Files of the store: written whole or not at all, with CRC-32 checksums; errors of damage and full disks in one line.

Checksums show damage, not forgery, and cost a third of SHA-256.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ood_core.errors import FULL_DISK, OODError, one_line
from ood_core.runtime.leftovers import remove_leftovers, temporary_path

CHECKSUM = "checksum"
"""The entry that `signed` adds."""


class DamagedError(OODError):
    """A file of the store that is not what was filed; says what to delete."""


class DiskFullError(OODError):
    """A disk that is full: whatever else would be written to it fails as well, so it ends a run."""


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename a file, or a folder of files, over an older one; neither a kill nor a power cut leaves a part of it."""
    for file in temporary.iterdir() if temporary.is_dir() else ():
        flush(file)
    flush(temporary)
    old = temporary_path(target)
    if target.is_dir():  # which no other folder can replace
        target.rename(old)
    temporary.replace(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """Write the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: Path, option: str) -> None:
    """Raise OODError, which names the option, for a folder that cannot be made or written into; write nothing."""
    # os.path.exists: that of pathlib raises OSError for names that are too long
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    if not nearest.is_dir():
        raise OODError(f"{option} {folder}: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OODError(f"{option} {folder}: no permission to write into {nearest}")


def require_utf8(folder: Path, option: str) -> None:
    """Raise OODError, which names the option, for a folder whose path is no UTF-8: safetensors opens no file there."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise OODError(f"{option} {folder}: the path {os.fsencode(folder.absolute())!r} is no UTF-8") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a missing, cut off or foreign file of the store raises into one line that says how to go on."""
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, SafetensorError) as error:
        advice = f"delete the folder {path.parent}, and it is computed again"
        raise DamagedError(f"{path} is damaged ({one_line(error)}); {advice}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a disk that is full into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors has no errno, and numpy says how many items were "requested and" how many written
        said = any(words in str(error) for words in (*map(os.strerror, FULL_DISK), "requested and"))
        if not said and getattr(error, "errno", None) not in FULL_DISK:
            raise
        advice = "free some space, and the same command goes on"
        raise DiskFullError(f"{path}: cannot be written, the disk is full: {one_line(error)}; {advice}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that then replaces another one, which is found as it was, or whole, never a part.

    What a killed process left in the folder is removed before.
    """
    remove_leftovers(path.parent)
    temporary = temporary_path(path)
    try:
        with writing(path):
            yield temporary
            put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old text or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
            if error.errno in FULL_DISK:
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


def file_checksum(path: Path) -> str:
    """Return the checksum of a file's content."""
    buffer, found = memoryview(bytearray(2**20)), 0  # 1 MiB
    with path.open("rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            found = zlib.crc32(buffer[:count], found)
    return f"{found:08x}"


def tensors_checksum(tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> str:
    """Return the checksum of tensors on the CPU, with their names, types and shapes, and of plain values."""
    found = zlib.crc32(json.dumps(notes, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def signed(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a JSON document with a checksum of them all as the last one."""
    return {**entries, CHECKSUM: f"{zlib.crc32(json.dumps(entries).encode()):08x}"}


def verified(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a document that was signed, without the checksum.

    Raises:
        ValueError: An entry was changed, or there is no checksum.
    """
    entries = {name: value for name, value in document.items() if name != CHECKSUM}
    if document.get(CHECKSUM) != signed(entries)[CHECKSUM]:
        raise ValueError("it was changed since it was written: its checksum is another one")
    return entries

"""The index of a tar shard: which pictures it has, where they lie and of which class they are."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ood_core.data.folders import is_hidden, is_picture
from ood_core.data.image_files import UNLABELLED
from ood_core.errors import OODError

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""What compressed files begin with."""


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    path: Path  # the file
    labels: tuple[str, ...]  # the class of each picture, a name or a number as text
    names: tuple[str, ...]  # the member of each picture
    places: tuple[tuple[int, int], ...]  # where in the file each picture begins, and how long it is
    others: tuple[str, ...]  # members of samples without a picture that is read


def read(path: Path, label: str, field: str) -> Shard:
    """Return the index of a shard; one that did not change since is not read again.

    Args:
        path: An uncompressed tar file.
        label: Where classes are: "cls", "json", "folder" or "none".
        field: Which field of KEY.json has the class.

    Raises:
        OODError: It is compressed, cut off, damaged, or a picture has no class.
    """
    try:
        stamp = path.stat()
        return _read(path, (stamp.st_ino, stamp.st_size, stamp.st_mtime_ns), label, field)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise OODError(f"{path}: not a whole, uncompressed tar file: {error}") from error


@cache  # both splits read the classes of both, and a million headers take a minute
def _read(path: Path, stamp: tuple[int, int, int], label: str, field: str) -> Shard:
    with path.open("rb") as opened:
        head = opened.read(8)
        if kind := next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None):
            raise OODError(f"{path}: compressed ({kind}), so no picture can be read at its place; unpack it to .tar")
        members = _members(path)
        names = tuple(name for name in members if _is_picture(name))
        if not names:
            raise OODError(f"{path}: no pictures in it")
        keys: dict[str, str] = {}
        for name in names:
            if (other := keys.setdefault(_key(name), name)) != name and label in ("cls", "json"):
                raise OODError(f"{path}: two pictures of one sample, {other} and {name}")
        others = (name for name in members if _key(name) not in keys and not name.endswith((".cls", ".json")))
        reader = _Labels(opened, members, path, label, field)
        labels = tuple(map(reader.of, names))
        return Shard(path, labels, names, tuple(members[name] for name in names), tuple(others))


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Return where each file in a tar begins and how long it is."""
    members: dict[str, tuple[int, int]] = {}
    last = "its beginning"
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            last = member.name
            name = member.name.removeprefix("./")
            if member.isfile() and members.setdefault(name, (member.offset_data, member.size))[0] != member.offset_data:
                raise OODError(f"{path}: {name} is in it twice")
        end = tar.offset
    with path.open("rb") as opened:
        opened.seek(end)
        # tarfile takes a damaged header and a file cut off between members for the end.
        if opened.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise OODError(f"{path}: cut off or damaged after {last}")
    return members


def _is_picture(name: str) -> bool:
    *folders, last = PurePosixPath(name).parts or ("",)
    return is_picture(last) and not any(map(is_hidden, folders))


def _key(name: str) -> str:
    """Return the common part of the names of one sample: everything up to the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


@dataclass(frozen=True)
class _Labels:
    opened: BinaryIO
    members: Mapping[str, tuple[int, int]]
    path: Path
    kind: str
    field: str

    def of(self, name: str) -> str:
        """Return the class of a picture; numbers without zeros before them."""
        if self.kind == "none":
            return UNLABELLED
        if self.kind == "folder":
            if not (folder := PurePosixPath(name).parent.name):
                raise OODError(f"{self.path}: {name} lies in no folder, which 'label: folder' takes for the class")
            return folder
        beside = f"{_key(name)}.{self.kind}"
        if beside not in self.members:
            raise OODError(f"{self.path}: no {beside} beside the picture; 'label' says where classes are")
        start, length = self.members[beside]
        self.opened.seek(start)
        text = self.opened.read(length).decode("utf-8", "replace").strip()
        text = self._of_json(beside, text) if self.kind == "json" else text
        if not text:
            raise OODError(f"{self.path}: {beside} is empty")
        return str(int(text)) if text.isdecimal() else text

    def _of_json(self, beside: str, text: str) -> str:
        try:
            value = json.loads(text)[self.field]
        except (ValueError, KeyError, TypeError) as error:
            raise OODError(f"{self.path}: {beside} has no field '{self.field}'") from error
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise OODError(f"{self.path}: '{self.field}' of {beside} is {json.dumps(value)}, neither name nor number")
        return str(value)

"""Tar shards in the style of WebDataset: members of one key are one sample, an image and what belongs to it."""

from __future__ import annotations

import json
import tarfile
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import BytesIO
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

import PIL.Image

from ood_core.data.decoding import decode
from ood_core.data.files import digest_files, listing, reading
from ood_core.data.folders import SPLIT_NAMES, PassedOver, is_hidden, is_picture
from ood_core.data.image_files import UNLABELLED, numbers_first, require_distinct
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import numbered

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""What compressed files begin with."""


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    path: Path
    labels: tuple[str, ...]  # the class of each picture, a name or a number as text
    names: tuple[str, ...]  # the member of each picture
    places: tuple[tuple[int, int], ...]  # where in the file each picture begins, and how long it is
    others: tuple[str, ...]  # members of samples without a picture that is read


def read(path: Path, label: str, field: str) -> Shard:
    """Return the index of an uncompressed tar file, from memory if the file did not change since."""
    with reading(path, "not a whole, uncompressed tar file"):
        stamp = path.stat()
        return _read(path, (stamp.st_ino, stamp.st_size, stamp.st_mtime_ns), label, field)


@cache  # both splits read the classes of both, and a million headers take a minute
def _read(path: Path, stamp: tuple[int, int, int], label: str, field: str) -> Shard:
    with path.open("rb") as opened:
        head = opened.read(8)
        if kind := next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None):
            raise OODError(f"{path}: compressed ({kind}), so no picture can be read at its place; unpack it to .tar")
        members = _members(path)
        pictures = (name for name in members if is_picture(PurePosixPath(name).name))
        names = tuple(name for name in pictures if not any(map(is_hidden, PurePosixPath(name).parts[:-1])))
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
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise OODError(f"{self.path}: {beside} has no field '{self.field}'") from error
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise OODError(f"{self.path}: '{self.field}' of {beside} is {json.dumps(value)}, neither name nor number")
        return str(value)


COMPRESSED = ("*.tar.*", "*.tgz", "*.tbz2", "*.txz")


@dataclass(frozen=True, kw_only=True)
class TarShards(DatasetSource):
    """Tar files in WebDataset's style, for sets that do not fit as single files: KEY.jpg beside KEY.cls.

    Any picture is read at its place in the shard, without unpacking; the shards must not be compressed.

    Attributes:
        path: A folder with train-*.tar and test-*.tar (or val-*.tar), or one file, which is then both splits.
        label: Where the class is: a number in KEY.cls, a field of KEY.json, the folder part of the key, or nowhere.
        field: Which field of KEY.json.
    """

    name = "tar"
    path: Path
    label: Literal["cls", "json", "folder", "none"] = "cls"
    field: str = "label"

    def check(self) -> None:
        if not self.path.exists():
            raise OODError(f"{self.path}: no such folder or file; the option 'path' sets it")

    def open(self, split: Split) -> ImageSet:
        self.check()
        shards = [read(file, self.label, self.field) for file in self._files(split)]
        passed = PassedOver()
        for name in (name for shard in shards for name in shard.others):
            parts = PurePosixPath(name).parts
            passed.add_name(next(filter(is_hidden, parts), parts[-1]))
        other: Split = "test" if split == "train" else "train"
        files = [] if self.path.is_file() else self._found(other)
        # both splits number the same classes
        every = [*shards, *(read(file, self.label, self.field) for file in files)]
        names = sorted({label for shard in every for label in shard.labels}, key=numbers_first)
        require_distinct(names, str(self.path))
        if self.label in ("cls", "json") and all(name.isdecimal() for name in names):
            names = list(numbered(int(names[-1]), str(self.path)))
        images = TarImages(shards, tuple(names))
        images.notes = passed.notes(f"{self.path} ({split} split)")
        return images

    def _found(self, split: Split) -> list[Path]:
        return next(filter(None, (sorted(self.path.glob(f"{name}*.tar")) for name in SPLIT_NAMES[split])), [])

    def _files(self, split: Split) -> list[Path]:
        if files := [self.path] if self.path.is_file() else self._found(split):
            return files
        packed = next((file for pattern in COMPRESSED for file in sorted(self.path.glob(pattern))), None)
        hint = f"; {packed.name} is compressed, unpack it to .tar" if packed is not None else ""
        wanted = " or ".join(f"{name}*.tar" for name in SPLIT_NAMES[split])
        raise OODError(f"{self.path}: no {wanted} for the {split} split, only {listing(self.path)}{hint}")


class TarImages(ImageSet):
    """Pictures within tar files. It holds no open file, so that it can be used in forked processes."""

    encoded = True

    def __init__(self, shards: list[Shard], classes: tuple[str, ...]) -> None:
        numbers = {name: number for number, name in enumerate(classes)}
        self.classes = classes
        self.labels = [numbers[label] for shard in shards for label in shard.labels]
        content = digest_files([shard.path for shard in shards]), classes, self.labels
        self.fingerprint = sha256(repr(content).encode()).hexdigest()
        self._shards = shards
        self._starts = list(accumulate((len(shard.names) for shard in shards), initial=0))[:-1]

    def image(self, index: int) -> PIL.Image.Image:
        number = bisect_right(self._starts, index) - 1
        shard, row = self._shards[number], index - self._starts[number]
        start, length = shard.places[row]
        try:
            with shard.path.open("rb") as opened:
                opened.seek(start)
                encoded = opened.read(length)
        except OSError as error:
            raise OODError(f"{shard.path}: {shard.names[row]} cannot be read: {error.strerror}") from error
        return decode(BytesIO(encoded), f"{shard.path}: {shard.names[row]}")

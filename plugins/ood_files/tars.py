"""Tar shards in the style of WebDataset: members of one key are one sample, an image and what belongs to it."""

from __future__ import annotations

import json
import tarfile
from bisect import bisect_right
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Literal

import PIL.Image

from ood_core.decoding import decode
from ood_core.errors import OODError
from ood_core.files import digest_files, listing
from ood_core.image_files import SUFFIXES, UNLABELLED, numbers_first, require_distinct
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.manifests import SPLIT_NAMES


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
        """Raise OODError where there is no such folder or file."""
        if not self.path.exists():
            raise OODError(f"{self.path}: no such folder or file")

    def open(self, split: Split) -> ImageSet:
        """Return the samples of one split, shard by shard in the order of their names."""
        self.check()
        shards = [_Shard.read(file, self.label, self.field) for file in self._files(split)]
        names = sorted(
            {label for shard in (*shards, *self._others(split)) for label in shard.labels}, key=numbers_first
        )
        if all(name.isdecimal() for name in names):
            names = [str(number) for number in range(int(names[-1]) + 1)]
        require_distinct(names, str(self.path))
        return TarImages(shards, tuple(names))

    def _others(self, split: Split) -> list[_Shard]:
        """Return the shards of the other split, if there is one: both number the same classes."""
        other: Split = "test" if split == "train" else "train"
        if self.path.is_file() or not any(any(self.path.glob(f"{name}*.tar")) for name in SPLIT_NAMES[other]):
            return []
        return [_Shard.read(file, self.label, self.field) for file in self._files(other)]

    def _files(self, split: Split) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        for name in SPLIT_NAMES[split]:
            if files := sorted(self.path.glob(f"{name}*.tar")):
                return files
        packed = next(iter(sorted(self.path.glob("*.tar.*"))), None)
        hint = f"; {packed.name} is compressed, unpack it to .tar" if packed is not None else ""
        wanted = " or ".join(f"{name}*.tar" for name in SPLIT_NAMES[split])
        raise OODError(f"{self.path}: no {wanted} for the {split} split, only {listing(self.path)}{hint}")


@dataclass(frozen=True)
class _Shard:
    path: Path
    labels: list[str]
    names: list[str]
    places: list[tuple[int, int]]
    """Where the picture of each sample begins, and how long it is."""

    @classmethod
    def read(cls, path: Path, label: str, field: str) -> _Shard:
        """Return the index of a shard."""
        shard = cls(path, [], [], [])
        try:
            with tarfile.open(path, "r:") as tar:
                members = {member.name: member for member in tar if member.isfile()}
                for name, member in members.items():
                    key, suffix = _parts(name)
                    if suffix.lower() in SUFFIXES:
                        shard.labels.append(_label(tar, members, key, (label, field)))
                        shard.names.append(name)
                        shard.places.append((member.offset_data, member.size))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise OODError(f"{path}: not a whole, uncompressed tar file: {error}") from error
        size = path.stat().st_size
        if cut := next(
            (n for n, (at, length) in zip(shard.names, shard.places, strict=True) if at + length > size), None
        ):
            raise OODError(f"{path}: the file ends within {cut}")
        if not shard.names:
            raise OODError(f"{path}: no pictures in it")
        return shard


class TarImages(ImageSet):
    """Pictures within tar files. It holds no open file, so that it can be used in forked processes."""

    encoded = True

    def __init__(self, shards: list[_Shard], classes: tuple[str, ...]) -> None:
        numbers = {name: number for number, name in enumerate(classes)}
        self.classes = classes
        self.labels = [numbers[label] for shard in shards for label in shard.labels]
        content = digest_files([shard.path for shard in shards]), classes, self.labels
        self.fingerprint = sha256(repr(content).encode()).hexdigest()
        self._shards = shards
        self._starts = list(accumulate((len(shard.names) for shard in shards), initial=0))[:-1]

    def image(self, index: int) -> PIL.Image.Image:
        """Return one picture, in the mode it is stored in."""
        number = bisect_right(self._starts, index) - 1
        shard, row = self._shards[number], index - self._starts[number]
        start, length = shard.places[row]
        with shard.path.open("rb") as opened:
            opened.seek(start)
            encoded = opened.read(length)
        return decode(BytesIO(encoded), f"{shard.path}: {shard.names[row]}")


def _parts(name: str) -> tuple[str, str]:
    """Return the key of a member, everything up to the first dot of its last part, and its ending."""
    path = PurePosixPath(name)
    key, dot, _ = path.name.partition(".")
    return str(path.with_name(key)) if dot and key else name, path.suffix


def _label(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], key: str, asked: tuple[str, str]) -> str:
    kind, field = asked
    if kind == "none":
        return UNLABELLED
    if kind == "folder":
        return PurePosixPath(key).parent.name or UNLABELLED
    where = str(tar.name)
    beside = members.get(f"{key}.{kind}")
    opened = tar.extractfile(beside) if beside is not None else None
    if opened is None:
        raise OODError(f"{where}: no {key}.{kind} beside the picture; 'label' says where classes are")
    text = opened.read().decode("utf-8", "replace").strip()
    if kind == "json":
        try:
            text = str(json.loads(text)[field])
        except (ValueError, KeyError, TypeError) as error:
            raise OODError(f"{where}: {key}.json has no field '{field}'") from error
    return text

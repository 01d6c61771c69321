"""Tar shards in the style of WebDataset: members of one key are one sample, an image and what belongs to it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Literal

import PIL.Image

from ood_core.data.decoding import decode
from ood_core.data.files import digest_files, listing
from ood_core.data.folders import SPLIT_NAMES, PassedOver, is_hidden
from ood_core.data.image_files import numbers_first, require_distinct
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.labels import numbered
from ood_files.shards import Shard, read

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

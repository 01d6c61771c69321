"""Lists of pictures in text files: a path and a label in each line, the format of OpenOOD's benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ood_core.errors import OODError
from ood_core.image_files import UNLABELLED, FileImages, require_distinct, require_files
from ood_core.interfaces import DatasetSource, ImageSet, Split

NO_LABEL = -1
"""What a list has for pictures of no known class."""


@dataclass(frozen=True, kw_only=True)
class ImageList(DatasetSource):
    """Text files with `path label` in each line, as OpenOOD's benchmark_imglist.

    Attributes:
        train: The list of the training split.
        test: That of the test split; one of the two will do.
        path: The folder that the listed paths are relative to; that of the list itself where it is not given.
        names: A file with the name of each class, a line each; numbers stand for names without it.
    """

    name = "image-list"
    train: Path | None = None
    test: Path | None = None
    path: Path | None = None
    names: Path | None = None

    def check(self) -> None:
        """Raise OODError where no list is given."""
        if self.train is None and self.test is None:
            raise OODError(f"dataset '{self.name}' needs 'train' or 'test', the list of a split")

    def open(self, split: Split) -> ImageSet:
        """Return the pictures of one list, in its order."""
        self.check()
        listed = self.train if split == "train" else self.test
        if listed is None:
            raise OODError(f"dataset '{self.name}' has no list for the {split} split; the option '{split}' sets it")
        entries = _read(listed)
        root = self.path or listed.parent
        paths = [root / name for name, _ in entries]
        if not root.is_dir():
            raise OODError(f"{root}: no such folder; the option 'path' sets what the paths in {listed} are relative to")
        require_files(paths, str(listed))
        classes = self._classes()
        labels = [max(label, 0) for _, label in entries]
        _check(listed, [label for _, label in entries], len(classes))
        return FileImages(paths, labels, classes)

    def _classes(self) -> tuple[str, ...]:
        """Return the names of the classes; without names, of as many as the lists of both splits number."""
        if self.names is not None:
            classes = tuple(line for line in _lines(self.names) if line.strip())
            require_distinct(classes, str(self.names))
            return classes
        lists = [path for path in (self.train, self.test) if path is not None and path.is_file()]
        largest = max(label for path in lists for _, label in _read(path))
        return (UNLABELLED,) if largest == NO_LABEL else tuple(map(str, range(largest + 1)))


def _read(path: Path) -> list[tuple[str, int]]:
    """Return the paths and labels of a list."""
    entries = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.lstrip("-").isdecimal():
            raise OODError(f"{path}: line {number} is not 'path label': {line.strip()}")
        entries.append((name.strip(), int(label)))
    if not entries:
        raise OODError(f"{path}: the list is empty")
    return entries


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise OODError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OODError(f"{path}: cannot be read: {error}") from error


def _check(path: Path, labels: list[int], classes: int) -> None:
    if NO_LABEL in labels and any(label != NO_LABEL for label in labels):
        raise OODError(f"{path}: some pictures have the label {NO_LABEL}, no class, and others have a class")
    outside = next((label for label in labels if label < NO_LABEL or label >= classes), None)
    if outside is not None:
        raise OODError(f"{path}: label {outside} is not a class number below {classes}")

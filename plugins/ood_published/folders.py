"""Folders of pictures that are no folders of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ood_core.data.files import listing
from ood_core.data.folders import PassedOver, class_folders, pictures_in
from ood_core.data.image_files import UNLABELLED, FileImages, require_distinct
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split

SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("val", "test")}


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty; raise OODError if it cannot be read."""
    if not path.is_file():
        raise OODError(f"{path}: no such file")
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise OODError(f"{path}: cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True)
class FlatFolder(DatasetSource):
    """Pictures in a folder and beneath it, all of one class; both splits are all of them.

    Attributes:
        path: The folder.
        label: What the one class is called.
    """

    name = "flat-folder"
    path: Path
    label: str = UNLABELLED

    def open(self, split: Split) -> ImageSet:
        if not self.path.is_dir():
            raise OODError(f"{self.path}: no such folder")
        passed = PassedOver()
        pictures = pictures_in(self.path, passed)
        if not pictures:
            raise OODError(passed.behind(f"{self.path}: no pictures, only {listing(self.path)}"))
        return FileImages(pictures, [0] * len(pictures), [self.label], passed.notes(self.path))


@dataclass(frozen=True, kw_only=True)
class WordNetFolders(DatasetSource):
    """ImageNet's layout, train/WNID/*.JPEG and val/WNID/*.JPEG, or some classes carved out of it.

    Attributes:
        path: The folder with `train` and `val`.
        wnids: A file with the classes to keep, in label order: a WordNet id and a name in each line. Without it all
            folders are classes, under their WordNet ids.
    """

    name = "wnids"
    path: Path
    wnids: Path | None = None

    def open(self, split: Split) -> ImageSet:
        root = next((self.path / name for name in SPLITS[split] if (self.path / name).is_dir()), None)
        if root is None:
            wanted = " or ".join(str(self.path / name) for name in SPLITS[split])
            raise OODError(f"{wanted}: no such folder")
        passed = PassedOver()
        classes = self._classes(root, passed)
        if absent := [wnid for wnid in classes if not (root / wnid).is_dir()]:
            raise OODError(f"{root}: no folder for {len(absent)} of {len(classes)} classes, such as {absent[0]}")
        pictures = [pictures_in(root / wnid, passed) for wnid in classes]
        labels = [label for label, of_class in enumerate(pictures) for _ in of_class]
        if not labels:
            raise OODError(f"{root}: no pictures in its folders")
        paths = [path for of_class in pictures for path in of_class]
        return FileImages(paths, labels, list(classes.values()), passed.notes(root))

    def _classes(self, root: Path, passed: PassedOver) -> dict[str, str]:
        if self.wnids is None:
            folders = [folder.name for folder in class_folders(root, passed)]
            return dict(zip(folders, folders, strict=True))
        pairs = [line.split(maxsplit=1) for line in read_lines(self.wnids)]
        classes = {pair[0]: pair[-1].strip() for pair in pairs}
        require_distinct(classes.values(), str(self.wnids))
        return classes

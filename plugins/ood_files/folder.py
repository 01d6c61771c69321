"""Folders of pictures, one folder a class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ood_core.errors import OODError
from ood_core.files import listing
from ood_core.image_files import SUFFIXES, pictures_in, require_distinct
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import file_images

SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}


@dataclass(frozen=True, kw_only=True)
class ImageFolder(DatasetSource):
    """Pictures in one folder a class, `path/cat/1.png`, or so for each split, `path/train/cat/1.png`.

    The test split is in the folder `test` or `val`. Without folders for the splits, both are all pictures.
    A class is known to both splits if it has a folder in either.

    Attributes:
        path: The folder.
    """

    name = "folder"
    path: Path

    def check(self) -> None:
        """Raise OODError where there is no such folder."""
        if not self.path.is_dir():
            raise OODError(f"{self.path}: {'not a folder' if self.path.exists() else 'no such folder'}")

    def open(self, split: Split) -> ImageSet:
        """Return the pictures of one split, sorted by class and name."""
        self.check()
        try:
            return self._open(split)
        except OSError as error:
            raise OODError(f"{error.filename or self.path}: cannot be read: {error.strerror}") from error

    def _open(self, split: Split) -> ImageSet:
        roots = _split_roots(self.path)
        if split not in roots:
            wanted = " or ".join(SPLIT_FOLDERS[split])
            raise OODError(f"{self.path}: no folder {wanted} for the {split} split, only {listing(self.path)}")
        classes = sorted({folder.name for root in roots.values() for folder in _folders(root)})
        files = {name: pictures_in(roots[split] / name) for name in classes}
        if not any(files.values()):
            raise OODError(f"{roots[split]}: {_what_is_wrong(roots[split])}")
        require_distinct(classes, str(self.path))
        labels = [label for label, paths in enumerate(files.values()) for _ in paths]
        paths = [path for paths in files.values() for path in paths]
        return file_images(paths, labels, classes, str(roots[split]))


def _split_roots(path: Path) -> dict[Split, Path]:
    names = {folder.name for folder in _folders(path)}
    # A class may be called "train": it takes both splits, or nothing beside them, to be read as splits.
    both = "train" in names and names & {"test", "val"}
    if not names or not (both or names <= {"train", "test", "val"}):
        return {"train": path, "test": path}
    found = {split: [path / name for name in folders if name in names] for split, folders in SPLIT_FOLDERS.items()}
    return {split: folders[0] for split, folders in found.items() if folders}


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder.

    Raises:
        OODError: One is a link that leads nowhere, in a circle, or to a folder above.
        OSError: One may not be read.
    """
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_symlink():
            _require_below(entry, path)
    folders = [entry for entry in entries if entry.is_dir()]
    for folder in folders:
        os.scandir(folder).close()  # pictures_in passes over folders that may not be read
    return folders


def _require_below(link: Path, path: Path) -> None:
    if not link.exists():
        raise OODError(f"{link}: a link that leads nowhere, or in a circle")
    if path.resolve().is_relative_to(link.resolve()):
        raise OODError(f"{link}: a link to a folder that it lies in")


def _what_is_wrong(root: Path) -> str:
    if any(path.suffix.lower() in SUFFIXES for path in root.iterdir()):
        return "the pictures lie in no class folder; put them into one folder a class"
    return f"no pictures in class folders, only {listing(root)}"

"""Folders of pictures, one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ood_core.data.files import listing
from ood_core.data.folders import NO_CLASS, SPLIT_NAMES, PassedOver, class_folders, is_dir, pictures_in, split_folders
from ood_core.data.image_files import require_distinct
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import file_images


@dataclass(frozen=True, kw_only=True)
class ImageFolder(DatasetSource):
    """Pictures in one folder a class, `path/cat/1.png`, or so for each split, `path/train/cat/1.png`.

    The splits are called `train` (or `training`) and `test` (or `val`, `valid`, `validation`). Without folders for the
    splits, both are all pictures. A class is known to both splits if it has a folder in either. Hidden folders and
    files of other formats are passed over and counted in a note.

    Attributes:
        path: The folder.
    """

    name = "folder"
    path: Path

    def check(self) -> None:
        if not is_dir(self.path):
            raise OODError(f"{self.path}: {'not a folder' if self.path.exists() else 'no such folder'}")

    def open(self, split: Split) -> ImageSet:
        self.check()
        beside, passed = PassedOver(), PassedOver()
        splits = split_folders(self.path, beside)
        roots = splits or {"train": self.path, "test": self.path}
        if split not in roots:
            wanted = f"no folder {SPLIT_NAMES[split][0]} for the {split} split"
            raise OODError(f"{self.path}: {wanted}, only {listing(self.path)}")
        root = roots[split]
        others = (class_folders(other, PassedOver()) for other in roots.values() if other != root)
        found = [*class_folders(root, passed), *(folder for folders in others for folder in folders)]
        classes = sorted({folder.name for folder in found})
        files = {name: pictures_in(root / name, passed) for name in classes}
        if not any(files.values()):
            without = passed.behind(f"no pictures in class folders, only {listing(root)}")
            stray = "the pictures lie in no class folder; put them into one folder a class"
            raise OODError(f"{root}: {stray if passed.reasons[NO_CLASS] else without}")
        require_distinct(classes, str(self.path))
        labels = [label for label, paths in enumerate(files.values()) for _ in paths]
        paths = [path for paths in files.values() for path in paths]
        notes = (*(beside.notes(self.path) if splits else ()), *passed.notes(root))
        return file_images(paths, labels, classes, str(root), notes=notes)

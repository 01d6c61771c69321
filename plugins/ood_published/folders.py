"""Layouts in which published sets are distributed: folders, or lists of which picture is of what class and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ood_core.data.files import listing, reading
from ood_core.data.folders import PassedOver, class_folders, pictures_in
from ood_core.data.image_files import UNLABELLED, FileImages, require_distinct, require_files
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split

SCENE_LISTS: dict[Split, str] = {"train": "places365_train_standard.txt", "test": "places365_val.txt"}
SCENE_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("data_256_standard", "data_256", "data_large_standard"),
    "test": ("val_256", "val_large"),
}
"""Where the pictures of Places365 may lie; the smaller ones come first, which OOD detection is measured with."""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty; raise OODError if it cannot be read."""
    if not path.is_file():
        raise OODError(f"{path}: no such file")
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise OODError(f"{path}: cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True)
class TinyImageNet(DatasetSource):
    """Tiny ImageNet as it is distributed: train/WNID/images, val/images with val_annotations.txt, words.txt.

    Attributes:
        path: The folder, tiny-imagenet-200.
    """

    name = "tiny-imagenet"
    path: Path

    def open(self, split: Split) -> ImageSet:
        """Return one split; the validation images are the test split, whose labels are public."""
        wnids = read_lines(self.path / "wnids.txt")
        words = dict(line.split("\t", 1) for line in read_lines(self.path / "words.txt") if "\t" in line)
        names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
        repeated = {name for name in names if names.count(name) > 1}
        classes = [f"{n} ({wnid})" if n in repeated else n for n, wnid in zip(names, wnids, strict=True)]
        if split == "train":
            passed = PassedOver()
            folders = [self.path / "train" / wnid / "images" for wnid in wnids]
            found = [(path, label) for label, folder in enumerate(folders) for path in pictures_in(folder, passed)]
            if not found:
                raise OODError(f"{self.path / 'train'}: no pictures in WNID/images")
            notes = passed.notes(self.path / "train")
            return FileImages([path for path, _ in found], [label for _, label in found], classes, notes)
        listed = self.path / "val" / "val_annotations.txt"
        rows = [line.split("\t") for line in read_lines(listed)]
        numbers = {wnid: label for label, wnid in enumerate(wnids)}
        for row in rows:
            if len(row) < 2 or row[1] not in numbers:
                raise OODError(f"{listed}: '{' '.join(row[:2])}' names no class of wnids.txt")
        paths = [self.path / "val" / "images" / row[0] for row in rows]
        return _listed_images(paths, [numbers[row[1]] for row in rows], classes, listed)


@dataclass(frozen=True, kw_only=True)
class Birds(DatasetSource):
    """CUB-200-2011 as it is distributed, with its own split into training and test.

    Attributes:
        path: The folder CUB_200_2011.
    """

    name = "cub"
    path: Path

    def open(self, split: Split) -> ImageSet:
        pictures, classes = _table(self.path / "images.txt"), _table(self.path / "classes.txt")
        labels, training = _table(self.path / "image_class_labels.txt"), _table(self.path / "train_test_split.txt")
        chosen = [key for key in pictures if (training.get(key) == "1") == (split == "train")]
        numbers = {key: number for number, key in enumerate(classes)}
        for key in chosen:
            if labels.get(key) not in numbers:
                raise OODError(f"{self.path / 'image_class_labels.txt'}: no class for image {key}")
        paths = [self.path / "images" / pictures[key] for key in chosen]
        names = [name.partition(".")[2] or name for name in classes.values()]
        return _listed_images(paths, [numbers[labels[key]] for key in chosen], names, self.path / "images.txt")


@dataclass(frozen=True, kw_only=True)
class Dogs(DatasetSource):
    """Stanford Dogs as it is distributed: Images/WNID-breed/*.jpg, and the split in train_list.mat and test_list.mat.

    Attributes:
        path: The folder with `Images` and the lists (or `lists`).
    """

    name = "stanford-dogs"
    path: Path

    def open(self, split: Split) -> ImageSet:
        file = f"{split}_list.mat"
        found = next((path for path in (self.path / file, self.path / "lists" / file) if path.is_file()), None)
        if found is None:
            raise OODError(f"{self.path / file}: no such file")
        from scipy.io import loadmat  # slow

        with reading(found, "not one of Stanford Dogs' lists"):
            content = loadmat(found)
            names = [str(row[0][0]) for row in content["file_list"]]
            labels = [int(row[0]) - 1 for row in content["labels"]]
        paths = [self.path / "Images" / name for name in names]
        folders = {label: PurePosixPath(name).parent.name for name, label in zip(names, labels, strict=True)}
        breeds = {label: folder.partition("-")[2] or folder for label, folder in folders.items()}
        classes = [breeds.get(label, str(label)) for label in range(max(labels) + 1)]
        return _listed_images(paths, labels, classes, found)


@dataclass(frozen=True, kw_only=True)
class Scenes(DatasetSource):
    """Places365 as it is distributed: lists of pictures with their labels, beside val_256 and data_256_standard.

    Attributes:
        path: The folder with the lists.
    """

    name = "places365"
    path: Path

    def open(self, split: Split) -> ImageSet:
        """Return one split; the validation pictures are the test split, whose labels are public."""
        listed = self.path / SCENE_LISTS[split]
        entries, classes = _table(listed), _table(self.path / "categories_places365.txt")
        labels = {number: label for label, number in enumerate(classes.values())}
        for name, number in entries.items():
            if number not in labels:
                raise OODError(f"{listed}: {name} has label {number}, which is not in categories_places365.txt")
        places = [self.path / name for name in SCENE_FOLDERS[split]]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise OODError(f"{' or '.join(map(str, places))}: no such folder")
        paths = [folder / name.lstrip("/") for name in entries]
        return _listed_images(paths, [labels[number] for number in entries.values()], list(classes), listed)


def _listed_images(paths: list[Path], labels: list[int], classes: list[str], listed: Path) -> FileImages:
    require_files(paths, str(listed))
    return FileImages(paths, labels, classes)


def _table(path: Path) -> dict[str, str]:
    """Return a file of two columns as a mapping, in its order."""
    rows = [line.split(maxsplit=1) for line in read_lines(path)]
    for row in rows:
        if len(row) < 2:
            raise OODError(f"{path}: '{row[0]}' is not two columns")
    return {key: value.strip() for key, value in rows}


SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("val", "test")}


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
        wnids: A file with a WordNet id and a name in each line, the classes in label order; default: all folders.
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

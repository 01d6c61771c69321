"""Reading folders: their pictures, classes and splits, and counts of skipped files by reason.

Recipes, detectors and the shell share it, so that they agree. Everything is sorted by name, character by character, on
every platform. No file is opened: a picture is recognised by its suffix.
"""

from __future__ import annotations

import errno
import heapq
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ood_core.errors import OODError
from ood_core.escapes import printable
from ood_core.interfaces import Split

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tga", ".qoi", ".avif"}
)
"""Suffixes of picture formats that Pillow decodes without further libraries."""

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
"""Names of splits, of folders or in tables; the first that exists is used."""

SYSTEM = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
    | {"Thumbs.db", "desktop.ini"}
)
"""Names that operating systems, archives and storage devices put beside pictures; hidden, like names with a dot."""

AT_ONCE = 20_000  # names of one folder that are in memory at once, unless all are needed
SHOWN = 5  # suffixes that a note lists

HIDDEN_FILE, HIDDEN_FOLDER = "{} hidden file{s}", "{} hidden folder{s}"
NO_SUFFIX = "{} file{s} without a suffix"
DEAD_LINK = "{} dead link{s}"
CIRCLE = "{} link{s} back into the same folders"
NO_CLASS = "{} picture{s} in no class folder"
BESIDE = "{} folder{s} beside the splits"


@dataclass
class PassedOver:
    """Counts of skipped files and folders by reason."""

    reasons: Counter[str] = field(default_factory=Counter)  # by message template, with the count and the plural s
    suffixes: Counter[str] = field(default_factory=Counter)  # files of other formats, by suffix

    def add_file(self, entry: os.DirEntry[str]) -> None:
        """Count a file that is no picture."""
        if entry.is_symlink() and not is_hidden(entry.name) and not os.path.exists(entry.path):  # noqa: PTH110
            self.reasons[DEAD_LINK] += 1
        else:
            self.add_name(entry.name)

    def add_name(self, name: str) -> None:
        """Count a file that is no picture by its name."""
        suffix = _suffix(name)
        if is_hidden(name):
            self.reasons[HIDDEN_FILE] += 1
        elif len(suffix) < 2:
            self.reasons[NO_SUFFIX] += 1
        else:
            self.suffixes[suffix] += 1

    def __str__(self) -> str:
        """Return "passed over: 2 hidden files, 3 files of other formats (2 .heic, 1 .txt)", or nothing."""
        parts = [reason.format(count, s="" if count == 1 else "s") for reason, count in sorted(self.reasons.items())]
        if count := self.suffixes.total():
            most = sorted(self.suffixes.items(), key=lambda pair: (-pair[1], pair[0]))
            listed = [f"{of} {suffix}" for suffix, of in most[:SHOWN]] + ["..."] * (len(most) > SHOWN)
            parts.append(f"{count} file{'s' * (count > 1)} of other formats ({', '.join(listed)})")
        return printable(f"passed over: {', '.join(parts)}") if parts else ""

    def notes(self, where: object) -> tuple[str, ...]:
        """Return a line with the counts; none if nothing was skipped."""
        return (f"{where}: {self}",) if self.reasons or self.suffixes else ()

    def behind(self, error: str) -> str:
        """Return an error with the counts appended."""
        return f"{error}; {self}" if self.reasons or self.suffixes else error


def is_picture(name: str) -> bool:
    """Return whether a file of this name is read as a picture."""
    return _suffix(name) in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is skipped because of its name."""
    return name.startswith(".") or name in SYSTEM


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a third of the time of pathlib


def is_dir(path: Path) -> bool:
    """Return whether this is a folder, or a link to one; OODError if a parent folder is not readable."""
    try:
        return path.is_dir()
    except OSError as error:
        raise OODError(f"{path}: cannot be read: {error.strerror}") from error


def pictures_in(folder: Path, passed: PassedOver) -> list[Path]:
    """Return all pictures in a folder and beneath it, sorted by path; OODError if a folder may not be read."""
    return [Path(path) for path in pictures(str(folder), passed, at_once=None, refuse=True)]


def pictures(folder: str, passed: PassedOver, *, at_once: int | None = AT_ONCE, refuse: bool = False) -> Iterator[str]:
    """Yield the paths of all pictures in a folder and beneath it, sorted by path.

    Links to folders are followed, except for those that lead to a folder which is read anyway, or which holds this one.
    A folder of more than `at_once` names is read once for each so many. An unreadable one is an OODError with
    `refuse`; otherwise its path is yielded as well. Skipped files are added to `passed`.
    """
    links = _Links(os.path.realpath(folder))
    opened = [(folder, entries(folder, at_once))]
    while opened:
        path, inside = opened[-1]
        try:
            entry = next(inside, None)
        except OSError as error:
            opened.pop()
            yield from _unreadable(path, error, refuse)
            continue
        if entry is None:
            opened.pop()
            continue
        try:
            if not is_folder(entry):
                if is_picture(entry.name):
                    yield entry.path
                else:
                    passed.add_file(entry)
            elif reason := HIDDEN_FOLDER if is_hidden(entry.name) else links.objection(entry):
                passed.reasons[reason] += 1
            else:
                opened.append((entry.path, entries(entry.path, at_once)))
        except OSError as error:
            yield from _unreadable(entry.path, error, refuse)


def _unreadable(path: str, error: OSError, refuse: bool) -> list[str]:
    if isinstance(error, FileNotFoundError):  # it has vanished, or a class has no folder in one of the splits
        return []
    if refuse:
        raise OODError(f"{path}: cannot be read: {error.strerror}") from error
    return [path]


def entries(folder: str, at_once: int | None = None) -> Iterator[os.DirEntry[str]]:
    """Yield what a folder holds, sorted by name."""
    last = ""
    while True:
        with os.scandir(folder or os.curdir) as found:
            if at_once is None:
                yield from sorted(found, key=lambda entry: entry.name)
                return
            later = (entry for entry in found if entry.name > last)
            chunk = heapq.nsmallest(at_once, later, key=lambda entry: entry.name)
        yield from chunk
        if len(chunk) < at_once:
            return
        last = chunk[-1].name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a folder, or a link to one; a link in a circle is none. OSError if that is unclear."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


class _Links:
    """Finds links to folders that are read anyway, or lead in a circle."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.seen: set[tuple[int, int]] = set()  # device and inode of the folders at and below links

    def objection(self, entry: os.DirEntry[str]) -> str | None:
        """Return why a folder is not entered, None if it is."""
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            inside = target.relative_to(self.root).parts if target.is_relative_to(self.root) else None
            if self.root.is_relative_to(target) or (inside is not None and not any(map(is_hidden, inside))):
                return CIRCLE
        elif not self.seen:
            return None
        status = Path(entry.path).stat()
        if (status.st_dev, status.st_ino) in self.seen:
            return CIRCLE
        self.seen.add((status.st_dev, status.st_ino))
        return None


def class_folders(folder: Path, passed: PassedOver) -> list[Path]:
    """Return the folders in a folder, each of which is a class, sorted by name; other entries are added to `passed`.

    Raises:
        OODError: One is a link that leads nowhere, in a circle, or to a folder above; may not be read; has splits of
            its own, or a name that is no UTF-8.
    """
    found = _folders(folder, passed)
    for one in found:
        splits = [next((n for n in names if (one / n).is_dir()), None) for names in SPLIT_NAMES.values()]
        if None not in splits:
            both = " and ".join(map(str, splits))
            raise OODError(f"{folder}: '{one.name}' in it is no class but a data set with the splits {both}; say {one}")
    return found


def split_folders(folder: Path, passed: PassedOver) -> dict[Split, Path]:
    """Return the folders of the splits; none where the folders are classes.

    A class may be called "train": it takes both splits, or nothing beside them, to be read as splits. Other entries
    are added to `passed`. Raises OODError as `class_folders`.
    """
    there = {one.name.casefold(): one for one in _folders(folder, passed)}
    found = {split: [there[name] for name in names if name in there] for split, names in SPLIT_NAMES.items()}
    splits = {split: named[0] for split, named in found.items() if named}
    if len(splits) < len(SPLIT_NAMES) and not there.keys() <= set(chain(*SPLIT_NAMES.values())):
        return {}
    if len(there) > len(splits):
        passed.reasons[BESIDE] += len(there) - len(splits)
    return splits


def _folders(folder: Path, passed: PassedOver) -> list[Path]:
    found = []
    try:
        for entry in entries(str(folder)):
            path = folder / entry.name
            if is_hidden(entry.name):
                passed.reasons[HIDDEN_FOLDER if is_folder(entry) else HIDDEN_FILE] += 1
                continue
            if entry.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - never raises
                raise OODError(f"{path}: a link that leads nowhere, or in a circle")
            if entry.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
                raise OODError(f"{path}: a link to a folder that it lies in")
            if is_folder(entry):
                os.scandir(path).close()  # a class that silently has no images would be a wrong number
                entry.name.encode()  # classes have names in UTF-8
                found.append(path)
            elif is_picture(entry.name):
                passed.reasons[NO_CLASS] += 1
            else:
                passed.add_file(entry)
    except UnicodeEncodeError as error:
        raise OODError(f"{folder}: the class folder {os.fsencode(error.object)!r} has no name in UTF-8") from None
    except OSError as error:
        raise OODError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
    return found

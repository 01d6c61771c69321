"""Lists of pictures in text files: a path and a label in each line, the format of OpenOOD's benchmarks, or as CSV."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ood_core.data.image_files import MOST_DIGITS, UNLABELLED, numbers_first
from ood_core.errors import OODError, suggest
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_files.pictures import encoding, file_images, located, named, numbered, reading_text

NO_LABEL = -1  # what a list has for pictures of no known class

Entries: TypeAlias = list[tuple[str, int]]
Named: TypeAlias = list[tuple[str, str]]
Lines: TypeAlias = list[tuple[int, str]]

# The path may have blanks in it. OpenOOD reads a dict as well where the label stands.
_LINE = re.compile(r"(?P<path>.+?)(?:\s*[,;]\s*|\s+)(?:(?P<label>[+-]?\d+)\s*)?(?P<more>[{\[].*[}\]])?")
_SEPARATORS = ("\t", ";", ",")


@dataclass(frozen=True, kw_only=True)
class ImageList(DatasetSource):
    """Text files with `path label` in each line, as OpenOOD's benchmark_imglist.

    A comma, a semicolon or a tab may stand between the two. Labels are numbers, or names if all are in all lists. What
    stands in brackets behind a number is left alone. Both splits have the classes of both lists.

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
        if self.train is None and self.test is None:
            raise OODError(f"dataset '{self.name}' needs 'train' or 'test', the list of a split")

    def open(self, split: Split) -> ImageSet:
        self.check()
        given = {option: path for option, path in (("train", self.train), ("test", self.test)) if path is not None}
        if split not in given:
            raise OODError(f"dataset '{self.name}' has no list for the {split} split; the option '{split}' sets it")
        lines: dict[Path, Lines] = {}
        for option, path in given.items():
            lines[path] = [(n, line.strip()) for n, line in enumerate(_lines(path, option), 1) if line.strip()]
            if not lines[path]:
                raise OODError(f"{path}: the list is empty")
        names = {path: _with_names(of) for path, of in lines.items()}
        if all(names.values()):
            lists, classes = self._of_names({path: of for path, of in names.items() if of is not None})
        else:
            lists = {path: _with_numbers(path, of) for path, of in lines.items()}
            classes = self._classes(lists)
        for path, entries in lists.items():
            if outside := [label for _, label in entries if not NO_LABEL <= label < len(classes)]:
                raise OODError(f"{path}: label {outside[0]} is not a class number below {len(classes)}")
        listed = given[split]
        root = self.path or listed.parent
        if not root.is_dir():
            raise OODError(f"{root}: no such folder; the option 'path' sets what the paths in {listed} are relative to")
        paths = [located(root, name) for name, _ in lists[listed]]
        return file_images(paths, [max(label, 0) for _, label in lists[listed]], classes, str(listed), "path")

    def _of_names(self, lists: Mapping[Path, Named]) -> tuple[dict[Path, Entries], tuple[str, ...]]:
        """Return the lists with numbers for names, and the names by number: in the order of `names`, or sorted."""
        used = {name: path for path, entries in lists.items() for _, name in entries}
        given = sorted(used, key=numbers_first) if self.names is None else _lines(self.names, "names")
        classes = named(given, " and ".join(map(str, lists)) if self.names is None else str(self.names))
        if unknown := sorted(used.keys() - set(classes)):
            raise OODError(f"{used[unknown[0]]}: no class '{unknown[0]}'.{suggest(unknown[0], classes)}")
        numbers = {name: number for number, name in enumerate(classes)}
        return {path: [(of, numbers[name]) for of, name in entries] for path, entries in lists.items()}, classes

    def _classes(self, lists: Mapping[Path, Entries]) -> tuple[str, ...]:
        """Return the names of the classes; without names, of as many as the lists of both splits number."""
        where = " and ".join(map(str, lists))
        labels = {label for entries in lists.values() for _, label in entries}
        if NO_LABEL in labels and len(labels) > 1:
            raise OODError(f"{where}: some pictures have the label {NO_LABEL}, no class, and others have a class")
        if self.names is None:
            return (UNLABELLED,) if NO_LABEL in labels else numbered(max(labels), where)
        if NO_LABEL in labels:
            raise OODError(f"{self.names}: names of classes, but all labels in {where} are {NO_LABEL}, no class")
        return named(_lines(self.names, "names"), str(self.names))


def _with_numbers(path: Path, lines: Lines) -> Entries:
    entries = []
    for number, line in lines:
        match = _LINE.fullmatch(line)
        label = _label(match["label"], match["more"]) if match else None
        if match is None or label is None:
            header = number == lines[0][0] and any(_LINE.fullmatch(other) for _, other in lines[1:])
            hint = ", as those below; a table with a header is read by 'manifest'" if header else ""
            raise OODError(f"{path}: line {number} is not 'path label'{hint}: {line}")
        entries.append((_unquoted(match["path"]), label))
    return entries


def _with_names(lines: Lines) -> Named | None:
    """Return paths and labels if all labels are names; names and paths have blanks only beside another separator."""
    separator = next((sign for sign in _SEPARATORS if all(sign in line for _, line in lines)), None)
    split = [line.split() if separator is None else line.rsplit(separator, 1) for _, line in lines]
    if not all(len(parts) == 2 and all(part.strip() for part in parts) for parts in split):
        return None
    entries = [(_unquoted(path.strip()), _unquoted(name.strip())) for path, name in split]
    # a number, or what OpenOOD writes in brackets, anywhere: no list of names
    return None if any(re.search(r"^[+-]?\d+$|[][{}]", name) for _, name in entries) else entries


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def _label(number: str | None, more: str | None) -> int | None:
    """Return the label of a line, None if it has none: a number, or that of a dict in its place."""
    if number is not None:
        return int(number) if len(number) <= MOST_DIGITS else None
    try:
        label = ast.literal_eval(more or "")["label"]
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError):  # the last of many brackets
        return None
    return label if isinstance(label, int) else None


def _lines(path: Path, option: str) -> list[str]:
    if not path.is_file():
        raise OODError(f"{path}: no such file; the option '{option}' sets it")
    with reading_text(path):
        return path.read_text(encoding=encoding(path)).rstrip().splitlines()

"""Pictures that are files of their own, with one line for those that are missing or may not be read."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ood_core.data.files import reading
from ood_core.data.image_files import FileImages, require_distinct, require_files
from ood_core.errors import OODError

MOST_CLASSES = 1_000_000  # a label above is a mistake: a date, or a number of the picture


def numbered(largest: int, where: str) -> tuple[str, ...]:
    """Return "0", "1", ... up to the largest label, whether or not each one occurs."""
    if largest >= MOST_CLASSES:
        raise OODError(f"{where}: label {largest} is not a class number below {MOST_CLASSES}")
    return tuple(map(str, range(largest + 1)))


def named(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Return names in label order, without blanks around them; raise OODError if one is empty or not unique."""
    classes = tuple(name.strip() for name in names)
    labels: dict[str, int] = {}
    for label, name in enumerate(classes):
        if not name:
            raise OODError(f"{where}: class {label} has no name")
        if labels.setdefault(name, label) != label:
            raise OODError(f"{where}: classes {labels[name]} and {label} are both called '{name}'")
    require_distinct(classes, where)
    return classes


def file_images(
    paths: Sequence[Path],
    labels: Sequence[int],
    classes: Sequence[str],
    listed: str,
    option: str | None = None,
    notes: Sequence[str] = (),
) -> FileImages:
    """Return `FileImages`; raise OODError if a path is missing, unreadable, or a link that leads nowhere.

    Errors name `listed`, the list or folder, and `option`, which sets the folder that paths are relative to.
    """
    hint = f"; the option '{option}' sets what the paths are relative to" if option is not None else ""
    try:
        try:
            require_files(paths, listed)
        except OODError as error:
            raise OODError(f"{error}{hint}") from error
        return FileImages(paths, labels, classes, notes)
    except OSError as error:
        raise OODError(f"{error.filename or listed}: cannot be read: {error.strerror}") from error


def located(root: Path, name: str) -> Path:
    """Return where a listed picture lies; backslashes part folders, as on Windows, unless a file is called so."""
    path = root / name
    return path if "\\" not in name or path.exists() else root / name.replace("\\", "/")


def encoding(path: Path) -> str:
    """Return how a text file is encoded by its byte order mark: UTF-8, or UTF-16 as Excel writes it."""
    with path.open("rb") as opened:
        return "utf-16" if opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


@contextmanager
def reading_text(path: Path) -> Iterator[None]:
    """Turn whatever the content of a text file raises into one line, which says how to encode it."""
    with reading(path):
        try:
            yield
        except UnicodeError as error:
            hint = "save it as UTF-8, or as UTF-16 with a byte order mark"
            raise OODError(f"{path}: cannot be read: {error}; {hint}") from error

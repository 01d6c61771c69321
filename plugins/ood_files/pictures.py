"""Pictures that are files of their own, with one line for those that are missing or may not be read."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path

from ood_core.data.image_files import FileImages, require_files
from ood_core.errors import OODError


def file_images(
    paths: Sequence[Path],
    labels: Sequence[int],
    classes: Sequence[str],
    listed: str,
    option: str | None = None,
    notes: Sequence[str] = (),
) -> FileImages:
    """Return `FileImages` after a check of the paths.

    Args:
        paths: Of the pictures.
        labels: Their classes.
        classes: Names of the classes, by label.
        listed: The list or folder that has them, for errors.
        option: The one that sets the folder that listed paths are relative to, for errors.
        notes: Of the set.

    Raises:
        OODError: One is missing, may not be read, or is a link that leads nowhere or in a circle.
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


def miscoded(path: Path, error: UnicodeError) -> OODError:
    """Return the error for a text file in another encoding."""
    return OODError(f"{path}: cannot be read: {error}; save it as UTF-8, or as UTF-16 with a byte order mark")

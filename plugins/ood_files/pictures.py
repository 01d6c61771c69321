"""Pictures that are files of their own, with one line for those that are missing or may not be read."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path

from ood_core.data.image_files import FileImages, require_files
from ood_core.errors import OODError


def file_images(
    paths: Sequence[Path], labels: Sequence[int], classes: Sequence[str], listed: str, option: str | None = None
) -> FileImages:
    """Return pictures by their paths.

    Args:
        paths: Where each one lies.
        labels: Their classes.
        classes: Names of the classes, by label.
        listed: Where they are listed, for errors.
        option: Which one sets the folder that listed paths are relative to, for errors.

    Raises:
        OODError: One is missing, may not be read, or is a link that leads nowhere or in a circle.
    """
    try:
        require_files(paths, listed)
    except OODError as error:
        hint = f"; the option '{option}' sets what the paths are relative to" if option is not None else ""
        raise OODError(f"{error}{hint}") from error
    except OSError as error:
        raise OODError(f"{error.filename or listed}: cannot be read: {error.strerror}") from error
    try:
        return FileImages(paths, labels, classes)
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

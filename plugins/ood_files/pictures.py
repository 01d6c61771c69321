"""Pictures that are files of their own, with one line for those that are missing or may not be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ood_core.errors import OODError
from ood_core.image_files import FileImages, require_files


def file_images(
    paths: Sequence[Path], labels: Sequence[int], classes: Sequence[str], listed: str, notes: Sequence[str] = ()
) -> FileImages:
    """Return pictures by their paths.

    Args:
        paths: Where each one lies.
        labels: Their classes.
        classes: Names of the classes, by label.
        listed: Where they are listed, for errors.
        notes: What a reader has to know of the set.

    Raises:
        OODError: One is missing, may not be read, or is a link that leads nowhere or in a circle.
    """
    try:
        require_files(paths, listed)
        return FileImages(paths, labels, classes, notes)
    except OSError as error:
        raise OODError(f"{error.filename or listed}: cannot be read: {error.strerror}") from error

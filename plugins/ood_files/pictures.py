"""Decoding, with an error that names the picture."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import PIL.Image

from ood_core.errors import OODError

_BROKEN = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError)  # what Pillow raises for broken files


def decode(source: BinaryIO | Path, where: str) -> PIL.Image.Image:
    """Return the decoded picture, in its own mode.

    Args:
        source: A picture in any format Pillow knows.
        where: What the error calls the picture.

    Raises:
        OODError: There is no picture, or it is broken.
    """
    try:
        with PIL.Image.open(source) as picture:
            picture.load()
            return picture
    except PIL.UnidentifiedImageError as error:
        raise OODError(f"{where}: not a picture in a known format") from error
    except _BROKEN as error:
        raise OODError(f"{where}: broken picture: {error}") from error

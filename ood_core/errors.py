"""The one exception for mistakes of the user, the one warning, and the search for the nearest right name."""

from __future__ import annotations

import errno
import inspect
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from ood_core.escapes import printable

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an OSError."""


class OODError(Exception):
    """A mistake the user can mend: where, what, the nearest right thing; one line, no full stop at the end.

    The command line prints it and exits with 2; everything else that goes wrong is ours and keeps its traceback.
    Control characters of names in it are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class OODErrors(OODError):  # noqa: N818 - several of them
    """Several mistakes found in one pass, in the order in which they stand in the recipe."""

    def __init__(self, errors: Iterable[OODError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class OODWarning(UserWarning):
    """What is probably a mistake of the user and is carried out all the same; one line, no full stop at the end."""


def warn(message: str) -> None:
    """Issue an `OODWarning` that points at the line of the user's that led here."""
    frame, level = inspect.currentframe(), 1
    # contextlib: functions that a context manager decorates are called by it
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("ood_core.", "contextlib")):
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(message), OODWarning, stacklevel=level)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first few, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_line(error: BaseException | None) -> str:
    """Return the message of an error without its line breaks."""
    return " ".join(str(error).split())


def abridge(text: str, most: int = 500) -> str:
    """Return a text that a user wrote, or a message with it, without its middle if it is long."""
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[-most // 2 :]}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for a near miss, else the names there are; starts with a blank.

    Args:
        name: What the user wrote.
        known: What would have been right.
    """
    names = sorted(known)
    if near := get_close_matches(name, names, n=1, cutoff=0.6):
        return f" Did you mean '{near[0]}'?"
    return f" There is: {', '.join(names)}" if names else " There is none"


def format_image_count(count: int) -> str:
    """Return "1 image" or "7 images"."""
    return f"{count} image{'' if count == 1 else 's'}"

"""The lines that commands print."""

from __future__ import annotations

import logging

import typer

from ood_core.escapes import printable


def echo(*lines: str, err: bool = False) -> None:
    """Print lines, to stderr if `err`; what a terminal would obey in a name is escaped."""
    typer.echo("\n".join(map(printable, lines)), err=err)


class LineFormatter(logging.Formatter):
    """Log records of one line, escaped as lines of `echo`, and tracebacks line by line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        """Return a record without its traceback."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Return a traceback."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))  # type: ignore[arg-type]

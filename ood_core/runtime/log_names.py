"""Log messages name the scorer that is fitted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def fit_named(scorer: str) -> Iterator[None]:
    """Begin the messages that this thread logs meanwhile with "fit NAME: ", except those with the name in them."""
    make, thread = logging.getLogRecordFactory(), threading.get_ident()

    def make_named(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if threading.get_ident() == thread and scorer not in (text := record.getMessage()):
            record.msg, record.args = f"fit {scorer}: {text}", ()
        return record

    logging.setLogRecordFactory(make_named)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)

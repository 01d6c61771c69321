"""A bar for a pass over images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def image_progress(title: str, images: int, shown: bool | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error until the end of the pass, and return a function that counts images as done.

    If `shown` is None, only a terminal gets it.
    """
    from rich.console import Console  # slow
    from rich.progress import Progress

    screen = Console(stderr=True)
    if not (screen.is_terminal if shown is None else shown):
        yield lambda _: None
        return
    with Progress(console=screen, transient=screen.is_terminal) as progress:
        task = progress.add_task(title, total=images)
        yield lambda done: progress.advance(task, done)

"""What lies in a folder, for messages."""

from __future__ import annotations

from pathlib import Path


def listing(folder: Path, most: int = 5) -> str:
    """Return the first few names in a folder, or "nothing"."""
    names = sorted(entry.name for entry in folder.iterdir())
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "nothing"

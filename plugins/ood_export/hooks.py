"""Registers the command `ood export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ood_core.hookspecs import hookimpl
from ood_export.command import command


@hookimpl
def ood_register_commands() -> Mapping[str, Callable[..., None]]:
    """Return the command."""
    return {"export": command}

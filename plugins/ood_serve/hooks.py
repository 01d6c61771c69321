"""Registers the command `ood serve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ood_core.hookspecs import hookimpl
from ood_serve.command import command


@hookimpl
def ood_register_commands() -> Mapping[str, Callable[..., None]]:
    """Return the command."""
    return {"serve": command}

"""Smoke runs: all stages of a recipe on few images and for one epoch, to find mistakes before the real run."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

from ood_core.data.selection import Selection
from ood_core.interfaces import Plugin

IMAGES = 20
"""Images of each class of a set; with fewer, a hold-out of a tenth would have none."""

SMOKE_NOTE = (
    f"this is a smoke run: one epoch of each training, at most {IMAGES} images of each class; its numbers mean nothing"
)

Made = TypeVar("Made", bound=Plugin)


def limit_images(selection: Selection) -> Selection:
    """Return a selection of few images."""
    return replace(selection, limit=min(selection.limit or IMAGES, IMAGES))


def limit_epochs(plugin: Made) -> Made:
    """Return a pretext task that trains for one epoch, and so do the tokenizers among its options."""
    changed: dict[str, Any] = {}
    for field in fields(plugin):  # type: ignore[arg-type]
        value = getattr(plugin, field.name)
        if isinstance(value, Plugin):
            changed[field.name] = limit_epochs(value)
        elif field.name in ("epochs", "warmup_epochs") and isinstance(value, int | float):
            changed[field.name] = min(value, 1)
    return replace(plugin, **changed)  # type: ignore[type-var]

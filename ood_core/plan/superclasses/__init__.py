"""Groupings of classes, for data sets whose files do not say: each YAML here names superclasses and their classes.

The folder is the list. A recipe names one, as in `superclasses: cifar100`.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from ood_core.errors import OODError, suggest

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all groupings."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> dict[str, tuple[str, ...]]:
    """Return the classes of each superclass.

    Raises:
        OODError: There is no such grouping.
    """
    if name not in names():
        raise OODError(f"no superclasses '{name}'.{suggest(name, names())}")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return {superclass: tuple(classes) for superclass, classes in yaml.safe_load(text).items()}

"""Classes of sources: numbers that stand for names, and names that a file gives."""

from __future__ import annotations

from collections.abc import Iterable

from ood_core.data.image_files import require_distinct
from ood_core.errors import OODError

MOST_CLASSES = 1_000_000
"""A label above is a mistake: a date, or a number of the picture."""


def numbered(largest: int, where: str) -> tuple[str, ...]:
    """Return "0", "1", ... up to the largest label, whether or not each one occurs.

    Raises:
        OODError: The label is too large to be a class.
    """
    if largest >= MOST_CLASSES:
        raise OODError(f"{where}: label {largest} is not a class number below {MOST_CLASSES}")
    return tuple(map(str, range(largest + 1)))


def named(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Return names that stand in label order, without blanks around them.

    Raises:
        OODError: One is empty, there twice, or differs from another by case alone.
    """
    classes = tuple(name.strip() for name in names)
    labels: dict[str, int] = {}
    for label, name in enumerate(classes):
        if not name:
            raise OODError(f"{where}: class {label} has no name")
        if labels.setdefault(name, label) != label:
            raise OODError(f"{where}: classes {labels[name]} and {label} are both called '{name}'")
    require_distinct(classes, where)
    return classes

"""Reads what `vary:` varies: axes and their named values, each with what it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ood_core.errors import OODError, suggest
from ood_core.recipe.yaml import LocatedValue, mapping, with_new_names

Axes: TypeAlias = dict[str, dict[str, LocatedValue]]
"""For each axis its values by name, each with what it changes."""

SINGLE = "variant"
"""What the axis is called where `vary:` names variants without one."""

KEYS = ("axes", "zip", "exclude")


def has_axes(vary: LocatedValue) -> bool:
    """Return whether `vary:` speaks of axes, rather than of variants by name."""
    entries = vary.value if isinstance(vary.value, dict) else {}
    listed = [entries[key].value for key in ("zip", "exclude") if key in entries]
    return "axes" in entries or any(value is None or isinstance(value, list) for value in listed)


def single(vary: LocatedValue) -> Axes:
    """Return the one axis of a `vary:` that names variants.

    Raises:
        OODError: It names none, or one of them changes what it must not.
    """
    if not isinstance(vary.value, dict) or not vary.value:
        raise vary.error("'vary' must name at least one variant, each with what it changes")
    return {SINGLE: {name: _changes(node, f"variant '{name}'") for name, node in vary.value.items()}}


def several(vary: LocatedValue) -> Axes:
    """Return what stands behind `axes:`.

    Raises:
        OODError: There is nothing, or a value has no name, a name of another, or changes what it must not.
    """
    node = mapping(vary, "'vary'").get("axes")
    if node is None or not isinstance(node.value, dict) or not node.value:
        raise (node or vary).error("'axes' must name at least one axis, each with its values")
    return {name: _values(name, axis) for name, axis in node.value.items()}


def _values(axis: str, node: LocatedValue) -> dict[str, LocatedValue]:
    if axis in ("seed", "seeds"):
        raise node.error("seeds are no axis: 'seeds: [0, 1, 2]' beside 'vary' repeats every variant")
    if isinstance(node.value, list) and node.value:
        return _listed(axis, node.value)
    if not isinstance(node.value, dict) or not node.value:
        raise node.error(f"axis '{axis}' must name its values, each with what it changes, or be a path with a list")
    return {name: _changes(value, f"value '{name}' of axis '{axis}'") for name, value in node.value.items()}


def _listed(axis: str, items: Sequence[LocatedValue]) -> dict[str, LocatedValue]:
    values: dict[str, LocatedValue] = {}
    for item in items:
        use = item.value.get("use") if isinstance(item.value, dict) else None
        if isinstance(item.value, dict | list) and use is None:
            named = f"'{axis}: {{NAME: {{{axis}: ...}}}}'"
            raise item.error(f"a value of axis '{axis}' that is a list or mapping needs a name: {named}")
        name = text(use or item)
        if name in values:
            raise item.error(f"axis '{axis}' has two values '{name}'; name them: '{axis}: {{NAME: {{...}}}}'")
        values[name] = with_new_names(LocatedValue({axis: item}, item.place))
    return values


def _changes(node: LocatedValue, what: str) -> LocatedValue:
    if node.value is None:
        raise node.error(f"{what} is empty; {{}} changes nothing, null takes out what a base names")
    for key, entry in mapping(node, what).items():
        if key in ("base", "vary", "baseline"):
            raise entry.error(f"'{key}' can only stand at the top of a recipe, not in {what}")
    return with_new_names(node)


def text(node: LocatedValue) -> str:
    """Return a scalar as it was written, by which values are named."""
    return "null" if node.value is None else node.text or str(node.value)


def chosen(axes: Axes, entries: Mapping[str, LocatedValue]) -> dict[str, set[str]]:
    """Return the values of each axis that a mapping names, one or a list of them.

    Raises:
        OODError: An axis or a value is unknown.
    """
    found = {}
    for axis, node in entries.items():
        values = [text(item) for item in (node.value if isinstance(node.value, list) else [node])]
        for value in values:
            check(axes, axis, value, node.place)
        found[axis] = set(values)
    return found


def check(axes: Axes, axis: str, value: str | None, place: str) -> None:
    """Refuse an unknown axis, or an unknown value of it, with the nearest right name.

    Raises:
        OODError: As said.
    """
    if axis not in axes:
        raise OODError(f"{place}: no axis '{axis}'.{suggest(axis, axes)}")
    if value is not None and value not in axes[axis]:
        raise OODError(f"{place}: no value '{value}' of axis '{axis}'.{suggest(value, axes[axis])}")


def items(node: LocatedValue | None, right: str) -> list[LocatedValue]:
    """Return the items of a list, none if there is no list.

    Raises:
        OODError: Saying what would be right.
    """
    if node is not None and node.value is not None and not isinstance(node.value, list):
        raise node.error(right)
    return node.value if node is not None and isinstance(node.value, list) else []

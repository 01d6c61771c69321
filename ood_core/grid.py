"""Expands `vary:` into variants: named values along axes, zipped, multiplied and excluded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from ood_core.errors import OODError, suggest
from ood_core.nodes import Node, mapping

Axes: TypeAlias = dict[str, dict[str, Node]]
"""For each axis its values by name, each with what it changes."""

SINGLE = "variant"
"""What the axis is called where `vary:` names variants without one."""

_KEYS = ("axes", "zip", "exclude")
_SHOWN = 4


@dataclass(frozen=True)
class Variant:
    """One combination of values.

    Attributes:
        name: Its values, joined.
        coordinates: Its value on each axis; {} for a recipe that varies nothing.
        changes: What they change, axis by axis.
    """

    name: str
    coordinates: dict[str, str]
    changes: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Grid:
    """All variants of a recipe.

    Attributes:
        axes: What varies.
        variants: Those to run, the first axis slowest.
        excluded: Those left out.
    """

    axes: Axes
    variants: tuple[Variant, ...]
    excluded: tuple[Variant, ...] = ()

    def only(self, options: Sequence[str]) -> tuple[Variant, ...]:
        """Return the variants that "AXIS=VALUE[,VALUE]" options keep; several for one axis add up.

        Raises:
            OODError: An axis or a value is unknown, or nothing is left.
        """
        wanted: dict[str, set[str]] = {}
        for option in options:
            axis, values = self._kept(option)
            wanted[axis] = wanted.get(axis, set()) | values
        kept = tuple(variant for variant in self.variants if _fits(variant, wanted))
        if not kept:
            raise OODError(f"--only {' --only '.join(options)}: no variant is left")
        return kept

    def _kept(self, option: str) -> tuple[str, set[str]]:
        axis, equals, text = option.partition("=")
        place = f"--only {option}"
        if not axis or not equals:
            raise OODError(f"{place}: must read AXIS=VALUE or AXIS=VALUE,VALUE")
        if axis in ("seed", "seeds") and axis not in self.axes:
            raise OODError(f"{place}: seeds are no axis; --set seeds=[{text}] takes some")
        whole = text in self.axes.get(axis, {})  # a value's name may have a comma in it
        values = [text] if whole else [value.strip() for value in text.split(",")]
        for value in values:
            _check(self.axes, axis, value, place)
        return axis, set(values)

    def baseline(self, node: Node | None, kept: Sequence[Variant]) -> tuple[str, Node | None]:
        """Return the name of the variant that others are compared with, and the scorer, of what `baseline:` says.

        The variant is the first unless given, and "" where only one is kept.

        Raises:
            OODError: It names no variant, several, or one that is not kept.
        """
        named, scorer = self._named(node)
        if node is not None and named is not None and named not in kept:
            if named in self.excluded:
                raise node.error(f"the baseline '{named.name}' is excluded")
            raise node.error(f"--only leaves out the baseline '{named.name}'; --set baseline=NAME takes another")
        return "" if len(kept) == 1 else (named or kept[0]).name, scorer

    def _named(self, node: Node | None) -> tuple[Variant | None, Node | None]:
        if node is None or node.value is None:
            return None, None
        if not isinstance(node.value, dict):
            return self._by_name(node), None
        entries = dict(node.value)
        scorer = entries.pop("scorer", None) if "scorer" not in self.axes else None
        if scorer is not None and not isinstance(scorer.value, str):
            raise scorer.error("the baseline's scorer must be a name")
        return self._by_values(node, entries) if entries else None, scorer

    def _by_name(self, node: Node) -> Variant:
        every = {variant.name: variant for variant in (*self.variants, *self.excluded)}
        if isinstance(node.value, list):
            raise node.error("'baseline' must be a variant's name, or a mapping of axes to values")
        if (name := _text(node)) not in every:
            raise node.error(f"no variant '{name}'.{suggest(name, [variant.name for variant in self.variants])}")
        return every[name]

    def _by_values(self, node: Node, entries: Mapping[str, Node]) -> Variant:
        wanted = _chosen(self.axes, entries)
        found = [variant for variant in self.variants if _fits(variant, wanted)]
        if len(found) > 1:
            raise node.error(f"'baseline' must name one variant, but fits {_some(found)}")
        found += [variant for variant in self.excluded if _fits(variant, wanted)]
        if not found:
            raise node.error("'baseline' fits no variant: 'zip' keeps these values apart")
        return found[0]


def expand(vary: Node | None, name: str) -> Grid:
    """Return the variants of a recipe.

    Args:
        vary: What stands behind `vary:`; None if nothing does.
        name: The recipe's, which is that of its only variant.

    Raises:
        OODError: Something about it is wrong.
    """
    if vary is None:
        return Grid({}, (Variant(name, {}),))
    if not has_axes(vary):
        return _product({SINGLE: _variants(vary)}, [(SINGLE,)], vary)
    entries = mapping(vary, "'vary'")
    for key, node in entries.items():
        if key not in _KEYS:
            raise node.error(f"no key of 'vary' with axes: '{key}'.{suggest(key, _KEYS)}")
    axes = _axes(entries.get("axes"), vary)
    grid = _without(_product(axes, _zipped(axes, entries.get("zip")), vary), entries.get("exclude"))
    for variant in grid.variants:
        _refuse_conflicts(variant)
    return grid


# ------------------------------------------------------------------------------------------------ axes and values


def has_axes(vary: Node) -> bool:
    """Return whether `vary:` has several axes, rather than names of variants."""
    entries = vary.value if isinstance(vary.value, dict) else {}
    return "axes" in entries or any(isinstance(entries[key].value, list) for key in _KEYS if key in entries)


def _variants(vary: Node) -> dict[str, Node]:
    if not isinstance(vary.value, dict) or not vary.value:
        raise vary.error("'vary' must name at least one variant, each with what it changes")
    return {name: _changes(node, f"variant '{name}'") for name, node in vary.value.items()}


def _axes(node: Node | None, vary: Node) -> Axes:
    if node is None or not isinstance(node.value, dict) or not node.value:
        raise (node or vary).error("'axes' must name at least one axis, each with its values")
    return {name: _values(name, axis) for name, axis in node.value.items()}


def _values(axis: str, node: Node) -> dict[str, Node]:
    if axis in ("seed", "seeds"):
        raise node.error("seeds are no axis: 'seeds: [0, 1, 2]' beside 'vary' repeats every variant")
    if isinstance(node.value, list) and node.value:
        return _listed(axis, node.value)
    if not isinstance(node.value, dict) or not node.value:
        raise node.error(f"axis '{axis}' must name its values, each with what it changes, or be a path with a list")
    return {name: _changes(value, f"value '{name}' of axis '{axis}'") for name, value in node.value.items()}


def _listed(axis: str, items: Sequence[Node]) -> dict[str, Node]:
    values: dict[str, Node] = {}
    for item in items:
        name = _value_name(axis, item)
        if name in values:
            raise item.error(f"axis '{axis}' has two values '{name}'; name them: '{axis}: {{NAME: {{...}}}}'")
        values[name] = Node({axis: item}, item.place)
    return values


def _value_name(axis: str, item: Node) -> str:
    use = item.value.get("use") if isinstance(item.value, dict) else None
    if isinstance(item.value, dict | list) and use is None:
        named = f"'{axis}: {{NAME: {{{axis}: ...}}}}'"
        raise item.error(f"a value of axis '{axis}' that is a list or mapping needs a name: {named}")
    return _text(use or item)


def _changes(node: Node, what: str) -> Node:
    if node.value is None:
        raise node.error(f"{what} is empty; {{}} changes nothing, null takes out what a base names")
    for key, entry in mapping(node, what).items():
        if key in ("base", "vary", "baseline"):
            raise entry.error(f"'{key}' can only stand at the top of a recipe, not in {what}")
    return node


def _text(node: Node) -> str:
    return "null" if node.value is None else node.text or str(node.value)


# ------------------------------------------------------------------------------------------------- combinations


def _product(axes: Axes, groups: Sequence[tuple[str, ...]], vary: Node) -> Grid:
    variants = []
    for combination in product(*(_steps(axes, group) for group in groups)):
        chosen = {axis: value for step in combination for axis, value in step.items()}
        coordinates = {axis: chosen[axis] for axis in axes}
        changes = tuple(axes[axis][value] for axis, value in coordinates.items())
        variants.append(Variant(", ".join(coordinates.values()), coordinates, changes))
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise vary.error(f"two variants are called '{twice[0]}'; name their values differently")
    return Grid(axes, tuple(variants))


def _steps(axes: Axes, group: Sequence[str]) -> list[dict[str, str]]:
    together = zip(*(axes[axis] for axis in group), strict=True)
    return [dict(zip(group, values, strict=True)) for values in together]


def _zipped(axes: Axes, node: Node | None) -> list[tuple[str, ...]]:
    """Return the axes in groups that advance together, in the order of their first axes."""
    right = "'zip' must be a list of lists of axes, as [[a, b]]"
    groups = [_group(axes, item, right) for item in _items(node, right)]
    names = [name for group in groups for name in group]
    if node is not None and len(set(names)) < len(names):
        raise node.error("'zip' names an axis twice")
    group_of = {name: group for group in groups for name in group}
    return list(dict.fromkeys(group_of.get(axis, (axis,)) for axis in axes))


def _group(axes: Axes, node: Node, right: str) -> tuple[str, ...]:
    names = tuple(_text(item) for item in _items(node, right))
    if len(names) < 2:
        raise node.error(right)
    for name in names:
        _check(axes, name, None, node.place)
    if len({len(axes[name]) for name in names}) > 1:
        lengths = ", ".join(f"'{name}' has {len(axes[name])}" for name in names)
        raise node.error(f"zipped axes must have as many values each; {lengths}")
    return names


def _without(grid: Grid, node: Node | None) -> Grid:
    excluded: list[Variant] = []
    for item in _items(node, "'exclude' must be a list of mappings of axes to values"):
        wanted = _chosen(grid.axes, mapping(item, "what is excluded"))
        found = [variant for variant in grid.variants if _fits(variant, wanted)]
        if not found or not wanted:
            raise item.error("this excludes no variant: 'zip' keeps these values apart" if wanted else "names no axis")
        excluded += found
    kept = tuple(variant for variant in grid.variants if variant not in excluded)
    if node is not None and not kept:
        raise node.error("'exclude' leaves no variant")
    return Grid(grid.axes, kept, tuple(variant for variant in grid.variants if variant in excluded))


def _refuse_conflicts(variant: Variant) -> None:
    seen: dict[str, tuple[str, Node]] = {}
    for axis, change in zip(variant.coordinates, variant.changes, strict=True):
        for path, node in _leaves(change, ""):
            other, earlier = seen.setdefault(path, (axis, node))
            if earlier.plain() != node.plain():
                raise node.error(f"the axes '{other}' and '{axis}' both change '{path}' in variant '{variant.name}'")


def _leaves(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    if not isinstance(node.value, dict) or not node.value:
        yield path, node
        return
    for key, entry in node.value.items():
        yield from _leaves(entry, f"{path}.{key}" if path else key)


def _items(node: Node | None, right: str) -> list[Node]:
    if node is not None and node.value is not None and not isinstance(node.value, list):
        raise node.error(right)
    return node.value if node is not None and isinstance(node.value, list) else []


def _chosen(axes: Axes, entries: Mapping[str, Node]) -> dict[str, set[str]]:
    """Return the values of each axis that a mapping names, one or a list of them."""
    chosen = {}
    for axis, node in entries.items():
        values = [_text(item) for item in (node.value if isinstance(node.value, list) else [node])]
        for value in values:
            _check(axes, axis, value, node.place)
        chosen[axis] = set(values)
    return chosen


def _check(axes: Axes, axis: str, value: str | None, place: str) -> None:
    if axis not in axes:
        raise OODError(f"{place}: no axis '{axis}'.{suggest(axis, axes)}")
    if value is not None and value not in axes[axis]:
        raise OODError(f"{place}: no value '{value}' of axis '{axis}'.{suggest(value, axes[axis])}")


def _fits(variant: Variant, wanted: Mapping[str, Collection[str]]) -> bool:
    return all(variant.coordinates[axis] in values for axis, values in wanted.items())


def _some(variants: Sequence[Variant]) -> str:
    names = ", ".join(f"'{variant.name}'" for variant in variants[:_SHOWN])
    return names + (f" and {len(variants) - _SHOWN} more" if len(variants) > _SHOWN else "")

"""Expands `vary:` into variants: named values along axes, zipped, multiplied and excluded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import TypeAlias

from ood_core.errors import OODError, suggest
from ood_core.recipe.yaml import LocatedValue, mapping, with_new_names

Axes: TypeAlias = dict[str, dict[str, LocatedValue]]
"""For each axis its values by name, each with what it changes."""

SINGLE = "variant"
"""Name of the axis where `vary:` names variants without one."""

KEYS = ("axes", "zip", "exclude")

MOST_EXPERIMENTS = 5_000
"""Variants times seeds of a recipe: a plan takes about a minute for as many, and axes multiply unnoticed."""


@dataclass(frozen=True)
class Variant:
    """One combination of values: their names joined, its value on each axis, and the changes, axis by axis."""

    name: str
    coordinates: dict[str, str]
    changes: tuple[LocatedValue, ...] = ()

    def has(self, values: Mapping[str, Collection[str]]) -> bool:
        """Return whether the variant has one of these values on each of their axes."""
        return all(self.coordinates[axis] in allowed for axis, allowed in values.items())


@dataclass(frozen=True)
class Variants:
    """All variants of a recipe: those to run, the first axis slowest, and those left out."""

    axes: Axes
    variants: tuple[Variant, ...]
    excluded: tuple[Variant, ...] = ()

    def only(self, options: Sequence[str]) -> tuple[Variant, ...]:
        """Return the variants that "AXIS=VALUE[,VALUE]" options keep; several for one axis add up.

        Raises:
            OODError: An axis or a value is unknown, or nothing is left.
        """
        allowed: dict[str, set[str]] = {}
        for option in options:
            axis, equals, names = option.partition("=")
            place = f"--only {option}"
            if not axis or not equals:
                raise OODError(f"{place}: must read AXIS=VALUE or AXIS=VALUE,VALUE")
            if axis in ("seed", "seeds") and axis not in self.axes:
                raise OODError(f"{place}: seeds are no axis; --set seeds=[{names}] takes some")
            whole = names in self.axes.get(axis, {})  # a value's name may have a comma in it
            values = [names] if whole else [value.strip() for value in names.split(",")]
            for value in values:
                _check(self.axes, axis, value, place)
            allowed.setdefault(axis, set()).update(values)
        kept = tuple(variant for variant in self.variants if variant.has(allowed))
        if not kept:
            raise OODError(f"--only {' --only '.join(options)}: no variant is left")
        return kept

    def baselines(
        self, node: LocatedValue | None, kept: Sequence[Variant]
    ) -> tuple[dict[str, str], LocatedValue | None]:
        """Return for each kept variant the name of the one that it is compared with, and the scorer of `baseline:`.

        The variant is the first by default, and "" where only one is kept or only a scorer is named. Where values of
        some axes fit several variants, each variant has its own baseline: with these values, and its own on all other
        axes; itself if that is not kept.

        Raises:
            OODError: `baseline:` names no variant, or none that is kept.
        """
        names = [variant.name for variant in kept]
        scorer = None
        if node is None or node.value is None:
            return dict.fromkeys(names, names[0] if len(names) > 1 else ""), None
        if isinstance(node.value, dict):
            entries = dict(node.value)
            scorer = entries.pop("scorer", None) if "scorer" not in self.axes else None
            if scorer is not None and not isinstance(scorer.value, str):
                raise scorer.error("the baseline's scorer must be a name")
            if not entries:
                return dict.fromkeys(names, ""), scorer
            for value in entries.values():
                if isinstance(value.value, list):
                    raise value.error("'baseline' takes one value of an axis")
            values = _axis_values(self.axes, entries)
            found = [variant for variant in self.variants if variant.has(values)]
            if len(found) > 1:
                return _own_baselines(node, values, kept), scorer
            found += [variant for variant in self.excluded if variant.has(values)]
            if not found:
                raise node.error("'baseline' fits no variant: 'zip' keeps these values apart")
        elif isinstance(node.value, list):
            raise node.error("'baseline' must be a variant's name, or a mapping of axes to values")
        else:
            found = [variant for variant in (*self.variants, *self.excluded) if variant.name == text(node)]
            if not found:
                every = [variant.name for variant in self.variants]
                raise node.error(f"no variant '{text(node)}'.{suggest(text(node), every)}")
        if found[0] in self.excluded:
            raise node.error(f"the baseline '{found[0].name}' is excluded")
        if found[0] not in kept:
            raise node.error(f"--only leaves out the baseline '{found[0].name}'; --set baseline=NAME takes another")
        return dict.fromkeys(names, found[0].name if len(names) > 1 else ""), scorer


def _own_baselines(
    node: LocatedValue, values: Mapping[str, Collection[str]], kept: Sequence[Variant]
) -> dict[str, str]:
    if len(kept) > 1 and not any(variant.has(values) for variant in kept):
        raise node.error("--only leaves out the baseline; --set baseline=NAME takes another")
    fixed = {axis: value for axis, (value,) in values.items()}
    names = {tuple(variant.coordinates.items()): variant.name for variant in kept}
    return {variant.name: names.get(tuple((variant.coordinates | fixed).items()), variant.name) for variant in kept}


def has_axes(vary: LocatedValue) -> bool:
    """Return whether `vary:` has axes, rather than variants by name."""
    entries = vary.value if isinstance(vary.value, dict) else {}
    listed = [entries[key].value for key in ("zip", "exclude") if key in entries]
    return "axes" in entries or any(value is None or isinstance(value, list) for value in listed)


def expand(vary: LocatedValue | None, name: str) -> Variants:
    """Return the variants of `vary:`; one of the recipe's name without it.

    Raises:
        OODError: Something about it is wrong.
    """
    if vary is None:
        return Variants({}, (Variant(name, {}),))
    if not has_axes(vary):
        if not isinstance(vary.value, dict) or not vary.value:
            raise vary.error("'vary' must name at least one variant, each with what it changes")
        single = {name: _changes(node, f"variant '{name}'") for name, node in vary.value.items()}
        return Variants({SINGLE: single}, _product({SINGLE: single}, [(SINGLE,)], vary))
    entries = mapping(vary, "'vary'")
    for key, node in entries.items():
        if key not in KEYS:
            raise node.error(f"no key of 'vary' with axes: '{key}'.{suggest(key, KEYS)}")
    listed = entries.get("axes", vary)
    if "axes" not in entries or not isinstance(listed.value, dict) or not listed.value:
        raise listed.error("'axes' must name at least one axis, each with its values")
    axes = {axis: _read_axis(axis, node) for axis, node in listed.value.items()}
    variants = _product(axes, _zipped(axes, entries.get("zip")), vary)
    found = _exclude(axes, variants, entries.get("exclude"))
    for variant in found.variants:
        seen: dict[str, tuple[str, LocatedValue]] = {}
        for axis, change in zip(variant.coordinates, variant.changes, strict=True):
            for path, node in _leaves(change, ""):
                other, earlier = seen.setdefault(path, (axis, node))
                if earlier.plain() != node.plain():
                    both = f"the axes '{other}' and '{axis}' both change '{path}'"
                    raise node.error(f"{both} in variant '{variant.name}'")
    return found


def _read_axis(axis: str, node: LocatedValue) -> dict[str, LocatedValue]:
    if axis in ("seed", "seeds"):
        raise node.error("seeds are no axis: 'seeds: [0, 1, 2]' beside 'vary' repeats every variant")
    if not isinstance(node.value, dict | list) or not node.value:
        raise node.error(f"axis '{axis}' must name its values, each with what it changes, or be a path with a list")
    if isinstance(node.value, dict):
        return {name: _changes(value, f"value '{name}' of axis '{axis}'") for name, value in node.value.items()}
    values: dict[str, LocatedValue] = {}
    for item in node.value:
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


def _product(axes: Axes, groups: Sequence[tuple[str, ...]], vary: LocatedValue) -> tuple[Variant, ...]:
    count = math.prod(len(axes[group[0]]) for group in groups)
    if count > MOST_EXPERIMENTS:
        raise vary.error(f"'vary' makes {count} variants, of which there can be {MOST_EXPERIMENTS}")
    variants: dict[str, Variant] = {}
    for combination in product(*(zip(*(axes[axis] for axis in group), strict=True) for group in groups)):
        chosen = dict(zip(chain(*groups), chain(*combination), strict=True))
        coordinates = {axis: chosen[axis] for axis in axes}
        name = ", ".join(coordinates.values())
        if name in variants:
            raise vary.error(f"two variants are called '{name}'; name their values differently")
        variants[name] = Variant(name, coordinates, tuple(axes[axis][chosen[axis]] for axis in axes))
    return tuple(variants.values())


def _zipped(axes: Axes, node: LocatedValue | None) -> list[tuple[str, ...]]:
    """Return the axes in groups that advance together, in the order of their first axes."""
    right = "'zip' must be a list of lists of axes, as [[a, b]]"
    group_of: dict[str, tuple[str, ...]] = {}
    count = 0
    for item in _items(node, right):
        names = tuple(text(axis) for axis in _items(item, right))
        if len(names) < 2:
            raise item.error(right)
        for name in names:
            _check(axes, name, None, item.place)
        if len({len(axes[name]) for name in names}) > 1:
            lengths = ", ".join(f"'{name}' has {len(axes[name])}" for name in names)
            raise item.error(f"zipped axes must have as many values each; {lengths}")
        group_of |= dict.fromkeys(names, names)
        count += len(names)
    if node is not None and len(group_of) < count:
        raise node.error("'zip' names an axis twice")
    return list(dict.fromkeys(group_of.get(axis, (axis,)) for axis in axes))


def _exclude(axes: Axes, variants: tuple[Variant, ...], node: LocatedValue | None) -> Variants:
    names: set[str] = set()
    for item in _items(node, "'exclude' must be a list of mappings of axes to values"):
        values = _axis_values(axes, mapping(item, "what is excluded"))
        found = {variant.name for variant in variants if variant.has(values)}
        if not values:
            raise item.error("what is excluded must name an axis")
        if not found:
            raise item.error("this excludes no variant: 'zip' keeps these values apart")
        names |= found
    kept = tuple(variant for variant in variants if variant.name not in names)
    if node is not None and not kept:
        raise node.error("'exclude' leaves no variant")
    return Variants(axes, kept, tuple(variant for variant in variants if variant.name in names))


def text(node: LocatedValue) -> str:
    """Return a scalar as it was written, by which values are named."""
    return "null" if node.value is None else node.text or str(node.value)


def _items(node: LocatedValue | None, right: str) -> list[LocatedValue]:
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list):
        raise node.error(right)
    return node.value


def _axis_values(axes: Axes, entries: Mapping[str, LocatedValue]) -> dict[str, set[str]]:
    """Return the values of each axis that a mapping names, one or a list of them."""
    found = {}
    for axis, node in entries.items():
        items = node.value if isinstance(node.value, list) else [node]
        if any(isinstance(item.value, dict | list) for item in items):
            raise node.error(f"a value of axis '{axis}' is meant by its name, not by a list or mapping")
        values = [text(item) for item in items]
        for value in values:
            _check(axes, axis, value, node.place)
        found[axis] = set(values)
    return found


def _check(axes: Axes, axis: str, value: str | None, place: str) -> None:
    if axis not in axes:
        raise OODError(f"{place}: no axis '{axis}'.{suggest(axis, axes)}")
    if value is not None and value not in axes[axis]:
        raise OODError(f"{place}: no value '{value}' of axis '{axis}'.{suggest(value, axes[axis])}")


def _leaves(node: LocatedValue, path: str) -> Iterator[tuple[str, LocatedValue]]:
    if not isinstance(node.value, dict) or not node.value:
        yield path, node
        return
    for key, entry in node.value.items():
        yield from _leaves(entry, f"{path}.{key}" if path else key)

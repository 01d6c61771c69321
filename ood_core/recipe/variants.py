"""Expands `vary:` into variants: named values along axes, zipped, multiplied and excluded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ood_core.errors import OODError, suggest
from ood_core.recipe import axes as reading
from ood_core.recipe.axes import Axes
from ood_core.recipe.yaml import LocatedValue, mapping


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
    changes: tuple[LocatedValue, ...] = ()


@dataclass(frozen=True)
class Variants:
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
            reading.check(self.axes, axis, value, place)
        return axis, set(values)

    def baseline(self, node: LocatedValue | None, kept: Sequence[Variant]) -> tuple[str, LocatedValue | None]:
        """Return the name of the variant that others are compared with, and the scorer, of what `baseline:` says.

        The variant is the first unless given, and "" where only one is kept, where only a scorer is named, and where
        the values that are given single out none: each variant then has its own, see `within`.

        Raises:
            OODError: It names no variant, several, or one that is not kept.
        """
        named, scorer = self._named(node)
        if named is None and node is not None and node.value is not None:
            return "", scorer
        names = [variant.name for variant in kept]
        if node is not None and named is not None and named.name not in names:
            if named.name in [variant.name for variant in self.excluded]:
                raise node.error(f"the baseline '{named.name}' is excluded")
            raise node.error(f"--only leaves out the baseline '{named.name}'; --set baseline=NAME takes another")
        return "" if len(names) == 1 else named.name if named is not None else names[0], scorer

    def within(self, node: LocatedValue | None, kept: Sequence[Variant]) -> dict[str, str]:
        """Return for each variant the one that it is compared with, where `baseline:` gives values of some axes alone.

        It has these values, and the variant's own on all other axes; a variant without any is compared with itself.

        Raises:
            OODError: None of those is kept.
        """
        if node is None or not isinstance(node.value, dict) or self._named(node)[0] is not None:
            return {}
        wanted = self._wanted(node)
        if not wanted:
            return {}
        names = {tuple(variant.coordinates.items()): variant.name for variant in kept}
        found = {
            variant.name: names.get(tuple((variant.coordinates | wanted).items()), variant.name) for variant in kept
        }
        if len(kept) > 1 and not any(_has(variant, wanted) for variant in kept):
            raise node.error("--only leaves out the baseline; --set baseline=NAME takes another")
        return found

    def _named(self, node: LocatedValue | None) -> tuple[Variant | None, LocatedValue | None]:
        if node is None or node.value is None:
            return None, None
        if not isinstance(node.value, dict):
            return self._by_name(node), None
        entries = dict(node.value)
        scorer = entries.pop("scorer", None) if "scorer" not in self.axes else None
        if scorer is not None and not isinstance(scorer.value, str):
            raise scorer.error("the baseline's scorer must be a name")
        return self._by_values(node) if entries else None, scorer

    def _by_name(self, node: LocatedValue) -> Variant:
        every = {variant.name: variant for variant in (*self.variants, *self.excluded)}
        if isinstance(node.value, list):
            raise node.error("'baseline' must be a variant's name, or a mapping of axes to values")
        if (name := reading.text(node)) not in every:
            raise node.error(f"no variant '{name}'.{suggest(name, [variant.name for variant in self.variants])}")
        return every[name]

    def _wanted(self, node: LocatedValue) -> dict[str, str]:
        """Return the values of axes that a baseline names."""
        entries = mapping(node, "'baseline'")
        if "scorer" not in self.axes:
            entries.pop("scorer", None)
        for given in entries.values():
            if isinstance(given.value, list):
                raise given.error("'baseline' takes one value of an axis")
        return {axis: value for axis, (value,) in reading.chosen(self.axes, entries).items()}

    def _by_values(self, node: LocatedValue) -> Variant | None:
        """Return the variant that the values single out; None if they fit several."""
        wanted = self._wanted(node)
        found = [variant for variant in self.variants if _has(variant, wanted)]
        if len(found) > 1:
            return None
        found += [variant for variant in self.excluded if _has(variant, wanted)]
        if not found:
            raise node.error("'baseline' fits no variant: 'zip' keeps these values apart")
        return found[0]


def expand(vary: LocatedValue | None, name: str) -> Variants:
    """Return the variants of a recipe.

    Args:
        vary: What stands behind `vary:`; None if nothing does.
        name: The recipe's, which is that of its only variant.

    Raises:
        OODError: Something about it is wrong.
    """
    if vary is None:
        return Variants({}, (Variant(name, {}),))
    if not reading.has_axes(vary):
        return _product(reading.single(vary), [(reading.SINGLE,)], vary)
    entries = mapping(vary, "'vary'")
    for key, node in entries.items():
        if key not in reading.KEYS:
            raise node.error(f"no key of 'vary' with axes: '{key}'.{suggest(key, reading.KEYS)}")
    axes = reading.several(vary)
    found = _without(_product(axes, _zipped(axes, entries.get("zip")), vary), entries.get("exclude"))
    for variant in found.variants:
        _refuse_conflicts(variant)
    return found


def _product(axes: Axes, groups: Sequence[tuple[str, ...]], vary: LocatedValue) -> Variants:
    variants = []
    for combination in product(*(zip(*(axes[axis] for axis in group), strict=True) for group in groups)):
        chosen = {
            axis: value
            for group, values in zip(groups, combination, strict=True)
            for axis, value in zip(group, values, strict=True)
        }
        coordinates = {axis: chosen[axis] for axis in axes}
        changes = tuple(axes[axis][value] for axis, value in coordinates.items())
        variants.append(Variant(", ".join(coordinates.values()), coordinates, changes))
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise vary.error(f"two variants are called '{twice[0]}'; name their values differently")
    return Variants(axes, tuple(variants))


def _zipped(axes: Axes, node: LocatedValue | None) -> list[tuple[str, ...]]:
    """Return the axes in groups that advance together, in the order of their first axes."""
    right = "'zip' must be a list of lists of axes, as [[a, b]]"
    groups = [_group(axes, item, right) for item in reading.items(node, right)]
    names = [name for group in groups for name in group]
    if node is not None and len(set(names)) < len(names):
        raise node.error("'zip' names an axis twice")
    group_of = {name: group for group in groups for name in group}
    return list(dict.fromkeys(group_of.get(axis, (axis,)) for axis in axes))


def _group(axes: Axes, node: LocatedValue, right: str) -> tuple[str, ...]:
    names = tuple(reading.text(item) for item in reading.items(node, right))
    if len(names) < 2:
        raise node.error(right)
    for name in names:
        reading.check(axes, name, None, node.place)
    if len({len(axes[name]) for name in names}) > 1:
        lengths = ", ".join(f"'{name}' has {len(axes[name])}" for name in names)
        raise node.error(f"zipped axes must have as many values each; {lengths}")
    return names


def _without(every: Variants, node: LocatedValue | None) -> Variants:
    names: set[str] = set()
    for item in reading.items(node, "'exclude' must be a list of mappings of axes to values"):
        wanted = reading.chosen(every.axes, mapping(item, "what is excluded"))
        found = [variant for variant in every.variants if _fits(variant, wanted)]
        if not wanted:
            raise item.error("what is excluded must name an axis")
        if not found:
            raise item.error("this excludes no variant: 'zip' keeps these values apart")
        names |= {variant.name for variant in found}
    kept = tuple(variant for variant in every.variants if variant.name not in names)
    if node is not None and not kept:
        raise node.error("'exclude' leaves no variant")
    return Variants(every.axes, kept, tuple(variant for variant in every.variants if variant.name in names))


def _refuse_conflicts(variant: Variant) -> None:
    seen: dict[str, tuple[str, LocatedValue]] = {}
    for axis, change in zip(variant.coordinates, variant.changes, strict=True):
        for path, node in _leaves(change, ""):
            other, earlier = seen.setdefault(path, (axis, node))
            if earlier.plain() != node.plain():
                raise node.error(f"the axes '{other}' and '{axis}' both change '{path}' in variant '{variant.name}'")


def _leaves(node: LocatedValue, path: str) -> Iterator[tuple[str, LocatedValue]]:
    if not isinstance(node.value, dict) or not node.value:
        yield path, node
        return
    for key, entry in node.value.items():
        yield from _leaves(entry, f"{path}.{key}" if path else key)


def _fits(variant: Variant, wanted: Mapping[str, Collection[str]]) -> bool:
    return all(variant.coordinates[axis] in values for axis, values in wanted.items())


def _has(variant: Variant, wanted: Mapping[str, str]) -> bool:
    return all(variant.coordinates[axis] == value for axis, value in wanted.items())

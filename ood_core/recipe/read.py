"""Reads recipes: `base:`, `vary:`, `baseline:`, `seeds:` and `--set`; knows nothing of plugins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import yaml

from ood_core.errors import OODError, abridge, suggest
from ood_core.recipe.variants import MOST_EXPERIMENTS, expand, has_axes
from ood_core.recipe.yaml import LocatedValue, drop_removed, mapping, merge, parse, set_at_path, with_new_names
from ood_core.runtime.shipped import recipe_names, shipped_folder

LONGEST_CHAIN = 20
"""Recipes that lie above each other by `base:`."""


@dataclass(frozen=True)
class Recipe:
    """One experiment: one variant under one seed.

    Attributes:
        root: Sections of the recipe: data, backbone, training, scorers.
        coordinates: The variant's value on each axis; {} for a recipe that varies nothing.
        baseline_variant: The variant that this one is compared with; "" if there is only one.
        baseline_scorer: The scorer that others are compared with; "" if the recipe names none.
        left_out: Values on each axis of the variants that are excluded or not among those to keep.
    """

    name: str
    variant: str
    seed: int
    root: LocatedValue
    coordinates: dict[str, str] = field(default_factory=dict)
    baseline_variant: str = ""
    baseline_scorer: str = ""
    baseline_place: str = ""
    left_out: tuple[dict[str, str], ...] = ()


def find_recipe(name: str) -> Path:
    """Return the recipe's file: a path, or the name of one that is shipped, as "mood" or "ablations/scorers".

    Raises:
        OODError: There is none.
    """
    return Path(name) if os.path.isfile(name) else _shipped(name)  # noqa: PTH113 - Path raises for long names


def _shipped(name: str) -> Path:
    path = shipped_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if os.path.isfile(path):  # noqa: PTH113 - Path raises for long names
        return path
    raise OODError(f"no recipe '{abridge(name)}', neither a file nor shipped.{suggest(name, recipe_names())}")


def read_recipes(path: Path, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> list[Recipe]:
    """Return the experiments of a recipe file, variants in their order, each under each seed.

    Args:
        path: The file.
        overrides: "a.b=value" each; applied last, to every variant.
        only: "AXIS=VALUE[,VALUE]" each: the variants to keep.

    Raises:
        OODError: The file is missing, is no YAML, or `base:`, `vary:`, `baseline:`, `seeds:`, an override or what to
            keep is wrong.
    """
    root = _with_base(path, (), {})
    changes = [_override(override) for override in overrides]
    for keys, value in changes:
        if keys[0] == "baseline":
            root = set_at_path(root, keys, value)
    entries = mapping(root, "a recipe")
    vary, baseline = entries.pop("vary", None), entries.pop("baseline", None)
    common = LocatedValue(entries, root.place)
    variants = expand(vary, path.stem)
    kept = variants.only(only)
    baselines, scorer = variants.baselines(baseline, kept)
    scorer_name, scorer_place = ("", "") if scorer is None else (str(scorer.value), scorer.place)
    names = {one.name for one in kept}
    left_out = tuple(one.coordinates for one in (*variants.variants, *variants.excluded) if one.name not in names)
    recipes: list[Recipe] = []
    for variant in kept:
        node = _varied(common, variant.changes)
        for keys, value in changes:
            if keys[0] != "baseline":
                other = {"seed": "seeds", "seeds": "seed"}.get(keys[0])
                entries = {key: entry for key, entry in mapping(node, "a recipe").items() if key != other}
                node = set_at_path(LocatedValue(entries, root.place), keys, value)
        seeds, rest = _seeds(drop_removed(node))
        if len(recipes) + len(seeds) > MOST_EXPERIMENTS:
            raise OODError(f"{path.name}: more than {MOST_EXPERIMENTS} experiments, which are variants times seeds")
        compared = (baselines[variant.name], scorer_name, scorer_place)
        recipes += [
            Recipe(path.stem, variant.name, seed, rest, variant.coordinates, *compared, left_out) for seed in seeds
        ]
    return recipes


def _with_base(path: Path, derived: tuple[Path, ...], found: dict[Path, LocatedValue]) -> LocatedValue:
    """Return a file's mapping laid over that of its `base:`; of several, each laid over the one before.

    Each file is read once, as several bases, each with several, would be read any number of times: those that were
    are in `found`.
    """
    file = path.resolve()
    if file in derived:
        raise OODError(f"{path.name}: its base leads back to itself")
    if len(derived) == LONGEST_CHAIN:
        raise OODError(f"{path.name}: more than {LONGEST_CHAIN} recipes lie above each other by 'base'")
    if file in found:
        return found[file]
    try:
        node = with_new_names(parse(path.read_text(encoding="utf-8"), path.name))
    except (OSError, UnicodeDecodeError) as error:
        raise OODError(f"{path}: cannot be read: {error}") from None
    entries = mapping(node, "a recipe")
    base = entries.pop("base", None)
    named = [] if base is None else base.value if isinstance(base.value, list) else [base]
    layers = [_with_base(_base_file(path, one), (*derived, file), found) for one in named]
    found[file] = reduce(_lay, [*layers, LocatedValue(entries, node.place)])
    return found[file]


def shipped_text(name: str) -> str:
    """Return the text of a shipped recipe that reads the same in any folder: its `base:` names shipped recipes.

    Raises:
        OODError: There is none.
    """
    path, folder = _shipped(name), shipped_folder().resolve()
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "a recipe is a mapping"
    (value,) = [value for key, value in root.value if key.value == "base"] or [None]
    named = [] if value is None else value.value if isinstance(value, yaml.SequenceNode) else [value]
    for node in reversed(named):  # from the end, so that places before stay right
        base = _base_file(path, LocatedValue(node.value, name)).resolve().relative_to(folder).with_suffix("")
        text = text[: node.start_mark.index] + base.as_posix() + text[node.end_mark.index :]
    return text


def _base_file(path: Path, named: LocatedValue) -> Path:
    if not isinstance(named.value, str):
        raise named.error("'base' must be the path of a recipe, or a list of them")
    beside = path.parent / named.value
    try:
        return beside if os.path.isfile(beside) else _shipped(named.value)  # noqa: PTH113 - Path raises for long names
    except OODError as error:
        raise named.error(f"no recipe '{named.value}' beside {path.name}; {error}") from None


def _lay(below: LocatedValue, above: LocatedValue) -> LocatedValue:
    """Return a recipe, or what a variant changes, laid over another.

    Mappings merge key by key, but of 'seed' and 'seeds' the one above replaces both below, 'baseline' is replaced, and
    'vary' gains and loses values.
    """
    entries, added = mapping(below, "a recipe"), mapping(above, "a recipe")
    replaced = {"seed", "seeds"} if {"seed", "seeds"} & added.keys() else set()
    replaced |= {"baseline"} & added.keys()
    kept = {key: node for key, node in entries.items() if key not in replaced}
    if "vary" in kept and "vary" in added:
        old, new = kept.pop("vary"), added.pop("vary")
        if has_axes(old) == has_axes(new):  # of the three keys beside axes two are lists, which are replaced
            new = _lay_named(old, new, 3 if has_axes(new) else 1)
        added |= {} if new.value is None else {"vary": new}
    return merge(LocatedValue(kept, below.place), LocatedValue(added, above.place))


def _lay_named(below: LocatedValue, above: LocatedValue, depth: int) -> LocatedValue:
    """Return named things laid over others, at this many levels; null takes one out."""
    if not depth:
        return merge(below, above)
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    entries = dict(below.value)
    for key, node in above.value.items():
        if key in entries and node.value is None:
            del entries[key]
        else:
            entries[key] = _lay_named(entries[key], node, depth - 1) if key in entries else node
    return LocatedValue(entries, above.place)


def _varied(common: LocatedValue, changes: Sequence[LocatedValue]) -> LocatedValue:
    """Return the common recipe with whole sections laid over it, then with what stands behind dotted paths."""
    entries = [(key, node) for change in changes for key, node in mapping(change, "a change").items()]
    for key, node in entries:
        if "." not in key:
            common = _lay(common, LocatedValue({key: node}, node.place))
    # from the outside in, whatever the order of the axes: a whole stage, then what is inside it
    for key, node in sorted(entries, key=lambda entry: entry[0].count(".")):
        if "." in key:
            common = set_at_path(common, key.split("."), node)
    return common


def _seeds(root: LocatedValue) -> tuple[list[int], LocatedValue]:
    """Return the seeds, and the recipe without them."""
    entries = mapping(root, "a recipe")
    one, many = entries.pop("seed", None), entries.pop("seeds", None)
    if one is not None and many is not None:
        raise many.error("either 'seed' or 'seeds', not both")
    nodes = [one or LocatedValue(0, root.place)] if many is None else many.value
    if not isinstance(nodes, list) or not nodes or any(type(node.value) is not int or node.value < 0 for node in nodes):
        raise (many or one or root).error("a seed must be a whole number from 0 on, 'seeds' a list of them")
    seeds = [int(str(node.value)) for node in nodes]
    if len(set(seeds)) < len(seeds):
        raise (many or root).error("a seed is there twice")
    return seeds, LocatedValue(entries, root.place)


def _override(override: str) -> tuple[list[str], LocatedValue]:
    """Return path and value of an "a.b=value"."""
    path, equals, text = override.partition("=")
    place = f"--set {abridge(override)}"
    if not equals or not path:
        raise OODError(f"{place}: must read a.b=value")
    if path.partition(".")[0] in ("base", "vary"):
        raise OODError(f"{place}: '{path.partition('.')[0]}' can only stand in a recipe")
    change = mapping(with_new_names(LocatedValue({path: parse(text, place, line_numbers=False)}, place)), "a change")
    ((path, value),) = change.items()
    return path.split("."), value

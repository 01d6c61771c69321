"""Reads recipes: YAML with line numbers, `base:`, `vary:`, `seeds:` and `--set`; knows nothing of plugins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from ood_core.errors import OODError, suggest

Value: TypeAlias = "bool | int | float | str | list[Node] | dict[str, Node] | None"

# YAML 1.2's numbers: 1e-4 is one, 0x10, 1_000 and 12:30:00 are words. `no`, `off` and dates are words as well.
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAGS = {
    f"tag:yaml.org,2002:{tag}"
    for tag in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
}
_WORDS = {"": None, "~": None, "null": None, "Null": None, "true": True, "True": True, "false": False, "False": False}


@dataclass(frozen=True)
class Node:
    """A value of a recipe and where it was written: "mood.yaml: line 8", or "--set seed=1"."""

    value: Value
    place: str

    def error(self, message: str) -> OODError:
        """Return a mistake at this place."""
        return OODError(f"{self.place}: {message}")

    def plain(self) -> Any:
        """Return the value as plain Python, without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True)
class Recipe:
    """One experiment: one variant under one seed.

    Attributes:
        name: The file's name without its ending.
        variant: The name below `vary:`, or the recipe's own.
        seed: Decides everything random.
        root: The rest: data, backbone, training, scorers.
    """

    name: str
    variant: str
    seed: int
    root: Node


def find(name: str) -> Path:
    """Return the recipe's file: a path, or the name of one that is shipped, as "mood" or "ablations/scorers".

    Raises:
        OODError: There is none.
    """
    return path if (path := Path(name)).is_file() else _shipped(name)


def _shipped(name: str) -> Path:
    folder = shipped_folder()
    if (path := folder / f"{name.removesuffix('.yaml')}.yaml").is_file():
        return path
    known = {file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml")}
    raise OODError(f"no recipe '{name}', neither a file nor shipped.{suggest(name, known)}")


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def read(path: Path, overrides: Sequence[str] = ()) -> list[Recipe]:
    """Return the experiments of a recipe file, variants in their order, each under each seed.

    Args:
        path: The file.
        overrides: "a.b=value" each; applied last, to every variant.

    Raises:
        OODError: The file is missing, is no YAML, or `base:`, `vary:`, `seeds:` or an override is wrong.
    """
    root = _with_base(path, ())
    recipes = []
    for variant, node in _variants(root, path.stem):
        for override in overrides:
            node = _overridden(node, override)
        recipes += [Recipe(path.stem, variant, seed, rest) for seed, rest in _seeds(node)]
    return recipes


# ------------------------------------------------------------------------------------------------ one YAML file


def parse(text: str, origin: str, line_numbers: bool = True) -> Node:
    """Return YAML text as nodes.

    Raises:
        OODError: It is no YAML, has a duplicate key, a tag, or a key that is no word.
    """
    try:
        composed = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        where = f"{origin}: line {error.problem_mark.line + 1}" if error.problem_mark and line_numbers else origin
        raise OODError(f"{where}: not YAML: {error.problem}") from None
    except RecursionError:
        raise OODError(f"{origin}: not YAML: nested too deeply") from None
    except yaml.YAMLError as error:
        raise OODError(f"{origin}: not YAML: {str(error).splitlines()[0]}") from None
    if composed is None:
        return Node(None, origin)
    return _Converter(origin, line_numbers).convert(composed, composed)


@dataclass
class _Converter:
    origin: str
    line_numbers: bool
    _open: tuple[int, ...] = ()

    def place(self, node: yaml.Node) -> str:
        return f"{self.origin}: line {node.start_mark.line + 1}" if self.line_numbers else self.origin

    def convert(self, node: yaml.Node, at: yaml.Node) -> Node:
        """Convert a node; its place is that of its key, or its own in a list."""
        if id(node) in self._open:
            raise OODError(f"{self.place(at)}: an alias that contains itself")
        if node.tag not in _TAGS:
            raise OODError(f"{self.place(at)}: tags are not read: {node.tag}")
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node), self.place(at))
        inner = _Converter(self.origin, self.line_numbers, (*self._open, id(node)))
        if isinstance(node, yaml.MappingNode):
            return Node(inner._mapping(node), self.place(at))
        return Node([inner.convert(item, item) for item in node.value], self.place(at))

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise OODError(f"{self.place(key)}: a key must be a word")
            if key.value in entries:
                raise OODError(f"{self.place(key)}: '{key.value}' is there twice")
            entries[key.value] = self.convert(value, key)
        return entries

    def _scalar(self, node: yaml.ScalarNode) -> bool | int | float | str | None:
        text: str = node.value
        if node.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if _FLOAT.fullmatch(text) else text


# ------------------------------------------------------------------------------------- base, vary, seeds, --set


def _with_base(path: Path, derived: tuple[Path, ...]) -> Node:
    """Return a file's mapping laid over that of its `base:`: a file beside it, or the name of a shipped recipe."""
    if path.resolve() in derived:
        raise OODError(f"{path.name}: its base leads back to itself")
    try:
        node = parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise OODError(f"{path}: cannot be read: {error}") from None
    entries = _mapping(node, "a recipe")
    base = entries.pop("base", None)
    if base is None:
        return Node(entries, node.place)
    if not isinstance(base.value, str):
        raise base.error("'base' must be the path of a recipe")
    parent = path.parent / base.value
    if not parent.is_file():
        try:
            parent = _shipped(base.value)
        except OODError as error:
            raise base.error(f"no recipe '{base.value}' beside {path.name}; {error}") from None
    return _lay(_with_base(parent, (*derived, path.resolve())), Node(entries, node.place))


def merge(below: Node, above: Node) -> Node:
    """Return `above` laid over `below`: mappings key by key, all else replaced; so is a mapping with another `use:`."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)) or _use(above) not in (None, _use(below)):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, above.place)


def _lay(below: Node, above: Node) -> Node:
    """Merge whole recipes: whichever of 'seed' and 'seeds' is above replaces both below."""
    entries = _mapping(below, "a recipe")
    if {"seed", "seeds"} & _mapping(above, "a recipe").keys():
        entries = {key: node for key, node in entries.items() if key not in ("seed", "seeds")}
    return merge(Node(entries, below.place), above)


def _use(node: Node) -> Any:
    return node.value["use"].value if isinstance(node.value, dict) and "use" in node.value else None


def _variants(root: Node, name: str) -> Iterator[tuple[str, Node]]:
    entries = _mapping(root, "a recipe")
    vary = entries.pop("vary", None)
    common = Node(entries, root.place)
    if vary is None:
        yield name, common
        return
    if not isinstance(vary.value, dict) or not vary.value:
        raise vary.error("'vary' must name at least one variant, each with what it changes")
    for variant, changes in vary.value.items():
        yield variant, _lay(common, Node(_mapping(changes, f"variant '{variant}'"), changes.place))


def _seeds(root: Node) -> Iterator[tuple[int, Node]]:
    entries = _mapping(root, "a recipe")
    one, many = entries.pop("seed", None), entries.pop("seeds", None)
    rest = Node(entries, root.place)
    if one is not None and many is not None:
        raise many.error("either 'seed' or 'seeds', not both")
    nodes = [one or Node(0, root.place)] if many is None else many.value
    if not isinstance(nodes, list) or not nodes or any(type(node.value) is not int or node.value < 0 for node in nodes):
        raise (many or one or root).error("a seed must be a whole number from 0 on, 'seeds' a list of them")
    seeds = [int(str(node.value)) for node in nodes]
    if len(set(seeds)) < len(seeds):
        raise (many or root).error("a seed is there twice")
    yield from ((seed, rest) for seed in seeds)


def _overridden(root: Node, override: str) -> Node:
    path, equals, text = override.partition("=")
    place = f"--set {override}"
    if not equals or not path:
        raise OODError(f"{place}: must read a.b=value")
    if path.partition(".")[0] in ("base", "vary"):
        raise OODError(f"{place}: '{path.partition('.')[0]}' can only stand in a recipe")
    keys = path.split(".")
    replaced = {"seed": "seeds", "seeds": "seed"}.get(keys[0])
    entries = {key: node for key, node in _mapping(root, "a recipe").items() if key != replaced}
    return _set(Node(entries, root.place), keys, parse(text, place, line_numbers=False))


def _set(node: Node, path: Sequence[str], new: Node) -> Node:
    """Return a copy of the tree in which the value at the path is the new one."""
    if not path:
        return new
    if isinstance(node.value, list):
        return Node(_set_in_list(node.value, path, new), node.place)
    if node.value is not None and not isinstance(node.value, dict):
        raise OODError(f"{new.place}: there is a single value above '{path[0]}', not a mapping")
    entries = dict(node.value or {})
    entries[path[0]] = _set(entries.get(path[0], Node(None, new.place)), path[1:], new)
    return Node(entries, node.place)


def _set_in_list(items: list[Node], path: Sequence[str], new: Node) -> list[Node]:
    if not path[0].isdecimal() or int(path[0]) >= len(items):
        raise OODError(f"{new.place}: '{path[0]}' must be one of the numbers 0 to {len(items) - 1}, a place in a list")
    index = int(path[0])
    return [*items[:index], _set(items[index], path[1:], new), *items[index + 1 :]]


def _mapping(node: Node, what: str) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise node.error(f"{what} must be a mapping of keys to values")
    return dict(node.value)

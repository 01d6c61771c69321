"""Values of a recipe that know where they were written: read from YAML, laid over each other, changed at a path."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from ood_core.errors import OODError

_LOG = logging.getLogger(__name__)

Value: TypeAlias = "bool | int | float | str | list[LocatedValue] | dict[str, LocatedValue] | None"

# YAML 1.2's numbers: 1e-4 is one, 0x10, 1_000 and 12:30:00 are words. `no`, `off` and dates are words as well.
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAGS = {
    f"tag:yaml.org,2002:{tag}"
    for tag in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
}
_WORDS = {"": None, "~": None, "null": None, "Null": None, "true": True, "True": True, "false": False, "False": False}

RENAMED = {
    ("data", "absent"): "missing_files",
    ("data", "broken"): "unreadable",
    ("training", "#", "on"): "train_on",
}
"""Keys of recipes that are still read, by their path with "#" for a place in a list, and their names today."""


@dataclass(frozen=True)
class LocatedValue:
    """A value of a recipe: a scalar, or more nodes.

    Attributes:
        place: Where it was written: "mood.yaml: line 8", or "--set seed=1".
        text: Of a scalar, as it was written: "1e-3".
    """

    value: Value
    place: str
    text: str = field(default="", compare=False)

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
class Removed(LocatedValue):
    """An item that a change takes out of its list; it keeps its place, so that the numbers of the others stay right."""


# ------------------------------------------------------------------------------------------------ one YAML file


def parse(text: str, origin: str, line_numbers: bool = True) -> LocatedValue:
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
        return LocatedValue(None, origin)
    return _Converter(origin, line_numbers).convert(composed, composed)


@dataclass
class _Converter:
    origin: str
    line_numbers: bool
    _open: tuple[int, ...] = ()

    def place(self, node: yaml.Node) -> str:
        return f"{self.origin}: line {node.start_mark.line + 1}" if self.line_numbers else self.origin

    def convert(self, node: yaml.Node, at: yaml.Node) -> LocatedValue:
        """Convert a node; its place is that of its key, or its own in a list."""
        if id(node) in self._open:
            raise OODError(f"{self.place(at)}: an alias that contains itself")
        if node.tag not in _TAGS:
            raise OODError(f"{self.place(at)}: tags are not read: {node.tag}")
        if isinstance(node, yaml.ScalarNode):
            return LocatedValue(self._scalar(node), self.place(at), node.value)
        inner = _Converter(self.origin, self.line_numbers, (*self._open, id(node)))
        if isinstance(node, yaml.SequenceNode):
            return LocatedValue([inner.convert(item, item) for item in node.value], self.place(at))
        entries: dict[str, LocatedValue] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise OODError(f"{self.place(key)}: a key must be a word")
            if key.value in entries:
                raise OODError(f"{self.place(key)}: '{key.value}' is there twice")
            entries[key.value] = inner.convert(value, key)
        return LocatedValue(entries, self.place(at))

    def _scalar(self, node: yaml.ScalarNode) -> bool | int | float | str | None:
        text: str = node.value
        if node.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if _FLOAT.fullmatch(text) else text


# ------------------------------------------------------------------------------------------- laid over each other


def merge(below: LocatedValue, above: LocatedValue) -> LocatedValue:
    """Return `above` laid over `below`: mappings key by key, all else replaced; so is a mapping with another `use:`."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)) or _use(above) not in (None, _use(below)):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return LocatedValue(merged, above.place)


def _use(node: LocatedValue) -> Any:
    return node.value["use"].value if isinstance(node.value, dict) and "use" in node.value else None


def set_at_path(node: LocatedValue, path: Sequence[str], new: LocatedValue) -> LocatedValue:
    """Return a copy of the tree in which the value at the path is the new one; null leaves an item of a list out.

    Raises:
        OODError: The path leads into a single value, or to no item of a list.
    """
    if not path:
        return new
    if isinstance(node.value, list):
        items = node.value
        if not path[0].isdecimal() or int(path[0]) >= len(items):
            numbers = f"one of the numbers 0 to {len(items) - 1}, a place in a list"
            raise OODError(f"{new.place}: '{path[0]}' must be {numbers}")
        index = int(path[0])
        if len(path) == 1:
            item = Removed(None, new.place) if new.value is None else new
        else:  # a removed item stays so, whatever changes inside it
            item = items[index] if isinstance(items[index], Removed) else set_at_path(items[index], path[1:], new)
        return LocatedValue([*items[:index], item, *items[index + 1 :]], node.place)
    if isinstance(node.value, bool | int | float):
        raise OODError(f"{new.place}: there is a single value above '{path[0]}', not a mapping")
    # a bare name is a plugin with all options at their defaults
    entries = {"use": node} if isinstance(node.value, str) else dict(node.value or {})
    entries[path[0]] = set_at_path(entries.get(path[0], LocatedValue(None, new.place)), path[1:], new)
    return LocatedValue(entries, node.place)


def drop_removed(node: LocatedValue) -> LocatedValue:
    """Return a copy of the tree without the removed items of lists."""
    if isinstance(node.value, dict):
        return LocatedValue({key: drop_removed(entry) for key, entry in node.value.items()}, node.place)
    if isinstance(node.value, list):
        kept = [drop_removed(item) for item in node.value if not isinstance(item, Removed)]
        return LocatedValue(kept, node.place)
    return node


def with_new_names(node: LocatedValue, path: tuple[str, ...] = ()) -> LocatedValue:
    """Return a recipe, or a change of it with dotted paths, with today's names of its keys; log each old one.

    Done before anything is laid over anything else, so that the old and the new name of a key are one.
    """
    if isinstance(node.value, list):
        return LocatedValue([with_new_names(item, (*path, "#")) for item in node.value], node.place)
    if not isinstance(node.value, dict):
        return node
    entries = {}
    for key, entry in node.value.items():
        at, names = path, []
        for name in [key] if path else key.split("."):
            at = (*at, "#" if name.isdecimal() else name)
            names.append(RENAMED.get(at, name))
            if at in RENAMED:
                _LOG.warning("%s: '%s' is now called '%s'; the next release drops it", entry.place, name, names[-1])
        entries[".".join(names)] = with_new_names(entry, at)
    return LocatedValue(entries, node.place)


def mapping(node: LocatedValue, what: str) -> dict[str, LocatedValue]:
    """Return a copy of a node's entries.

    Raises:
        OODError: It is no mapping.
    """
    if not isinstance(node.value, dict):
        raise node.error(f"{what} must be a mapping of keys to values")
    return dict(node.value)

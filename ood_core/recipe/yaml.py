"""Values of a recipe that know where they were written: read from YAML, laid over each other, changed at a path."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import yaml

from ood_core.errors import OODError, abridge

MOST_UNFOLDED = 10_000
"""Values that the aliases of one file may stand for: a few lines of aliases to aliases can stand for billions."""

DEEPEST = 50
"""Levels of mappings and lists within each other, and names in a path, that are read."""

_LARGEST = 2**63 - 1  # of whole numbers, as in torch and numpy
_MOST_DIGITS = 19
_LONGEST = 2000  # characters of a message, which may quote a value or list all plugins
_TOO_DEEP = f"nested more than {DEEPEST} levels deep"
_UNREADABLE = re.compile("[\0\ud800-\udfff]")  # neither a name of a file nor text of a report can have these

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

    @property
    def is_override(self) -> bool:
        """Whether `--set` gave it."""
        return self.place.startswith("--set ")

    def error(self, message: str) -> OODError:
        """Return a mistake at this place, in one line whatever names of files or cells of tables it quotes."""
        return OODError(f"{self.place}: {abridge(' '.join(message.splitlines()), _LONGEST)}")

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
        OODError: It is no YAML, has a duplicate key, a tag, or a key that is no word; it is nested too deeply, or its
            aliases stand for too many values.
    """
    try:
        composed = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        where = f"{origin}: line {error.problem_mark.line + 1}" if error.problem_mark and line_numbers else origin
        raise OODError(f"{where}: not YAML: {error.problem}") from None
    except RecursionError:
        raise OODError(f"{origin}: {_TOO_DEEP}") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter of escapes beyond Unicode
        raise OODError(f"{origin}: not YAML: {str(error).splitlines()[0]}") from None
    if composed is None:
        return LocatedValue(None, origin)
    return _Converter(origin, line_numbers).convert(composed, composed).node


@dataclass(frozen=True)
class _Converted:
    """A node, which all aliases of it share, with the number of its values and of its levels once it is unfolded."""

    node: LocatedValue
    values: int = 1
    levels: int = 0


@dataclass
class _Converter:
    origin: str
    line_numbers: bool
    _open: list[int] = field(default_factory=list)
    _converted: dict[int, _Converted] = field(default_factory=dict)
    _unfolded: int = 0

    def place(self, node: yaml.Node) -> str:
        return f"{self.origin}: line {node.start_mark.line + 1}" if self.line_numbers else self.origin

    def convert(self, node: yaml.Node, at: yaml.Node) -> _Converted:
        """Convert a node, once however many aliases it has; its place is that of its key, or its own in a list."""
        if id(node) in self._open:
            raise OODError(f"{self.place(at)}: an alias that contains itself")
        if (known := self._converted.get(id(node))) is not None:
            self._unfolded += known.values
            known = replace(known, node=replace(known.node, place=self.place(at)))
        levels = (0 if isinstance(node, yaml.ScalarNode) else 1) if known is None else known.levels
        if len(self._open) + levels > DEEPEST:
            raise OODError(f"{self.place(at)}: {_TOO_DEEP}")
        if self._unfolded > MOST_UNFOLDED:
            raise OODError(f"{self.place(at)}: the aliases stand for more than {MOST_UNFOLDED} values")
        if known is None:
            self._open.append(id(node))
            known = self._converted[id(node)] = self._convert(node, at)
            self._open.pop()
        return known

    def _convert(self, node: yaml.Node, at: yaml.Node) -> _Converted:
        if node.tag not in _TAGS:
            raise OODError(f"{self.place(at)}: tags are not read: {node.tag}")
        if isinstance(node, yaml.ScalarNode):
            return _Converted(LocatedValue(self._scalar(node, at), self.place(at), node.value))
        if isinstance(node, yaml.SequenceNode):
            items = [self.convert(item, item) for item in node.value]
            return _container([item.node for item in items], items, self.place(at))
        entries: dict[str, _Converted] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise OODError(f"{self.place(key)}: a key must be a word")
            self._require_readable(key, key)
            if key.value in entries:
                raise OODError(f"{self.place(key)}: '{key.value}' is there twice")
            entries[key.value] = self.convert(value, key)
        return _container({key: entry.node for key, entry in entries.items()}, entries.values(), self.place(at))

    def _require_readable(self, node: yaml.ScalarNode, at: yaml.Node) -> None:
        if found := _UNREADABLE.search(node.value):
            raise OODError(f"{self.place(at)}: the character U+{ord(found[0]):04X} is not read")

    def _scalar(self, node: yaml.ScalarNode, at: yaml.Node) -> bool | int | float | str | None:
        self._require_readable(node, at)
        text: str = node.value
        if node.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text.lstrip("+-0")) > _MOST_DIGITS or abs(int(text)) > _LARGEST:
                hint = "; put a name that is made of digits in quotes"
                raise OODError(f"{self.place(at)}: whole numbers end at {_LARGEST}, not {abridge(text)}{hint}")
            return int(text)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if _FLOAT.fullmatch(text) else text


def _container(value: Value, parts: Collection[_Converted], place: str) -> _Converted:
    values, levels = 1 + sum(part.values for part in parts), 1 + max((part.levels for part in parts), default=0)
    return _Converted(LocatedValue(value, place), values, levels)


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
    if len(path) > DEEPEST:
        raise OODError(f"{new.place}: a path has at most {DEEPEST} names")
    if isinstance(node.value, list):
        items = node.value
        if not path[0].isdecimal() or len(path[0]) > _MOST_DIGITS or int(path[0]) >= len(items):
            numbers = f"one of the numbers 0 to {len(items) - 1}, a place in a list"
            raise OODError(f"{new.place}: '{abridge(path[0])}' must be {numbers}")
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

"""From the nodes of a recipe to plugin objects: every name, option and type checked, all mistakes collected."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from yaml import safe_dump

from ood_core.data.files import file_digest
from ood_core.errors import OODError, suggest
from ood_core.interfaces import PLUGIN_KINDS, DatasetSource, Plugin, Probe, Scorer
from ood_core.plugins import Plugins
from ood_core.recipe.yaml import LocatedValue
from ood_core.runtime.plugin_errors import RAISED, PluginError

Made = TypeVar("Made")
"""A dataclass whose fields are options: a plugin's, or a protocol's."""


class RecipeReader:
    """Makes objects of nodes; collects mistakes in `errors` instead of stopping at the first.

    `files`: whether to require the files that options name.
    """

    def __init__(self, plugins: Plugins, files: bool = True) -> None:
        self.plugins, self.files = plugins, files
        self.errors: list[OODError] = []

    def wrong(self, node: LocatedValue, message: str) -> None:
        """Note a mistake."""
        self.errors.append(node.error(message))

    def keys(self, node: LocatedValue, what: str, known: Collection[str]) -> dict[str, LocatedValue]:
        """Return a mapping's entries that are known; others, and what is no mapping, are mistakes."""
        if not isinstance(node.value, dict):
            self.wrong(node, f"{what} must be a mapping of {', '.join(known)}")
            return {}
        for key, entry in node.value.items():
            if key not in known:
                self.wrong(entry, f"no key of {what}: '{key}'.{suggest(key, known)}")
        return {key: entry for key, entry in node.value.items() if key in known}

    def items(self, node: LocatedValue, what: str) -> list[LocatedValue]:
        """Return the items of a list; none after a mistake."""
        if isinstance(node.value, list):
            return node.value
        self.wrong(node, f"{what} must be a list")
        return []

    def value(self, node: LocatedValue, hint: Any, what: str, default: Any = None) -> Any:
        """Return a plain value of the annotated type, or the default after a mistake."""
        plain = node.plain()
        try:
            text = json.dumps(plain, allow_nan=False)
        except ValueError:
            self.wrong(node, f"{what} must be finite, not {plain}")
            return default
        try:
            # strict JSON mode: no "3" for 3 and no true for 1, but lists for tuples and strings for paths
            return TypeAdapter(hint).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].replace("Input should be", "must be")
            inside = f", at {'.'.join(map(str, first['loc']))}" if first["loc"] else ""
            self.wrong(node, f"{what} {message}, not {json.dumps(first['input'])}{inside}")
            return default

    def use(self, kind: str, node: LocatedValue) -> dict[str, LocatedValue] | None:
        """Return the entries of a `{use: name, option: value}` mapping or of a bare name; None after a mistake."""
        entries = {"use": node} if isinstance(node.value, str) else node.value
        if isinstance(entries, dict) and "use" in entries and isinstance(entries["use"].value, str):
            return entries
        self.wrong(node, f"a {kind} must be a name, or a mapping with 'use: name'")
        return None

    def plugin(self, kind: str, node: LocatedValue, reserved: Collection[str] = ()) -> Plugin | None:
        """Return the plugin object of a `{use: name, option: value}` mapping or of a bare name; None after a mistake.

        `reserved` are keys of the mapping that are not the plugin's.
        """
        if (entries := self.use(kind, node)) is None:
            return None
        try:
            cls = self.plugins.get(kind, str(entries["use"].value))
        except OODError as error:
            self.wrong(entries["use"], str(error))
            return None
        options = {key: entry for key, entry in entries.items() if key not in ("use", *reserved)}
        return self.build(cls, options, node, f"{kind} '{cls.name}'", reserved)

    def build(
        self,
        cls: type[Made],
        options: Mapping[str, LocatedValue],
        node: LocatedValue,
        what: str,
        others: Collection[str] = (),
    ) -> Made | None:
        """Return a dataclass made of the options of a node, `what` in messages; None after a mistake.

        `others` are keys to suggest besides the options.
        """
        before = len(self.errors)
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        hints = typing.get_type_hints(cls, include_extras=True)
        values = {}
        for key, entry in options.items():
            if key not in fields:
                self.wrong(entry, f"no option of {what}: '{key}'.{suggest(key, [*fields, *others])}")
            else:
                values[key] = self._option(entry, hints[key], f"option '{key}' of {what}")
                # os.path: Path raises for a name that is too long
                missing = isinstance(values[key], Path) and not os.path.isfile(values[key])  # noqa: PTH113
                if missing and self.files and not issubclass(cls, DatasetSource):
                    self.wrong(entry, f"option '{key}' of {what}: no file '{values[key]}'")
        for field in fields.values():  # behind an unknown option, a missing one is most likely the same, misspelt
            if _is_required(field) and field.name not in options and len(self.errors) == before:
                self.wrong(node, f"{what} needs the option '{field.name}'")
        if len(self.errors) > before:
            return None
        try:
            return cls(**values)
        except (OODError, ValueError) as error:
            self.wrong(node, f"{what}: {error}")
        except RAISED as error:
            self.errors.append(PluginError.of(f"{node.place}: {what}", error))
        return None

    def _option(self, node: LocatedValue, hint: Any, what: str) -> Any:
        kind = _kind_of(hint)
        if kind is not None and not (node.value is None and NoneType in get_args(hint)):
            return self.plugin(kind, node)
        item = _kind_of(get_args(hint)[0]) if get_origin(hint) is tuple else None
        if item is None:
            return self.value(node, hint, what)
        return tuple(self.plugin(item, entry) for entry in self.items(node, what))


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _kind_of(hint: Any) -> str | None:
    """Return the plugin kind that an option's type names, alone or beside None: plugins can be options of plugins."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not NoneType)
    for kind, base in PLUGIN_KINDS.items():
        if isinstance(hint, type) and issubclass(hint, base):
            return kind
    return None


def with_nested(plugin: Plugin) -> Iterator[Plugin]:
    """Yield a plugin object and those among its options."""
    yield plugin
    for value in _options(plugin).values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Plugin):
                yield from with_nested(item)


# ----------------------------------------------------------------------------------- what an object is, in words


def describe(plugin: Plugin) -> dict[str, Any]:
    """Return name and all options as plain values, for the report."""
    return {"use": plugin.name, **_plain(_options(plugin))}


def _options(made: Any) -> dict[str, Any]:
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}


def _plain(value: Any, of_plugin: Callable[[Plugin], Any] = describe, of_path: Callable[[Path], str] = str) -> Any:
    """Return a value of an option in plain values, with these for plugins and files."""
    if isinstance(value, Plugin):
        return of_plugin(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item, of_plugin, of_path) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, of_plugin, of_path) for key, item in value.items()}
    return of_path(value) if isinstance(value, Path) else value


def identity(plugin: Plugin, plugins: Plugins) -> dict[str, Any]:
    """Return what decides a plugin's results: class, version, code, options; of a file its content, not its path."""
    return {"use": plugin.name, "from": plugins.version(plugin)} | _identity(plugin, plugins)


def probe_identity(probe: Probe, scorer: Scorer, plugins: Plugins) -> dict[str, Any]:
    """Return what decides what a probe reads: its class, code and fields, and the version of the scorer's package."""
    name = f"{type(probe).__module__}.{type(probe).__qualname__}"
    return {"probe": name, "from": plugins.version(scorer)} | _identity(probe, plugins)


def _identity(made: Plugin | Probe, plugins: Plugins) -> dict[str, Any]:
    options = _plain(_options(made), lambda nested: identity(nested, plugins), file_digest)
    return {"code": plugins.code(type(made)), "options": options}


def label(plugin: Plugin) -> str:
    """Return a short name: the plugin's, with the options that are not left at their default."""
    changed = [
        f"{field.name}={_short(getattr(plugin, field.name))}"
        for field in dataclasses.fields(plugin)  # type: ignore[arg-type]
        if not _is_required(field) and _is_changed(plugin, field)
    ]
    return f"{plugin.name}({', '.join(changed)})" if changed else plugin.name


def recipe_text(plugin: Plugin) -> str:
    """Return a plugin in one line of a recipe, "knn" or "{use: knn, k: 10}", without options at their default."""
    given = _given(plugin)
    if isinstance(given, str):
        return given
    return safe_dump(given, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf).strip()


def _given(plugin: Plugin) -> str | dict[str, Any]:
    fields = dataclasses.fields(plugin)  # type: ignore[arg-type]
    changed = {field.name: getattr(plugin, field.name) for field in fields if _is_changed(plugin, field)}
    return {"use": plugin.name, **_plain(changed, _given)} if changed else plugin.name


def _is_changed(plugin: Plugin, field: dataclasses.Field[Any]) -> bool:
    return _is_required(field) or getattr(plugin, field.name) != _default(field)


def options_of(cls: type[Plugin]) -> str:
    """Return a class's options with their defaults: "k=50, kind=flat"; those without one by their name alone."""
    return ", ".join(
        field.name if (default := default_text(field)) is None else f"{field.name}={default}"
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
    )


def default_text(field: dataclasses.Field[Any]) -> str | None:
    """Return the default of an option as a recipe has it; None if the option is required."""
    return None if _is_required(field) else _short(_default(field))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _short(value: Any) -> str:
    return label(value) if isinstance(value, Plugin) else json.dumps(_plain(value), default=str).strip('"')


def digest(value: Any) -> str:
    """Return the key of plain values: equal values, equal key."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]

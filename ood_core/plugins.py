"""Finds the installed plugin packages: find, sort by name, load, check, classify.

Our own discovery over `importlib.metadata`, because pluggy's `load_setuptools_entrypoints` skips a second package
whose entry point has a taken name, goes in file-system order, and reports a broken plugin without its package.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pluggy

from ood_core import hookspecs
from ood_core.errors import OODError, suggest
from ood_core.interfaces import PLUGIN_KINDS, Plugin
from ood_core.vision import prepare_torchvision

DISABLE = "OOD_DISABLE_PLUGINS"
"""Environment variable: names of entry points to leave out, separated by commas."""

_HOOK_OF_KIND = {
    "backbone": "ood_register_backbones",
    "pretext": "ood_register_pretexts",
    "tokenizer": "ood_register_tokenizers",
    "scorer": "ood_register_scorers",
    "dataset": "ood_register_datasets",
}

_NOT_IN_RESULTS = (
    "cli.py",
    "commands",
    "detector",
    "drift.py",
    "drifting.py",
    "errors.py",
    "export",
    "launch.py",
    "options.py",
    "plan.py",
    "plugins.py",
    "recipe.py",
    "report",
    "run.py",
    "scoring",
    "service",
    "testing",
)


@dataclass(frozen=True)
class Package:
    """A plugin package: one entry point of an installed distribution.

    Attributes:
        entry: Name of the entry point.
        distribution: Name of the distribution that brings it.
        version: The distribution's version; in an editable install followed by a digest of the package's source, so
            that results of changed code are not taken for those of the old.
    """

    entry: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.entry} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Registered:
    """A plugin class and the package it came from."""

    kind: str
    cls: type[Plugin]
    package: Package


@dataclass(frozen=True)
class Plugins:
    """What is installed."""

    manager: pluggy.PluginManager
    packages: tuple[Package, ...]
    registered: Mapping[tuple[str, str], Registered]

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks to call."""
        return self.manager.hook

    def classes(self, kind: str) -> dict[str, type[Plugin]]:
        """Return the classes of a kind ("backbone", "pretext", "tokenizer", "scorer", "dataset") by name."""
        return {name: found.cls for (k, name), found in sorted(self.registered.items()) if k == kind}

    def get(self, kind: str, name: str) -> type[Plugin]:
        """Return one class.

        Raises:
            OODError: Nothing of this kind has the name.
        """
        if found := self.registered.get((kind, name)):
            return found.cls
        raise OODError(f"no {kind} '{name}'.{suggest(name, self.classes(kind))}")

    def version(self, plugin: Plugin) -> str:
        """Return "distribution version" of the package that a plugin object's class came from."""
        for found in self.registered.values():
            if found.cls is type(plugin):
                return f"{found.package.distribution} {found.package.version}"
        raise LookupError(type(plugin))


def find() -> Plugins:
    """Import all installed plugin packages and sort out what they register.

    Raises:
        OODError: A package is broken, misspells a hook, or two of them use one name; names package and version.
    """
    prepare_torchvision()  # a plugin may import torchvision or timm at its top
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    packages = []
    for entry in _entries():
        package = _package(entry)
        _register(manager, entry, package)
        packages.append(package)
    return Plugins(manager, tuple(packages), _classify(manager, {package.entry: package for package in packages}))


def _entries() -> list[metadata.EntryPoint]:
    """Return the entry points in order of name, those of disabled plugins left out, each once."""
    installed = metadata.entry_points(group=hookspecs.GROUP)
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    for name in sorted(disabled - installed.names):
        raise OODError(f"{DISABLE}: no plugin '{name}' is installed.{suggest(name, installed.names)}")
    found: dict[tuple[str, str], metadata.EntryPoint] = {}
    for entry in installed:
        if entry.name not in disabled:
            found.setdefault((entry.name, _distribution(entry).name), entry)  # one path may stand in sys.path twice
    taken: dict[str, metadata.EntryPoint] = {}
    for (name, _), entry in sorted(found.items(), key=lambda item: item[0]):
        if name in taken:
            raise OODError(
                f"two packages have the plugin entry point '{name}': {_package(taken[name])} and {_package(entry)}; "
                f"uninstall one, or leave both out with {DISABLE}={name}"
            )
        taken[name] = entry
    return list(taken.values())


def _distribution(entry: metadata.EntryPoint) -> metadata.Distribution:
    assert entry.dist is not None, "entry points found by importlib.metadata know their distribution"
    return entry.dist


def _package(entry: metadata.EntryPoint) -> Package:
    distribution = _distribution(entry)
    version = distribution.version
    if _is_editable(distribution):
        version = f"{version}+{source_digest(entry.module.partition('.')[0])}"
    return Package(entry.name, distribution.name, version)


def _is_editable(distribution: metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def source_digest(package: str, without: Collection[str] = ()) -> str:
    """Return eight letters that change with the Python files of an importable package, some at its top left out."""
    total = hashlib.sha256()
    for file in _sources(package, without):
        total.update(file.read_bytes())
    return total.hexdigest()[:8]


def _sources(package: str, without: Collection[str]) -> list[Path]:
    spec = find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations is None:  # a single module, beside which anything may lie
        return [Path(spec.origin)] if spec.origin else []
    return [
        file
        for folder in map(Path, spec.submodule_search_locations)
        for file in sorted(folder.rglob("*.py"))
        if file.relative_to(folder).parts[0] not in without
    ]


def core_version() -> str:
    """Return the version of the core, in an editable install with a digest of the source that results depend on."""
    distribution = metadata.distribution("ood-framework")
    digest = f"+{source_digest('ood_core', _NOT_IN_RESULTS)}" if _is_editable(distribution) else ""
    return f"{distribution.version}{digest}"


def _register(manager: pluggy.PluginManager, entry: metadata.EntryPoint, package: Package) -> None:
    """Import one package and hand it to pluggy; a class is instantiated, so that it may keep state for a run."""
    try:
        loaded = entry.load()
        plugin = loaded() if isinstance(loaded, type) else loaded
        manager.register(plugin, name=package.entry)
        manager.check_pending()
        _require_marks(plugin)
    except pluggy.PluginValidationError as error:
        raise OODError(f"plugin {package} {_wrong_hook(manager, error)}") from None
    except Exception as error:  # whatever a foreign module raises at import
        raise OODError(_broken(package, error)) from error


def _require_marks(plugin: Any) -> None:
    """Raise for a function that bears a hook's name and is none: pluggy would pass over it without a word."""
    for name in dir(plugin):
        member = getattr(plugin, name)
        if name.startswith("ood_") and callable(member) and not hasattr(member, f"{hookspecs.GROUP}_impl"):
            raise TypeError(f"{name} is not marked with @hookimpl")


def _broken(package: Package, error: Exception) -> str:
    return (
        f"plugin {package} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}; "
        f"mend or uninstall it, or leave it out with {DISABLE}={package.entry}"
    )


def _wrong_hook(manager: pluggy.PluginManager, error: pluggy.PluginValidationError) -> str:
    name = str(error).partition("unknown hook '")[2].partition("'")[0]
    # has_spec: a name without one is another mistake of the same package
    known = [hook for hook, caller in vars(manager.hook).items() if hook.startswith("ood_") and caller.has_spec()]
    return (
        f"implements no hook there is: '{name}'.{suggest(name, known)}"
        if name
        else f"is not valid: {' '.join(str(error).split())}"
    )


def _classify(manager: pluggy.PluginManager, packages: Mapping[str, Package]) -> dict[tuple[str, str], Registered]:
    registered: dict[tuple[str, str], Registered] = {}
    for kind, hook in _HOOK_OF_KIND.items():
        implementations = getattr(manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda item: item.plugin_name):
            package = packages[implementation.plugin_name]
            for cls in _classes(_returned(implementation.function, package), kind, package):
                new = Registered(kind, cls, package)
                if (old := registered.get((kind, cls.name))) is not None:
                    raise OODError(_clash(old, new))
                registered[kind, cls.name] = new
    return registered


def _returned(register: Callable[[], Iterable[Any]], package: Package) -> list[Any]:
    """Return what a registration hook returns; it may import, and so may fail as a module does."""
    try:
        return list(register())
    except Exception as error:
        raise OODError(_broken(package, error)) from error


def _classes(returned: Iterable[Any], kind: str, package: Package) -> Iterable[type[Plugin]]:
    base = PLUGIN_KINDS[kind]
    for cls in returned:
        if not (isinstance(cls, type) and issubclass(cls, base) and isinstance(getattr(cls, "name", None), str)):
            raise OODError(
                f"plugin {package} registers as {kind} what is none: {cls!r} (wanted: a named {base.__name__})"
            )
        if inspect.isabstract(cls):
            lacking = ", ".join(sorted(cls.__abstractmethods__))
            raise OODError(f"plugin {package} registers {kind} '{cls.name}', which does not define {lacking}")
        yield cls


def _clash(old: Registered, new: Registered) -> str:
    return (
        f"two plugins register the {new.kind} '{new.cls.name}': {old.package} and {new.package}; "
        f"leave one out with {DISABLE}={new.package.entry} or {DISABLE}={old.package.entry}"
    )

"""Finds the installed plugin packages: find, sort by name, load, check, classify.

Our own discovery over `importlib.metadata`, because pluggy's `load_setuptools_entrypoints` skips a second package
whose entry point has a taken name, goes in file-system order, and reports a broken plugin without its package.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

import pluggy

from ood_core import hookspecs
from ood_core.errors import OODError, suggest
from ood_core.runtime.source_digest import source_digest

if TYPE_CHECKING:
    from ood_core.interfaces import Plugin

DISABLE = "OOD_DISABLE_PLUGINS"
"""Environment variable: names of entry points to leave out, separated by commas."""

_GROUPS = (hookspecs.GROUP, hookspecs.COMMANDS_GROUP)

_HOOK_OF_KIND = {
    "backbone": "ood_register_backbones",
    "pretext": "ood_register_pretexts",
    "tokenizer": "ood_register_tokenizers",
    "scorer": "ood_register_scorers",
    "dataset": "ood_register_datasets",
}

COMPUTES = (
    "data",
    "evaluation",
    "interfaces",
    "neighbors",
    "pipeline",
    "records/facts.py",
    "records/stages.py",
    "runtime/distributed.py",
    "runtime/torch_state.py",
    "runtime/torchvision_compat.py",
    "statistics",
    "store/artifacts.py",
    "store/files.py",
    "store/store.py",
)
"""Folders and files of the core that results depend on: what stages and plugins compute with. How a plan is made is not
among them, because all that it decides is in the keys by its value."""


@dataclass(frozen=True)
class Package:
    """A plugin package: one entry point of an installed distribution.

    Attributes:
        entry: Name of the entry point.
        distribution: Name of the distribution that brings it.
        version: The distribution's version and a digest of the package's files, so that results of changed code are not
            taken for those of the old: "1.2.0+0c9d31fe". Messages show it without the digest.
        module: Of the entry point.
    """

    entry: str
    distribution: str
    version: str
    module: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.entry} ({self.distribution} {self.version.rpartition('+')[0]})"


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
    _digests: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Of packages that were read, by their names."""

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
        """Return "distribution version+digest" of the package that a plugin object's class came from."""
        for found in self.registered.values():
            if found.cls is type(plugin):
                return f"{found.package.distribution} {found.package.version}"
        raise LookupError(type(plugin))

    def code(self, cls: type) -> dict[str, str]:
        """Return digests of the package that defines a class and of the plugin packages that it derives from.

        The core is left out: its digest is in every key.
        """
        within = [_top(base.__module__) for base in cls.__mro__]
        names = {within[0], *({_top(package.module) for package in self.packages} & set(within))}
        for name in names - {"ood_core", "__main__", *self._digests}:
            self._digests[name] = source_digest(name)
        return {name: self._digests[name] for name in sorted(names & self._digests.keys())}


def hook_manager() -> pluggy.PluginManager:
    """Return a plugin manager that has the hooks, and no plugin."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def find() -> Plugins:
    """Import all installed plugin packages and sort out what they register.

    Raises:
        OODError: A package is broken, misspells a hook, or two of them use one name; names package and version.
    """
    # torch: not before a command needs more than its own name
    from ood_core.runtime import torch_state
    from ood_core.runtime.torchvision_compat import prepare_torchvision

    manager = hook_manager()
    packages = []
    with torch_state.stage_state():
        prepare_torchvision()  # a plugin may import torchvision or timm at its top
        for entry in _entries(hookspecs.GROUP):
            package = _package(entry)
            _register(manager, entry, package)
            packages.append(package)
        return Plugins(manager, tuple(packages), _classify(manager, {package.entry: package for package in packages}))


def find_commands() -> dict[str, Callable[..., None]]:
    """Return the sub-commands of `ood` that packages register, by name.

    Raises:
        OODError: A package is broken, misspells a hook, or two of them use one name; names package and version.
    """
    manager = hook_manager()
    packages: dict[str, Package] = {}
    owners: dict[str, Package] = {}
    found: dict[str, Callable[..., None]] = {}
    for entry in _entries(hookspecs.COMMANDS_GROUP):
        package = _package(entry)
        _register(manager, entry, package)
        packages[package.entry] = package
    for implementation in manager.hook.ood_register_commands.get_hookimpls():
        package = packages[implementation.plugin_name]
        for name, command in dict(cast(Mapping[str, Callable[..., None]], implementation.function())).items():
            if name in found:
                raise OODError(_clash(f"command '{name}'", owners[name], package))
            found[name], owners[name] = command, package
    return dict(sorted(found.items()))


def _entries(group: str) -> list[metadata.EntryPoint]:
    """Return the entry points of a group in order of name, those of disabled plugins left out, each once."""
    installed = metadata.entry_points(group=group)
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    names = {entry.name for each in _GROUPS for entry in metadata.entry_points(group=each)}
    for name in sorted(disabled - names):
        raise OODError(f"{DISABLE}: no plugin '{name}' is installed.{suggest(name, names)}")
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


def _top(module: str) -> str:
    """Return the package at the top of a module's name."""
    return module.partition(".")[0]


def _package(entry: metadata.EntryPoint) -> Package:
    distribution = _distribution(entry)
    version = f"{distribution.version}+{source_digest(_top(entry.module))}"
    return Package(entry.name, distribution.name, version, entry.module)


def core_version() -> str:
    """Return the version of the core, with a digest of the source that results depend on."""
    return f"{metadata.version('ood-framework')}+{source_digest('ood_core', COMPUTES)}"


def _register(manager: pluggy.PluginManager, entry: metadata.EntryPoint, package: Package) -> None:
    """Import one package and hand it to pluggy; a class is instantiated, so that it may keep state for a run."""
    try:
        loaded = entry.load()
        plugin = loaded() if isinstance(loaded, type) else loaded
        manager.register(plugin, name=package.entry)
        manager.check_pending()
        for name in dir(plugin):  # pluggy would pass over it without a word
            member = getattr(plugin, name)
            if name.startswith("ood_") and callable(member) and not hasattr(member, f"{hookspecs.GROUP}_impl"):
                raise TypeError(f"{name} is not marked with @hookimpl")
    except pluggy.PluginValidationError as error:
        raise OODError(f"plugin {package} {_wrong_hook(manager, error)}") from None
    except Exception as error:  # whatever a foreign module raises at import
        raise OODError(_broken(package, error)) from error


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
                    raise OODError(_clash(f"{kind} '{cls.name}'", old.package, package))
                registered[kind, cls.name] = new
    return registered


def _returned(register: Callable[[], Iterable[Any]], package: Package) -> list[Any]:
    """Return what a registration hook returns; it may import, and so may fail as a module does."""
    try:
        return list(register())
    except Exception as error:
        raise OODError(_broken(package, error)) from error


def _classes(returned: Iterable[Any], kind: str, package: Package) -> Iterable[type[Plugin]]:
    from ood_core.interfaces import PLUGIN_KINDS

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


def _clash(what: str, old: Package, new: Package) -> str:
    return (
        f"two plugins register the {what}: {old} and {new}; "
        f"leave one out with {DISABLE}={new.entry} or {DISABLE}={old.entry}"
    )

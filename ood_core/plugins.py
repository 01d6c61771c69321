"""Finds the installed plugin packages: find, sort by name, load, check, classify.

Our own discovery over `importlib.metadata`, because pluggy's `load_setuptools_entrypoints` skips a second package
whose entry point has a taken name, goes in file-system order, and reports a broken plugin without its package.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, TypeVar, cast

import pluggy

from ood_core import hookspecs
from ood_core.errors import OODError, one_line, suggest
from ood_core.runtime.observers import GuardedHook
from ood_core.runtime.plugin_errors import RAISED, PluginError, described
from ood_core.runtime.plugin_packages import (
    COMMANDS_GROUP,
    DISABLE,
    GROUP,
    PREFER,
    Package,
    entries,
    package_of,
    preferences,
    top,
)
from ood_core.runtime.source_digest import source_digest

if TYPE_CHECKING:
    from ood_core.interfaces import Plugin

Made = TypeVar("Made")
"""What a package registers: a class, or a command."""

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "faiss-cpu", "faiss-gpu", "pluggy")
"""Distributions that decide numbers."""

COMPUTES = (
    "data",
    "evaluation",
    "interfaces",
    "neighbors",
    "pipeline",
    "records/facts.py",
    "records/stages.py",
    "runtime/distributed.py",
    "runtime/leftovers.py",
    "runtime/log_names.py",
    "runtime/openmp.py",
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

    def package(self, plugin: Plugin) -> Package:
        """Return the package that a plugin object's class came from.

        Raises:
            OODError: No installed package registers the class.
        """
        for found in self.registered.values():
            if found.cls is type(plugin):
                return found.package
        cls, kind = type(plugin), next(kind for kind, base in _kinds().items() if isinstance(plugin, base))
        raise OODError(
            f"no installed package registers the {kind} {cls.__name__} of {cls.__module__}; put the class into a "
            f"package that returns it from the hook ood_register_{kind}s (plugins/README.md)"
        )

    def version(self, plugin: Plugin) -> str:
        """Return "distribution version+digest" of the package that a plugin object's class came from."""
        package = self.package(plugin)
        return f"{package.distribution} {package.version}"

    def code(self, cls: type) -> dict[str, str]:
        """Return digests of the package that defines a class and of the plugin packages that it derives from.

        The core is left out: its digest is in every key.
        """
        within = [top(base.__module__) for base in cls.__mro__]
        names = {within[0], *({top(package.module) for package in self.packages} & set(within))}
        for name in names - {"ood_core", "__main__", *self._digests}:
            self._digests[name] = source_digest(name)
        return {name: self._digests[name] for name in sorted(names & self._digests.keys())}

    def versions(self) -> dict[str, str]:
        """Return the versions of Python, the core, the libraries that decide numbers, and every plugin package."""
        found = {"python": platform.python_version(), "ood-framework": core_version()}
        found |= installed_versions(LIBRARIES)
        return found | {f"plugin {one.entry}": f"{one.distribution} {one.version}" for one in self.packages}


def installed_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {}
    for library in libraries:
        with suppress(metadata.PackageNotFoundError):  # one of the two builds of faiss
            found[library] = metadata.version(library)
    return found


def hook_manager() -> pluggy.PluginManager:
    """Return a plugin manager that has the hooks, and no plugin."""
    manager = pluggy.PluginManager(GROUP)
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

    with torch_state.stage_state():
        prepare_torchvision()  # a plugin may import torchvision or timm at its top
        manager, packages = _load(GROUP)
        return Plugins(manager, tuple(packages.values()), _classify(manager, packages))


def find_commands() -> dict[str, Callable[..., None]]:
    """Return the sub-commands of `ood` that packages register, by name.

    Raises:
        OODError: A package is broken, misspells a hook, or two of them use one name; names package and version.
    """
    manager, packages = _load(COMMANDS_GROUP)
    found: dict[tuple[str, str], list[tuple[Package, Callable[..., None]]]] = {}
    for implementation in manager.hook.ood_register_commands.get_hookimpls():
        package = packages[implementation.plugin_name]
        with _naming(package):
            returned = dict(cast(Mapping[str, Callable[..., None]], implementation.function()))
        for name, command in returned.items():
            found.setdefault(("command", name), []).append((package, command))
    return {name: command for (_, name), (_, command) in sorted(_without_clashes(found, packages).items())}


def _load(group: str) -> tuple[pluggy.PluginManager, dict[str, Package]]:
    """Import and register the packages of a group; a class is instantiated, so that it may keep state."""
    manager = hook_manager()
    packages: dict[str, Package] = {}
    for entry in entries(group):
        packages[entry.name] = package = package_of(entry)
        try:
            with _naming(package):
                _register(entry, manager, package)
        except pluggy.PluginValidationError as error:
            if name := str(error).partition("unknown hook '")[2].partition("'")[0]:
                # has_spec: a name without one is another mistake of the same package
                hooks = (hook for hook, caller in vars(manager.hook).items() if caller.has_spec())
                wrong = f"implements no hook there is: '{name}'.{suggest(name, hooks)}"
            else:
                wrong = f"is not valid: {one_line(error)}"
            raise OODError(f"plugin {package} {wrong}") from None
    return manager, packages


def core_version() -> str:
    """Return the version of the core, with a digest of the source that results depend on."""
    return f"{metadata.version('ood-framework')}+{source_digest('ood_core', COMPUTES)}"


@contextmanager
def _naming(package: Package) -> Iterator[None]:
    """Name a package whose code raises an exception at its import or registration, or ends the process."""
    try:
        yield
    except pluggy.PluginValidationError:
        raise
    except RAISED as error:
        raise PluginError(
            f"plugin {package} cannot be loaded: {described(error)}; "
            f"mend or uninstall it, or leave it out with {DISABLE}={package.entry}"
        ) from error


def _register(entry: metadata.EntryPoint, manager: pluggy.PluginManager, package: Package) -> None:
    loaded = entry.load()
    plugin = loaded() if isinstance(loaded, type) else loaded
    manager.register(plugin, name=package.entry)
    manager.check_pending()
    for name in dir(plugin):  # pluggy would pass over it without a word
        member = getattr(plugin, name)
        if name.startswith("ood_") and callable(member) and not hasattr(member, f"{GROUP}_impl"):
            raise TypeError(f"{name} is not marked with @hookimpl")
    for caller in manager.get_hookcallers(plugin) or ():
        (implementation,) = (one for one in caller.get_hookimpls() if one.plugin is plugin)
        if implementation.wrapper or implementation.hookwrapper:
            raise TypeError(f"{caller.name} is a wrapper of a hook, which none may be")
        if not caller.name.startswith("ood_register_"):
            implementation.function = GuardedHook(caller.name, implementation.function, package)  # type: ignore[misc]


def _kinds() -> Mapping[str, type[Plugin]]:
    from ood_core.interfaces import PLUGIN_KINDS  # torch: not before a command needs more than its own name

    return PLUGIN_KINDS


def _classify(manager: pluggy.PluginManager, packages: Mapping[str, Package]) -> dict[tuple[str, str], Registered]:
    from ood_core.interfaces.declarations import check_class

    found: dict[tuple[str, str], list[tuple[Package, type[Plugin]]]] = {}
    for kind, base in _kinds().items():
        implementations = getattr(manager.hook, f"ood_register_{kind}s").get_hookimpls()
        for implementation in sorted(implementations, key=lambda item: item.plugin_name):
            package = packages[implementation.plugin_name]
            with _naming(package):
                returned = list(implementation.function())  # it may import, and so may fail as a module does
            for cls in returned:
                try:
                    check_class(kind, cls, base)
                except OODError as error:
                    raise OODError(f"plugin {package} registers {error}") from None
                found.setdefault((kind, cls.name), []).append((package, cls))
    chosen = _without_clashes(found, packages)
    return {(kind, name): Registered(kind, cls, package) for (kind, name), (package, cls) in chosen.items()}


def _without_clashes(
    found: Mapping[tuple[str, str], Sequence[tuple[Package, Made]]], packages: Mapping[str, Package]
) -> dict[tuple[str, str], tuple[Package, Made]]:
    """Return what packages register by kind and name, each once: of several the one that the user prefers."""
    preferred, chosen = preferences(), {}
    for entry, name in sorted(preferred):
        names = {name for (_, name), pairs in found.items() if entry in (package.entry for package, _ in pairs)}
        groups = [group for group in (GROUP, COMMANDS_GROUP) if entry in (other.name for other in entries(group))]
        if entry in packages and name not in names and len(groups) == 1:  # else it may be of the other one
            raise OODError(f"{PREFER}: plugin '{entry}' registers no '{name}'.{suggest(name, names)}")
    for (kind, name), pairs in found.items():
        wanted = [(package, made) for package, made in pairs if (package.entry, name) in preferred]
        if len(wanted or pairs) > 1:
            raise OODError(_clash(kind, name, [package for package, _ in pairs]))
        ((chosen[kind, name]),) = wanted or pairs
    return chosen


def _clash(kind: str, name: str, packages: Sequence[Package]) -> str:
    one, other, *_ = packages
    if one == other:
        return f"plugin {one} registers the {kind} '{name}' twice"
    return (
        f"two plugins register the {kind} '{name}': {one} and {other}; "
        f"choose one with {PREFER}={one.entry}:{name} or {PREFER}={other.entry}:{name}"
    )

"""The installed plugin packages: their entry points, names and versions."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import metadata

from ood_core.errors import OODError, suggest
from ood_core.runtime.source_digest import source_digest

GROUP = "ood"
"""The entry-point group, and pluggy's project name."""

COMMANDS_GROUP = "ood_commands"
"""The entry-point group of packages with sub-commands; apart, so that `ood --help` imports no other package."""

DISABLE = "OOD_DISABLE_PLUGINS"
"""Environment variable: names of entry points to leave out, separated by commas."""

PREFER = "OOD_PREFER"
"""Environment variable: which package to take a plugin from if several have its name, as `ENTRY:NAME,ENTRY:NAME`."""


@dataclass(frozen=True)
class Package:
    """A plugin package: one entry point of an installed distribution.

    `version` is the distribution's with a digest of the package's files, so that results of changed code are not taken
    for those of the old: "1.2.0+0c9d31fe". Messages show it without the digest.
    """

    entry: str
    distribution: str
    version: str
    module: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.entry} ({self.distribution} {self.version.rpartition('+')[0]})"


def entries(group: str) -> list[metadata.EntryPoint]:
    """Return the entry points of a group in order of name, those of disabled plugins left out, each once."""
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    names = {entry.name for each in (GROUP, COMMANDS_GROUP) for entry in metadata.entry_points(group=each)}
    for name in sorted(disabled - names):
        raise OODError(f"{DISABLE}: no plugin '{name}' is installed.{suggest(name, names)}")
    found: dict[tuple[str, str], metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=group):
        if entry.name not in disabled:
            found.setdefault((entry.name, _distribution(entry).name), entry)  # one path may stand in sys.path twice
    taken: dict[str, metadata.EntryPoint] = {}
    for (name, _), entry in sorted(found.items(), key=lambda item: item[0]):
        if name in taken:
            raise OODError(
                f"two packages have the plugin entry point '{name}': {package_of(taken[name])} and "
                f"{package_of(entry)}; uninstall one, or leave both out with {DISABLE}={name}"
            )
        taken[name] = entry
    return list(taken.values())


def preferences() -> set[tuple[str, str]]:
    """Return the pairs of an entry point and a plugin's name that the user prefers.

    Raises:
        OODError: One is no pair, or of a package that is not installed or left out.
    """
    known = {entry.name for group in (GROUP, COMMANDS_GROUP) for entry in entries(group)}
    found = set()
    for part in filter(None, map(str.strip, os.environ.get(PREFER, "").split(","))):
        entry, _, name = part.partition(":")
        if not name:
            raise OODError(f"{PREFER}: '{part}' is not PACKAGE:NAME, the entry point of a package and a plugin's name")
        if entry not in known:
            raise OODError(f"{PREFER}: no plugin '{entry}' is loaded.{suggest(entry, known)}")
        found.add((entry, name))
    return found


def package_of(entry: metadata.EntryPoint) -> Package:
    """Return the package of an entry point."""
    distribution = _distribution(entry)
    version = f"{distribution.version}+{source_digest(top(entry.module))}"
    return Package(entry.name, distribution.name, version, entry.module)


def top(module: str) -> str:
    """Return the name of a module's top-level package."""
    return module.partition(".")[0]


def _distribution(entry: metadata.EntryPoint) -> metadata.Distribution:
    assert entry.dist is not None, "entry points found by importlib.metadata know their distribution"
    return entry.dist

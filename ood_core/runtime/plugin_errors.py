"""Exceptions of plugins in one line: package, exception, file and line."""

from __future__ import annotations

import traceback
from importlib import metadata
from pathlib import Path

from ood_core.errors import OODError
from ood_core.runtime.plugin_packages import COMMANDS_GROUP, GROUP, top

RAISED = (Exception, SystemExit)
"""What the code of a plugin may raise by mistake; a KeyboardInterrupt is the user's."""


class PluginError(OODError):
    """An exception of a plugin, in one line; `__cause__` is the exception itself."""

    @classmethod
    def of(cls, place: str, error: BaseException) -> PluginError:
        """Return an exception with the place in a recipe where the plugin stands."""
        found = cls(f"{place}: {named(error)}")
        found.__cause__ = error
        return found


def plugin_of(error: BaseException) -> str | None:
    """Return the plugin package that raised an exception, "knn (ood-framework 1.2.0)"; None if no plugin did."""
    return _origin(error)[0]


def named(error: BaseException) -> str:
    """Return an exception in one line, with the plugin that raised it, and the last place in it.

    "plugin knn (ood-framework 1.2.0): ValueError: no rows (ood_knn/neighbours.py:31, in fit)"; without a plugin
    "ValueError: no rows".
    """
    plugin, _ = _origin(error)
    return described(error) if plugin is None else f"plugin {plugin}: {described(error)}"


def described(error: BaseException) -> str:
    """Return that line without the plugin, for a message that has it already."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    text += torchvision_page(text)
    _, place = _origin(error)
    return f"{text} ({place})" if place else text


def torchvision_page(message: str) -> str:
    """Return the end of a message that names the page about operators that torchvision lacks, "" for other messages."""
    lacks = ("torchvision::", "Couldn't load custom C++ ops", "Couldn't load the image extension")
    if not any(words in message for words in lacks):
        return ""
    return '; see "torchvision beside a CPU build of torch" in docs/installation.md'


def full_traceback(error: BaseException) -> str:
    """Return the traceback of an exception, of a `PluginError` that of its cause."""
    cause = error.__cause__ if isinstance(error, OODError) and error.__cause__ is not None else error
    return "".join(traceback.format_exception(cause))


def _origin(error: BaseException) -> tuple[str | None, str]:
    """Return the plugin of the last frame that belongs to one, and that frame's file and line."""
    commands = {} if isinstance(error, SystemExit) else _packages(COMMANDS_GROUP)  # which choose their exit code
    packages = commands | _packages(GROUP)
    plugin, place = None, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module, file = top(frame.f_globals.get("__name__", "")), frame.f_code.co_filename
        if module in packages and not file.startswith("<"):  # such as a dataclass's own methods
            plugin, place = packages[module], f"{_short(file, module)}:{line}, in {frame.f_code.co_name}"
        elif module == "ood_core" and plugin in commands.values():
            # a command calls all of the core; other plugins are at fault for what they give it
            plugin, place = None, ""
    return plugin, place


def _packages(group: str) -> dict[str, str]:
    """Return "entry (distribution version)" of the packages of a group by their top-level module."""
    found = {}
    for entry in metadata.entry_points(group=group):
        if entry.dist is not None:
            found[top(entry.module)] = f"{entry.name} ({entry.dist.name} {entry.dist.version})"
    return found


def _short(file: str, module: str) -> str:
    """Return a path from the top-level package on."""
    parts = Path(file).parts
    return "/".join(parts[len(parts) - 1 - parts[::-1].index(module) :]) if module in parts else parts[-1]

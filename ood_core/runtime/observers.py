"""Lifecycle hooks that raise: named once and left out, so that no observer ends a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ood_core.runtime.plugin_errors import RAISED, described
from ood_core.runtime.plugin_packages import Package

_LOG = logging.getLogger(__name__)


@dataclass
class GuardedHook:
    """A package's implementation of a lifecycle hook, called until it raises for the first time."""

    hook: str
    function: Callable[..., object]
    package: Package
    failed: bool = False

    def __call__(self, *arguments: Any) -> None:
        """Call it; a KeyboardInterrupt alone goes on."""
        if self.failed:
            return
        try:
            self.function(*arguments)
        except RAISED as error:
            self.failed = True
            _LOG.warning(
                "plugin %s: %s raised and is left out from here on: %s", self.package, self.hook, described(error)
            )
            _LOG.debug("its traceback", exc_info=error)

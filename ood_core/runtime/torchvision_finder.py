"""Declares the operators that torchvision lacks beside a CPU build of torch when something imports torchvision.

`torchvision_hook` lets every process of an environment call `install_finder` as it starts, so this module imports
neither torch nor anything else that is slow.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

MODULE = "torchvision"


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        from ood_core.runtime.torchvision_compat import prepare_torchvision  # imports torch, as torchvision does

        prepare_torchvision()
        super().exec_module(module)


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return torchvision with that loader, None for every other module."""
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


def install_finder() -> None:
    """Find torchvision with the finder of this module in this process."""
    if _Finder not in sys.meta_path:  # lib and lib64 of an environment are one folder, which Python reads twice
        sys.meta_path.insert(0, _Finder)

"""Versions of everything that decides numbers."""

from __future__ import annotations

import platform
from importlib import metadata

from ood_core.plugins import Plugins, core_version

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "faiss-cpu", "faiss-gpu", "pluggy")


def versions(plugins: Plugins) -> dict[str, str]:
    """Return names and versions: Python, the core, the libraries that decide numbers, every plugin package."""
    found = {"python": platform.python_version(), "ood-framework": core_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue  # one of the two builds of faiss
    return found | {
        f"plugin {package.entry}": f"{package.distribution} {package.version}" for package in plugins.packages
    }

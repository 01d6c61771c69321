"""Out-of-distribution detection on images; start with README.md in this folder.

`from ood_core import Detector` imports torch, `import ood_core` alone does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ("Detector", "__version__")

if TYPE_CHECKING:
    from ood_core.detector import Detector

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Import what `__all__` names when it is first used."""
        if name == "Detector":
            from ood_core.detector import Detector

            return Detector
        if name == "__version__":
            from importlib.metadata import version

            return version("ood-framework")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)

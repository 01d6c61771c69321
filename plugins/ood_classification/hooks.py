"""Registration of the classification pretext."""

from __future__ import annotations

from ood_classification.pretext import Classification
from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    """Return the pretext task of this package."""
    return [Classification]

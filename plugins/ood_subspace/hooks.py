"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_subspace.pnml import PNML
from ood_subspace.scorers import Residual, ViM


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [ViM, Residual, PNML]

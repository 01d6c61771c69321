"""Registers the scorer."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_neurons.scorer import NAC


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [NAC]

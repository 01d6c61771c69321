"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_density.boundary import OneClassSvm
from ood_density.forest import IsolationForest
from ood_density.mixture import Mixture


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [IsolationForest, Mixture, OneClassSvm]

"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_knn.lof import LocalOutlierFactor
from ood_knn.neighbours import GuidedByNeighbours, NearestNeighbour
from ood_knn.relation import RelationGraph


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [GuidedByNeighbours, LocalOutlierFactor, NearestNeighbour, RelationGraph]

"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_prototypes.boundaries import FastBoundaryDistance, NeuralCollapse, SimplifiedHopfield
from ood_prototypes.distances import Chebyshev, CityBlock, Cosine, Euclidean


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [Chebyshev, CityBlock, Cosine, Euclidean, FastBoundaryDistance, NeuralCollapse, SimplifiedHopfield]

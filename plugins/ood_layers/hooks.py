"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_layers.gram import Gram
from ood_layers.mahalanobis import LayerMahalanobis, MahalanobisEnsemble
from ood_layers.rankfeat import RankFeat


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [LayerMahalanobis, MahalanobisEnsemble, Gram, RankFeat]

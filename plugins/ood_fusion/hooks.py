"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_fusion.scorers import RankFusion, ZScoreFusion


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [RankFusion, ZScoreFusion]

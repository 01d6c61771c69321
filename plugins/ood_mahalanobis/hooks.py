"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_mahalanobis.classes import ClassMahalanobis
from ood_mahalanobis.scorers import GlobalMahalanobis, Mahalanobis, RelativeMahalanobis
from ood_mahalanobis.ssd import SSD, FewShotSSD


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [Mahalanobis, GlobalMahalanobis, ClassMahalanobis, RelativeMahalanobis, SSD, FewShotSSD]

"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_gradients.dropout import MCDropout
from ood_gradients.mahalanobis import PerturbedMahalanobis
from ood_gradients.odin import IODIN, ODIN
from ood_gradients.parameters import GradUncertainty, NetworkGradNorm


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [ODIN, IODIN, PerturbedMahalanobis, NetworkGradNorm, GradUncertainty, MCDropout]

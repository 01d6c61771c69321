"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_shaping.activations import ASHB, ASHP, ASHS, LTS, Scale
from ood_shaping.scorers import DICE, VRA, ReAct


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [ReAct, VRA, DICE, ASHP, ASHB, ASHS, Scale, LTS]

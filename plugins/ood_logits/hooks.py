"""Registers the scorers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer
from ood_logits.calibration import TemperatureScaling
from ood_logits.confidence import DoctorAlpha, DoctorBeta, Margin, MaxLogit, Softmax
from ood_logits.energy import Energy, WeightedEnergy
from ood_logits.information import Entropy, Gen
from ood_logits.openmax import OpenMax
from ood_logits.posteriors import Igeood, KLMatching


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [
        Softmax,
        MaxLogit,
        Margin,
        TemperatureScaling,
        Entropy,
        Gen,
        Energy,
        WeightedEnergy,
        KLMatching,
        OpenMax,
        DoctorAlpha,
        DoctorBeta,
        Igeood,
    ]

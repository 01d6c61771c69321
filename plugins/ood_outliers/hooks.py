"""Registration of what learns from known outliers."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask, Scorer
from ood_outliers.pretext import EnergyExposure, OutlierExposure
from ood_outliers.scorer import FewShotHead


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    return [OutlierExposure, EnergyExposure]


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    return [FewShotHead]

"""Registration of contrastive learning with and without labels."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask
from ood_supcon.pretext import SimCLR, SupervisedContrast


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    return [SupervisedContrast, SimCLR]

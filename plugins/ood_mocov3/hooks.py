"""Registration of MoCo v3."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask
from ood_mocov3.pretext import MoCoV3


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    return [MoCoV3]

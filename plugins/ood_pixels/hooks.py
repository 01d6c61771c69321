"""Registration of the pretext tasks that predict pixels."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask
from ood_pixels.mae import MaskedAutoencoder
from ood_pixels.simmim import SimMIM


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    return [SimMIM, MaskedAutoencoder]

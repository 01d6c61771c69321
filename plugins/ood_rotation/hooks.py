"""Registration of rotation prediction."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask
from ood_rotation.pretext import Rotation


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    return [Rotation]

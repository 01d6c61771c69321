"""Registration of the timm backbone."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Backbone
from ood_timm.backbone import Timm


@hookimpl
def ood_register_backbones() -> list[type[Backbone]]:
    return [Timm]

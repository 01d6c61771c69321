"""Registration of the supervised pretexts."""

from ood_classification.pretext import Classification, OneClass
from ood_core.hookspecs import hookimpl
from ood_core.interfaces import PretextTask


@hookimpl
def ood_register_pretexts() -> list[type[PretextTask]]:
    return [Classification, OneClass]

"""Registration of the data sources."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource
from ood_samples.sources import Digits, Noise, PhotoPatches


@hookimpl
def ood_register_datasets() -> list[type[DatasetSource]]:
    return [Digits, PhotoPatches, Noise]

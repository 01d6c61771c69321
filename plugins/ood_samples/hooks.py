"""Registration of the data sources."""

from __future__ import annotations

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource
from ood_samples.digits import Digits
from ood_samples.noise import Noise
from ood_samples.patches import PhotoPatches


@hookimpl
def ood_register_datasets() -> list[type[DatasetSource]]:
    return [Digits, PhotoPatches, Noise]

"""Registration of the data source."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource
from ood_torchvision.source import TorchvisionDataset


@hookimpl
def ood_register_datasets() -> list[type[DatasetSource]]:
    return [TorchvisionDataset]

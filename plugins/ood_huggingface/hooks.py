"""Registration of the data source."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource
from ood_huggingface.source import HubDataset


@hookimpl
def ood_register_datasets() -> list[type[DatasetSource]]:
    return [HubDataset]

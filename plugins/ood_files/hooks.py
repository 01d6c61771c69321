"""Registration of the data sources."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource
from ood_files.arrays import Arrays
from ood_files.folder import ImageFolder
from ood_files.lists import ImageList
from ood_files.manifests import Manifest
from ood_files.parquet import ParquetFiles
from ood_files.tars import TarShards


@hookimpl
def ood_register_datasets() -> list[type[DatasetSource]]:
    return [ParquetFiles, ImageFolder, ImageList, Manifest, Arrays, TarShards]

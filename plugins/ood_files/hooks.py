"""Registration of the data sources."""

from __future__ import annotations

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource
from ood_files.folder import ImageFolder
from ood_files.parquet import ParquetFiles


@hookimpl
def ood_register_datasets() -> list[type[DatasetSource]]:
    """Return parquet files and image folders."""
    return [ParquetFiles, ImageFolder]

"""Registration of the data sources."""

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource
from ood_published.folders import Birds, Dogs, FlatFolder, Scenes, TinyImageNet, WordNetFolders
from ood_published.source import Published


@hookimpl
def ood_register_datasets() -> list[type[DatasetSource]]:
    return [Published, FlatFolder, WordNetFolders, TinyImageNet, Birds, Dogs, Scenes]

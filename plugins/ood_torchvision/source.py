"""torchvision's data sets as a data source."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ood_core.errors import OODError, suggest
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_torchvision.images import TorchvisionImages
from ood_torchvision.splits import GONE, SPLITS


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(DatasetSource):
    """A classification data set of torchvision, in the files and folders that torchvision expects.

    Attributes:
        dataset: Name of the class in `torchvision.datasets`.
        root: The folder torchvision is given; most sets have a folder of their own in it.
        download: Whether torchvision fetches what is missing, and compares its checksums.
    """

    name = "torchvision"
    dataset: str
    root: Path
    download: bool = False

    def check(self) -> None:
        if self.dataset not in SPLITS:
            raise OODError(f"no torchvision data set '{self.dataset}'.{suggest(self.dataset, SPLITS)}")
        if self.download and (self.dataset in GONE or not _can_download(self._constructor())):
            raise OODError(f"torchvision data set '{self.dataset}' cannot be downloaded, so set download: false")

    def open(self, split: Split) -> ImageSet:
        self.check()
        if not self.download and not self.root.is_dir():
            raise self._missing("no such folder")
        try:
            found = self._construct(split)
        except (RuntimeError, OSError, ValueError) as error:
            raise self._missing(" ".join(str(error).split()).partition(". ")[0].rstrip(".")) from error
        return TorchvisionImages(self.dataset, found)

    def _construct(self, split: Split) -> Dataset[Any]:
        constructor = self._constructor()
        arguments = dict(SPLITS[self.dataset][split])
        if _can_download(constructor):
            arguments["download"] = self.download  # said in any case: SEMEION downloads by default
        return constructor(str(self.root), **arguments)  # type: ignore[call-arg]

    def _constructor(self) -> type[Dataset[Any]]:
        prepare_torchvision()
        from torchvision import datasets

        constructor: type[Dataset[Any]] = getattr(datasets, self.dataset)
        return constructor

    def _missing(self, reason: str) -> OODError:
        known = self.dataset not in GONE and _can_download(self._constructor())
        hint = "; download: true fetches it" if known and not self.download else ""
        return OODError(f"torchvision data set '{self.dataset}' in {self.root}: {reason}{hint}")


def _can_download(constructor: type[Dataset[Any]]) -> bool:
    # EMNIST hands it on to the class it is made of
    return any("download" in signature(cls).parameters for cls in constructor.__mro__[:-1])

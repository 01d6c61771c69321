"""The sources that were opened, each once for all selections from it, and the cache of their decoded images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

from torch import Tensor

from ood_core.data.cache import PixelCache
from ood_core.data.decoding import to_rgb
from ood_core.errors import OODError
from ood_core.escapes import printable
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_core.interfaces.checks import check_images, check_picture
from ood_core.runtime import torch_state
from ood_core.runtime.source_digest import source_digest

MEMORY_BYTES = 512 * 2**20  # of the cache in memory, in each process


class MemoryCache:
    """Decoded images of all sources of a process; the least recently used ones are evicted."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._images: OrderedDict[tuple[object, int], Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[object, int]) -> Tensor | None:
        """Return an image, None if there is none."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: tuple[object, int], image: Tensor) -> None:
        """Add an image."""
        with self._lock:
            self.nbytes += image.nbytes if key not in self._images else 0
            self._images[key] = image
            while self.nbytes > MEMORY_BYTES:
                self.nbytes -= self._images.popitem(last=False)[1].nbytes


_MEMORY = MemoryCache()


class DecodedImages:
    """One split of a source with its decoded images, shared by all selections from it.

    Images that lie encoded in files are cached on disk, between runs and for all processes, if they are few and small
    enough; reading one there takes a tenth of the time of decoding it. All others are cached in memory.
    """

    def __init__(self, images: ImageSet, source: str) -> None:
        self.images, self.source = images, source
        self._key = object()
        self._disk: PixelCache | None = None
        self._disk_opened = False
        self.disturbs = False
        """Whether reading an image has changed settings that other threads share."""

    def pixels(self, row: int) -> Tensor:
        """Return one image, uint8 [3, H, W]; OODError with its name if the picture is broken."""
        found = None if self._disk is None else self._disk.get(row)
        if found is not None or (found := _MEMORY.get((self._key, row))) is not None:
            return found
        with torch_state.restoring() as changed:
            picture = check_picture(self.source, row, self.images.image(row))
        self.disturbs = self.disturbs or bool(changed)
        try:
            pixels = to_rgb(picture)
        except OODError as error:
            name = f"image {row}" if self.images.places is None else printable(self.images.places[row])
            raise OODError(f"{name}: {error}") from error
        if self.images.encoded and not self._disk_opened:  # the first picture has the size of all
            self._disk_opened = True
            package = type(self.images).__module__.partition(".")[0]  # which reads the set
            digest = "" if package in ("ood_core", "__main__") else f" {source_digest(package)}"
            content = self.images.fingerprint + digest
            self._disk = PixelCache.of(content, len(self.images), tuple(pixels.shape))
        if self._disk is None or not self._disk.put(row, pixels):
            _MEMORY.put((self._key, row), pixels)
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_key": object()}  # the copy has its own place in the memory of its process


class SourcePool:
    """Opened sources, so that variants, seeds, cases and parts share them and their decoded images."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, str, Split], DecodedImages] = {}

    def open(self, source: DatasetSource, candidates: Sequence[DatasetSource], split: Split) -> DecodedImages:
        """Return the first of the candidates that can be opened, by default the source; OODError if none can."""
        reasons: list[str] = []
        for candidate in candidates or (source,):
            key = (f"{type(candidate).__module__}.{type(candidate).__qualname__}", repr(candidate), split)
            try:
                if key not in self._opened:
                    images = check_images(candidate.name, candidate.open(split))
                    self._opened[key] = DecodedImages(images, candidate.name)
                return self._opened[key]
            except OODError as error:
                reasons.append(str(error))
            except OSError as error:
                where = error.filename or f"dataset '{candidate.name}'"
                reasons.append(f"{where}: cannot be read: {error.strerror or error}")
        raise OODError(source.missing(reasons))

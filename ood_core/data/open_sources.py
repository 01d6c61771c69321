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
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_core.interfaces.checks import check_images, check_picture
from ood_core.runtime import torch_state
from ood_core.runtime.source_digest import source_digest

MEMORY_BYTES = 512 * 2**20
"""Size of the cache in memory, in each process."""


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
        """Return one image, uint8 [3, H, W].

        Raises:
            OODError: The picture is broken; names it.
        """
        if self._disk is not None and (found := self._disk.get(row)) is not None:
            return found
        if (found := _MEMORY.get((self._key, row))) is not None:
            return found
        with torch_state.restoring() as changed:
            picture = check_picture(self.source, row, self.images.image(row))
        self.disturbs = self.disturbs or bool(changed)
        try:
            pixels = to_rgb(picture)
        except OODError as error:
            name = f"image {row}" if self.images.places is None else self.images.places[row]
            raise OODError(f"{name}: {error}") from error
        if self.images.encoded and not self._disk_opened:  # the first picture has the size of all
            self._disk_opened = True
            self._disk = PixelCache.of(self._content(), len(self.images), tuple(pixels.shape))
        if self._disk is None or not self._disk.put(row, pixels):
            _MEMORY.put((self._key, row), pixels)
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_key": object()}  # the copy has its own place in the memory of its process

    def _content(self) -> str:
        """Return the set's fingerprint, with a digest of the package that reads it unless it is the core."""
        package = type(self.images).__module__.partition(".")[0]
        own = package in ("ood_core", "__main__")
        return self.images.fingerprint if own else f"{self.images.fingerprint} {source_digest(package)}"


class SourcePool:
    """Opened sources, so that variants, seeds, cases and parts share them and their decoded images."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, str, Split], DecodedImages] = {}

    def open(self, source: DatasetSource, candidates: Sequence[DatasetSource], split: Split) -> DecodedImages:
        """Return the first of the candidates that can be opened; the source itself where there are none.

        Raises:
            OODError: None can; the source says what is missing.
        """
        reasons: list[str] = []
        for candidate in candidates or (source,):
            try:
                return self._open(candidate, split)
            except OODError as error:
                reasons.append(str(error))
        raise OODError(source.missing(reasons))

    def _open(self, source: DatasetSource, split: Split) -> DecodedImages:
        key = (f"{type(source).__module__}.{type(source).__qualname__}", repr(source), split)
        if key not in self._opened:
            try:
                opened = source.open(split)
            except OSError as error:
                where = error.filename or f"dataset '{source.name}'"
                raise OODError(f"{where}: cannot be read: {error.strerror or error}") from error
            self._opened[key] = DecodedImages(check_images(source.name, opened), source.name)
        return self._opened[key]

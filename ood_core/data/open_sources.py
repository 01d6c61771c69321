"""Sources that are open, with their decoded images, each once for all that select from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ood_core.data.cache import PixelCache
from ood_core.data.decoding import to_rgb
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet, Split
from ood_core.interfaces.checks import check_images, check_picture
from ood_core.runtime import torch_state
from ood_core.runtime.source_digest import source_digest

MEMORY_BYTES = 512 * 2**20
"""Images that a process keeps in memory, of all sources, where the cache does not keep them; others are made again."""


class Pictures:
    """One split of a source with its decoded images, shared by all selections from it.

    Those that lie encoded in files are kept in the cache of this machine if they are few and small enough.
    """

    _kept: ClassVar[int] = 0
    """Bytes of images in memory, of all sources of this process."""

    def __init__(self, images: ImageSet, source: str) -> None:
        self.images, self.source = images, source
        self._decoded: dict[int, Tensor] = {}
        self._cache: PixelCache | None = None
        self._asked = False
        self.disturbs = False
        """Whether reading an image has changed settings that other threads share."""

    def pixels(self, row: int) -> Tensor:
        """Return one image, uint8 [3, H, W].

        Raises:
            OODError: The picture is broken; names it.
        """
        if self.images.encoded and self._cache is not None and (found := self._cache.get(row)) is not None:
            return found
        if (found := self._decoded.get(row)) is not None:
            return found
        with torch_state.restoring() as changed:
            picture = check_picture(self.source, row, self.images.image(row))
        self.disturbs = self.disturbs or bool(changed)
        try:
            pixels = to_rgb(picture)
        except OODError as error:
            name = f"image {row}" if self.images.places is None else self.images.places[row]
            raise OODError(f"{name}: {error}") from error
        self._keep(row, pixels)
        return pixels

    def _keep(self, row: int, pixels: Tensor) -> None:
        if self.images.encoded and not self._asked:  # the first picture tells the size
            self._asked = True
            self._cache = PixelCache.of(self._content(), len(self.images), tuple(pixels.shape))
        if self._cache is not None and self._cache.put(row, pixels):
            return
        if Pictures._kept + pixels.nbytes <= MEMORY_BYTES:
            self._decoded[row] = pixels
            Pictures._kept += pixels.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_decoded": {}}  # another process has memory of its own

    def __del__(self) -> None:
        type(self)._kept -= sum(pixels.nbytes for pixels in self._decoded.values())

    def _content(self) -> str:
        """Return what decides the pixels: the set's fingerprint, and the code of a package that reads it."""
        package = type(self.images).__module__.partition(".")[0]
        own = package in ("ood_core", "__main__")
        return self.images.fingerprint if own else f"{self.images.fingerprint} {source_digest(package)}"


class Library:
    """The sources opened so far, so that variants, seeds, cases and parts share them and their decoded images."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, str, Split], Pictures] = {}

    def open(self, source: DatasetSource, candidates: Sequence[DatasetSource], split: Split) -> Pictures:
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

    def _open(self, source: DatasetSource, split: Split) -> Pictures:
        key = (f"{type(source).__module__}.{type(source).__qualname__}", repr(source), split)
        if key not in self._opened:
            try:
                opened = source.open(split)
            except OSError as error:
                where = error.filename or f"dataset '{source.name}'"
                raise OODError(f"{where}: cannot be read: {error.strerror or error}") from error
            self._opened[key] = Pictures(check_images(source.name, opened), source.name)
        return self._opened[key]

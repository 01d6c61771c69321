"""Limits of the service."""

from __future__ import annotations

from dataclasses import dataclass

from ood_core.data.decoding import MOST_PIXELS
from ood_core.errors import OODError


@dataclass(frozen=True)
class Limits:
    """Limits of requests, batches and times.

    Attributes:
        batch_size: Maximum number of images in a forward pass.
        max_wait: Milliseconds to wait for images that are being decoded; a lone image never waits.
        queue: Maximum number of accepted images without an answer; a request counts as one until its body was read.
        max_images: Maximum number of images in a request.
        max_bytes: Maximum size of its body.
        max_pixels: Maximum number of pixels of an image, by its header.
        timeout: Seconds for a request, from its first byte to its answer.
        grace: Seconds from the stop signal to the end of the process.
    """

    batch_size: int = 32
    max_wait: float = 2.0
    queue: int = 256
    max_images: int = 64
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    timeout: float = 60.0
    grace: float = 20.0

    def __post_init__(self) -> None:
        if self.max_images > self.queue:
            raise OODError(
                f"a request of {self.max_images} images never fits into a queue of {self.queue}; "
                f"lower --max-images or raise --queue"
            )
        if self.max_pixels > MOST_PIXELS:
            raise OODError(f"--max-pixels {self.max_pixels}: at most {MOST_PIXELS} can be decoded")

"""What a request may be, and how long what may take."""

from __future__ import annotations

from dataclasses import dataclass

from ood_core.data.decoding import MOST_PIXELS
from ood_core.errors import OODError


@dataclass(frozen=True)
class Limits:
    """All of the service's bounds.

    Attributes:
        batch_size: Images that pass through the network at once, at most.
        max_wait: Milliseconds that images wait for others that are being decoded; a lone one never waits.
        queue: Images that are accepted and not yet answered, at most; a request counts as one until it was read.
        max_images: Images of a request.
        max_bytes: Bytes of its body.
        max_pixels: Pixels of an image, as its header says.
        timeout: Seconds for a request, from its first byte to its answer.
        grace: Seconds from the signal to stop to the end of the process.
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

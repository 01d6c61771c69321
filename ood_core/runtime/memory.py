"""Peak memory of a stage, free memory, and batches that are halved if memory runs out."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from ood_core.errors import OODError

T = TypeVar("T")

MIB, GIB = 2**20, 2**30

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")  # of torch, cuDNN and cuBLAS
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peaks() -> None:
    """Reset the peaks; that of main memory can be reset on Linux only, elsewhere it is the peak of the process."""
    with suppress(OSError):
        _RESET.write_text("5")  # proc(5): resets the peak resident set size
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peaks() -> dict[str, float]:
    """Return the peaks since the reset in MiB: of this process, and of the GPU's memory if there is one."""
    found = {"peak_memory_mb": round(_peak_resident() / MIB, 1)}
    if torch.cuda.is_available():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
    return found


def available() -> float:
    """Return the main memory in MiB that is available without swapping."""
    return float(psutil.virtual_memory().available) / MIB


def much(name: str, count: int) -> str:
    """Return a note if a scorer takes over 1 GiB, or over a quarter of the free memory; "" if it takes less."""
    free = available() * MIB
    note = f"scorer '{name}' takes at least {count / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free here"
    return note if count > min(GIB, free / 4) else ""


def _peak_resident() -> int:
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource  # not on Windows, which has no VmHWM either: there psutil knows the peak

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error means that memory has run out."""
    certain = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return certain or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))


@contextmanager
def exhaustion_explained(advice: str) -> Iterator[None]:
    """Replace torch's many lines about memory by one with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        raise OODError(f"out of memory {advice}") from error


class Halving:
    """Computes batches in as few parts as memory allows: when it runs out, parts become half as large for good.

    A result may differ in its last bits by the size of the parts, as it does between machines.
    """

    def __init__(self) -> None:
        self.largest: int | None = None

    def __call__(self, compute: Callable[[Any], T], batch: Any) -> list[T]:
        """Return the results for the parts of a batch, a tensor or `Outputs`, in order; OODError below one image."""
        left, found = deque([batch]), list[T]()
        while left:
            part = left.popleft()
            size = len(part) if self.largest is None else min(len(part), self.largest)
            if size < len(part):
                left.extendleft(part[start : start + size] for start in reversed(range(0, len(part), size)))
                continue
            try:
                found.append(compute(part))
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
                if len(part) <= 1:
                    advice = "take a smaller network or image size, or free some memory"
                    raise OODError(f"out of memory even with one image at a time: {advice}") from error
            # not above, where the traceback still holds what the pass had allocated
            self.largest = -(-len(part) // 2)
            left.appendleft(part)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
        return found

"""How much memory a stage takes, and how much is left for another."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

MIB = 2**20

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peaks() -> None:
    """Begin to look for the peaks anew; of main memory only Linux can, elsewhere it stays that of the process."""
    with suppress(OSError):
        _RESET.write_text("5")  # proc(5): resets the peak resident set size
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peaks() -> dict[str, float]:
    """Return the peaks since then in MiB: of this process, and of the GPU's memory where there is one."""
    found = {"peak_memory_mb": round(_peak_resident() / MIB, 1)}
    if torch.cuda.is_available():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
    return found


def available() -> float:
    """Return how many MiB of main memory could be had without swapping."""
    return float(psutil.virtual_memory().available) / MIB


def _peak_resident() -> int:
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource  # not on Windows, which has no VmHWM either: there psutil knows the peak

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

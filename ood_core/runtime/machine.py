"""The hardware that a run took place on, in words; neither its name nor its paths."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import psutil
import torch

GIB = 2**30


def machine() -> dict[str, str]:
    """Return what is known of the processor, the memory, the accelerator and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # Linux alone
    return {
        "processor": _processor(),
        "cores": f"{cores} of {psutil.cpu_count()} logical",
        "threads of torch": str(torch.get_num_threads()),
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "accelerator": _accelerator(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    if cpuinfo.is_file() and (named := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)):
        return " ".join(named[1].split())
    return platform.processor() or platform.machine()


def _accelerator() -> str:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return "Apple GPU" if torch.backends.mps.is_available() else "none"

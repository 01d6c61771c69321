"""The only module that imports faiss: which build there is, and the GPUs it can use."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch  # noqa: F401 - before faiss, whose OpenMP and BLAS libraries must not come first

from ood_core.errors import OODError

Device: TypeAlias = Literal["auto", "cpu", "gpu"]

_BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")

GPU_NEIGHBOURS = 2048
"""The most neighbours that faiss finds on a GPU."""


def device() -> str:
    """Return what the search runs on, as the report says it: `faiss-cpu`, or `faiss-gpu: 2 GPUs`."""
    return f"faiss-gpu: {gpus()} GPUs" if gpus() else "faiss-cpu"


def choose(wanted: Device) -> Literal["cpu", "gpu"]:
    """Return where to search.

    Raises:
        OODError: A GPU is wanted, and faiss has none.
    """
    if wanted == "gpu" and not gpus():
        raise OODError("neighbours: device 'gpu', but faiss has no GPU here; install faiss-gpu, or say 'auto' or 'cpu'")
    if wanted == "cpu":
        return "cpu"
    return "gpu" if gpus() else "cpu"


def gpus() -> int:
    """Return how many GPUs faiss can use."""
    return int(faiss().get_num_gpus())


def resources(gpu: int) -> Any:
    """Return the memory pool of a GPU; making one costs more than a search."""
    return _pool(gpu)[0]


def lock(gpu: int) -> Lock:
    """Return what a thread must hold while it uses the memory pool of a GPU: faiss shares it with nobody."""
    return _pool(gpu)[1]


@cache
def _pool(gpu: int) -> tuple[Any, Lock]:
    return faiss().StandardGpuResources(), Lock()


@cache
def faiss() -> ModuleType:
    """Import faiss, at the first use: it takes a third of a second.

    Raises:
        OODError: Two builds of faiss have overwritten each other.
    """
    if len(installed := [build for build in _BUILDS if _is_installed(build)]) > 1:
        raise OODError(
            f"{' and '.join(installed)} are installed and overwrite each other's folder faiss; "
            f"run: pip uninstall -y {' '.join(installed)}, then: pip install {installed[-1]} (or {installed[0]})"
        )
    import faiss

    return faiss


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True

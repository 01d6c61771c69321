"""The only module that imports faiss: which build there is, and the GPUs it can use."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distributions
from threading import Lock
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch  # before faiss, whose OpenMP and BLAS libraries must not come first
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import OODError

Device: TypeAlias = Literal["auto", "cpu", "gpu"]
Place: TypeAlias = Literal["cpu", "gpu"]

GPU_NEIGHBOURS = 2048  # the most that faiss finds on a GPU
_BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")
_GPU_LOCK = Lock()  # faiss does not share the memory pool of a GPU between threads


def choose_device(wanted: Device) -> Place:
    """Return where to search; OODError if a GPU is wanted, and faiss has none."""
    if wanted == "gpu" and not gpus():
        raise OODError("neighbours: device 'gpu', but faiss has no GPU here; install faiss-gpu, or say 'auto' or 'cpu'")
    return "gpu" if wanted != "cpu" and gpus() else "cpu"


def gpus() -> int:
    """Return the number of GPUs that faiss can use."""
    return int(faiss().get_num_gpus())


def to_device(index: Any, place: Place) -> Any:
    """Return an index on the CPU as it is, or with its points divided among all GPUs."""
    if place == "cpu":
        return index
    options = faiss().GpuMultipleClonerOptions()
    options.shard = True
    return faiss().index_cpu_to_gpu_multiple_py(_gpu_resources(), index, options)


def search_index(
    index: Any, queries: NDArray[np.float32], count: int, probes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return values, float32 [N, count], and indices, int64 [N, count], best first; -1 for none.

    The index lies on the CPU or on GPUs; `probes` lists of an inverted file are looked into.
    """
    if not isinstance(index, (faiss().IndexFlat, faiss().IndexIVF)):
        with _GPU_LOCK:
            if probes is not None:
                faiss().GpuParameterSpace().set_index_parameter(index, "nprobe", probes)
            values, indices = index.search(queries, min(count, GPU_NEIGHBOURS))
    elif probes is None:
        values, indices = index.search(queries, count)
    else:
        values, indices = index.search(queries, count, params=faiss().SearchParametersIVF(nprobe=probes))
    return torch.from_numpy(values), torch.from_numpy(indices)


@cache
def _gpu_resources() -> list[Any]:
    """Return a memory pool for each GPU; making one costs more than a search."""
    return [faiss().StandardGpuResources() for _ in range(gpus())]


@cache
def faiss() -> ModuleType:
    """Import faiss at the first use, as it takes a third of a second; OODError if two builds overwrite each other."""
    if len(installed := [build for build in _BUILDS if any(distributions(name=build))]) > 1:
        raise OODError(
            f"{' and '.join(installed)} are installed and overwrite each other's folder faiss; "
            f"run: pip uninstall -y {' '.join(installed)}, then: pip install {installed[-1]} (or {installed[0]})"
        )
    import faiss

    return faiss

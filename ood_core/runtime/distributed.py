"""The processes of one run, started by torchrun or accelerate; a run of a single process is the case of one.

Collectives return their argument, or do nothing, in a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # of collectives: the first process fits and scores alone while the others wait


def init() -> None:
    """Join the process group if several processes were started, and select this one's GPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)


def shutdown() -> None:
    """Leave the process group."""
    if world_size() > 1:
        distributed.barrier()  # a process that ends while another still communicates takes it down
        distributed.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that share the run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        distributed.barrier()


def broadcast(value: T) -> T:
    """Return the first process's value; it is pickled."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum over all processes, without gradient."""
    if world_size() == 1:
        return values
    summed = values.detach().clone()
    distributed.all_reduce(summed)
    return summed


def differentiable_all_reduce(values: Tensor) -> Tensor:
    """Return the sum over all processes; gradients of all of them flow back into each part."""
    return values if world_size() == 1 else _AllReduce.apply(values)  # type: ignore[no-untyped-call]


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient)  # each part went into the sums of all processes


def gather_unique(lines: Iterable[str]) -> list[str]:
    """Return the lines of all processes, sorted, without duplicates."""
    own = list(lines)
    gathered = [own] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(gathered, own)
    return sorted({line for part in gathered for line in part})


def all_gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks, without gradient; shapes must be equal."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor in one piece, in every process; others as they are."""
    if world_size() == 1:
        return tensor
    from torch.distributed.tensor import DTensor  # slow

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor sharded like another one, or as it is if that one is whole."""
    if world_size() == 1:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor  # slow

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)

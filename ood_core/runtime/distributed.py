"""The processes of one run, started by torchrun or accelerate; a run of a single process is the case of one.

Everything here does nothing, or returns what it was given, where there is only one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait for the first one, which fits and scores alone."""


def join() -> None:
    """Find the other processes where torchrun or accelerate has started several, and take this one's GPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState  # slow, and of no use to a single process

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes."""
    if count() > 1:
        distributed.barrier()  # a process that ends while another still talks takes it down
        distributed.destroy_process_group()


def count() -> int:
    """Return the number of processes that share the run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def wait() -> None:
    """Return when all processes have come here."""
    if count() > 1:
        distributed.barrier()


def told(value: T) -> T:
    """Return what the first process gave; values that can be pickled."""
    if count() == 1:
        return value
    box: list[Any] = [value]
    distributed.broadcast_object_list(box)
    result: T = box[0]
    return result


def total(values: Tensor) -> Tensor:
    """Return the sum over all processes, without gradient."""
    if count() == 1:
        return values
    summed = values.detach().clone()
    distributed.all_reduce(summed)
    return summed


def total_with_gradient(values: Tensor) -> Tensor:
    """Return the sum over all processes; gradients of all of them flow back into each part."""
    if count() == 1:
        return values
    summed: Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]
    return summed


class _Total(torch.autograd.Function):
    """Each process's part goes into what all of them get, so it is owed the gradients of all."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


def united(lines: Iterable[str]) -> list[str]:
    """Return the lines of all processes, sorted, each once."""
    found = [list(lines)]
    if count() > 1:
        found = [[] for _ in range(count())]
        distributed.all_gather_object(found, list(lines))
    return sorted({line for part in found for line in part})


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks, without gradient; all give the same shape."""
    if count() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(count())]
    distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)

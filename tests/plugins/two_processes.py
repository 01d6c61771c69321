"""Runs a function in two processes of this machine that talk through gloo."""

import os

import torch
from torch import distributed
from torch.multiprocessing import start_processes


def joined(function, folder):
    """Return what `function(rank)` gives in each of two processes, which begin as copies of this one."""
    start_processes(_run, (function, str(folder)), nprocs=2, start_method="fork")
    return [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in (0, 1)]


def _run(rank, function, folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()

"""Carries out the steps of a training on whatever machine there is: one CPU, one GPU, or many processes.

accelerate finds the device, casts, scales gradients and averages them over processes; torch's `fully_shard` cuts the
weights up where that is asked for (accelerate's own way to it refuses CPUs, on which it is tested here).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ood_core.errors import OODError
from ood_core.interfaces import Batch, PretextTask, Task, Training
from ood_core.interfaces.checks import check_loss
from ood_core.pipeline.training.checkpoint import whole
from ood_core.pipeline.training.schedule import parameter_groups
from ood_core.runtime import distributed, memory, torch_state

SHARD = "OOD_SHARD"
"""Environment variable: 1 cuts weights, gradients and moments up over the processes, for what one cannot hold."""


def precision_of(options: Training, device: torch.device) -> str:
    """Return accelerate's word for the precision that the options mean on this device."""
    if options.precision == "auto":
        if device.type != "cuda":
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "no" if options.precision == "float32" else options.precision


class Engine:
    """A task with its optimiser, on the device and in the processes of this run."""

    def __init__(self, task: Task, options: Training, device: torch.device) -> None:
        self.options, self.device = options, device
        self.sharded = os.environ.get(SHARD) == "1" and distributed.count() > 1
        self.accelerator = _accelerator(options, device)
        self._refuse_impossible()
        self.task = _joined_statistics(task).to(device)
        self.average = self._averaged(task) if options.ema_decay else None
        if self.sharded:
            _shard(task)
        self.model = self._wrapped(task)
        groups = parameter_groups(task, options)
        self.factors = [group.pop("factor") for group in groups]
        self.optimizer = self.accelerator.prepare_optimizer(AdamW(groups, lr=options.learning_rate))

    def _refuse_impossible(self) -> None:
        if self.accelerator.mixed_precision == "fp16" and self.device.type == "cpu":
            raise OODError("precision 'fp16' needs a GPU; 'bf16' and 'float32' work on a CPU")
        if self.sharded and (self.options.ema_decay or self.accelerator.mixed_precision == "fp16"):
            raise OODError(f"{SHARD}=1 goes neither with 'ema_decay' nor with precision 'fp16'")

    def _averaged(self, task: Task) -> AveragedModel:
        function = get_ema_multi_avg_fn(self.options.ema_decay)  # type: ignore[no-untyped-call]
        return AveragedModel(task.product(), multi_avg_fn=function)

    def _wrapped(self, task: Task) -> nn.Module:
        model: nn.Module = task
        if not self.sharded:
            with warnings.catch_warnings():  # accelerate passes the option under its old name
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                model = self.accelerator.prepare_model(task)
        if self.options.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        return model

    # ------------------------------------------------------------------------------------------------------ steps

    def step(self, batch: Batch, rate: float, progress: float) -> dict[str, Tensor]:
        """Make one step of the optimiser with this process's share of a batch; return the metrics, on the device."""
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        self.task.before_step(progress)
        self.optimizer.zero_grad()
        parts = self.options.accumulation
        totals: dict[str, Tensor] = {}
        for number, part in enumerate(_parts(batch, parts)):
            with self._synchronised(last=number == parts - 1):
                with self.accelerator.autocast(), torch_state.restoring():
                    metrics = check_loss(self.options.name, self.model(part))
                self.accelerator.backward(metrics["loss"] / parts)
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0) + value.detach().double() / parts
        self._optimise()
        torch.clear_autocast_cache()  # which torch leaves to the outermost autocast: there may be one around the run
        return totals

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Gradients of the processes are averaged once a step, with the last part."""
        if self.sharded:
            if isinstance(self.task, FSDPModule):
                self.task.set_requires_gradient_sync(last)
            return nullcontext()
        context: AbstractContextManager[None] = nullcontext() if last else self.accelerator.no_sync(self.model)
        return context

    def _optimise(self) -> None:
        if self.options.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.task.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.task.product())

    # ------------------------------------------------------------------------------------------------------- state

    def modules(self) -> dict[str, nn.Module]:
        """Return all that has tensors to keep, by name."""
        return {"task": self.task} | ({"average": self.average} if self.average is not None else {})

    def weights(self) -> dict[str, Tensor]:
        """Return what was trained: the last weights, or their moving average."""
        product = self.average.module if self.average is not None else self.task.product()
        return {name: whole(tensor) for name, tensor in product.state_dict().items()}

    @property
    def scaler(self) -> Any:
        """The gradient scaler, None where nothing is scaled."""
        return self.accelerator.scaler


def _accelerator(options: Training, device: torch.device) -> Accelerator:
    # accelerate keeps the precision for the whole process and refuses to change it; every stage has its own
    AcceleratorState._reset_state()
    # where the classifier is not trained it gets no gradient, and the processes must not wait for one
    unused = isinstance(options, PretextTask) and not options.trains_head
    # buffers are each process's own, and the first one's are kept
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=unused, broadcast_buffers=False)]
    precision = precision_of(options, device)
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=handlers)


def _joined_statistics(task: Task) -> Task:
    """Have batch normalisation see the batch of all processes; torch can only do so on GPUs."""
    if distributed.count() == 1 or not torch.cuda.is_available():
        return task
    joined: Task = nn.SyncBatchNorm.convert_sync_batchnorm(task)  # type: ignore[no-untyped-call]
    return joined


def _shard(task: Task) -> None:
    """Cut the task's weights up over the processes: each layer of a list by itself, then the rest.

    Layers that share a parameter with others stay with the rest, and so do layers within a layer.
    """
    uses: dict[int, int] = {}
    for _, parameter in task.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for module in task.modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            for layer in module:
                own = list(layer.parameters())
                if own and layer.__class__.forward is not nn.Module.forward and all(uses.get(id(p)) == 1 for p in own):
                    fully_shard(layer)
    fully_shard(task)


def _parts(batch: Batch, parts: int) -> Iterator[Batch]:
    views = [view.chunk(parts) for view in batch.views]
    outliers, drawn = ([None] * parts if rows is None else rows.chunk(parts) for rows in (batch.outliers, batch.drawn))
    for number, labels in enumerate(batch.labels.chunk(parts)):
        yield Batch(tuple(view[number] for view in views), labels, outliers[number], drawn=drawn[number])


@contextmanager
def memory_errors(options: Training) -> Iterator[None]:
    """Turn torch's many lines about memory into one that says what to change."""
    advice = f"raise 'accumulation' above {options.accumulation}, set 'gradient_checkpointing: true'"
    if options.precision == "float32":
        advice += ", set 'precision: bf16'"
    with memory.exhaustion_explained(f"with batch_size {options.batch_size}: {advice}, or lower 'batch_size'"):
        yield


def shared_mean(totals: Mapping[str, Tensor], steps: int) -> dict[str, float]:
    """Return the means of the metrics over the steps and all processes."""
    values = distributed.total(torch.stack([torch.as_tensor(total, dtype=torch.float64) for total in totals.values()]))
    means = (values / (steps * distributed.count())).tolist()
    return dict(zip(totals, means, strict=True))

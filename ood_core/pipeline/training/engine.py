"""One optimiser step of a training, on one CPU, one GPU or in many processes: precision, accumulation, sharding."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ood_core.errors import OODError
from ood_core.interfaces import Batch, PretextTask, Task, Training
from ood_core.interfaces.checks import check_loss
from ood_core.pipeline.training.schedule import parameter_groups
from ood_core.runtime import distributed, memory, torch_state

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

Precision: TypeAlias = Literal["float32", "bf16", "fp16"]

SHARD = "OOD_SHARD"  # environment variable: 1 shards weights, gradients and moments over the processes (FSDP)
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(options: Training, device: torch.device) -> Precision:
    """Return the precision for this device."""
    if options.precision != "auto":
        return options.precision
    if device.type != "cuda":
        return "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class Engine:
    """A task with its optimiser, on the device and in the processes of this run."""

    def __init__(self, task: Task, options: Training, device: torch.device) -> None:
        self.options, self.device = options, device
        self.sharded = os.environ.get(SHARD) == "1" and distributed.world_size() > 1
        self.precision = resolve_precision(options, device)
        if self.precision == "fp16" and device.type == "cpu":
            raise OODError("precision 'fp16' needs a GPU; 'bf16' and 'float32' work on a CPU")
        if self.sharded and (options.ema_decay or self.precision == "fp16"):
            raise OODError(f"{SHARD}=1 goes neither with 'ema_decay' nor with precision 'fp16'")
        self.autocast: AbstractContextManager[None] = nullcontext()
        if self.precision != "float32":
            self.autocast = torch.autocast(device.type, _AUTOCAST[self.precision])
        self.scaler = GradScaler(device.type) if self.precision == "fp16" else None
        if distributed.world_size() > 1 and torch.cuda.is_available():  # torch has no joint statistics on CPUs
            task = nn.SyncBatchNorm.convert_sync_batchnorm(task)  # type: ignore[no-untyped-call]
        self.task = task.to(device)
        self.average: AveragedModel | None = None
        if options.ema_decay:
            function = get_ema_multi_avg_fn(options.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(task.product(), multi_avg_fn=function)
        self.model: nn.Module = task
        if self.sharded:
            _shard(task)
        elif distributed.world_size() > 1:
            self.model = DistributedDataParallel(
                task,
                broadcast_buffers=False,  # each process has its own, and those of the first one are saved
                # a classifier that is not trained gets no gradient, and the processes must not wait for one
                find_unused_parameters=isinstance(options, PretextTask) and not options.trains_head,
            )
        if options.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        groups = parameter_groups(task, options)
        self.factors = [group.pop("factor") for group in groups]
        self.optimizer = AdamW(groups, lr=options.learning_rate)

    def step(self, batch: Batch, rate: float, progress: float) -> dict[str, Tensor]:
        """Make one step of the optimiser with this process's share of a batch; return the metrics, on the device."""
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        self.task.before_step(progress)
        self.optimizer.zero_grad()
        parts = self.options.accumulation
        totals: dict[str, Tensor] = {}
        for number, part in enumerate(_split(batch, parts)):
            with self._synchronised(last=number == parts - 1):
                with self.autocast, torch_state.restoring():
                    metrics = check_loss(self.options.name, self.model(part))
                loss = metrics["loss"].to(torch.promote_types(metrics["loss"].dtype, torch.float32)) / parts
                scaled = loss if self.scaler is None else self.scaler.scale(loss)
                scaled.backward()  # type: ignore[no-untyped-call]
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0) + value.detach().double() / parts
        self._optimise()
        torch.clear_autocast_cache()  # which torch leaves to the outermost autocast: there may be one around the run
        return totals

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Average the gradients of the processes once a step, with the last part."""
        if self.sharded:
            cast("FSDPModule", self.task).set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last else getattr(self.model, "no_sync", nullcontext)()

    def _optimise(self) -> None:
        if self.options.max_grad_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.task.parameters(), self.options.max_grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.task.product())

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules of a checkpoint, by name."""
        return {"task": self.task} | ({"average": self.average} if self.average is not None else {})

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights: the last ones, or their moving average."""
        product = self.average.module if self.average is not None else self.task.product()
        return {name: distributed.full_tensor(tensor) for name, tensor in product.state_dict().items()}


def _shard(task: Task) -> None:
    """Shard the task's weights over the processes: each layer of a list by itself, then the rest.

    Layers that share a parameter with others stay with the rest, and so do layers within a layer.
    """
    from torch.distributed.fsdp import fully_shard  # slow

    uses = Counter(id(parameter) for _, parameter in task.named_parameters(remove_duplicate=False))
    for module in task.modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            for layer in module:
                own = list(layer.parameters())
                if own and layer.__class__.forward is not nn.Module.forward and all(uses[id(p)] == 1 for p in own):
                    fully_shard(layer)
    fully_shard(task)


def _split(batch: Batch, parts: int) -> Iterator[Batch]:
    views = [view.chunk(parts) for view in batch.views]
    outliers, drawn = ([None] * parts if rows is None else rows.chunk(parts) for rows in (batch.outliers, batch.drawn))
    for number, labels in enumerate(batch.labels.chunk(parts)):
        yield Batch(tuple(view[number] for view in views), labels, outliers[number], drawn=drawn[number])


def explain_memory_errors(options: Training) -> AbstractContextManager[None]:
    """Turn torch's many lines about memory into one that says what to change."""
    advice = f"raise 'accumulation' above {options.accumulation}, set 'gradient_checkpointing: true'"
    if options.precision == "float32":
        advice += ", set 'precision: bf16'"
    return memory.exhaustion_explained(f"with batch_size {options.batch_size}: {advice}, or lower 'batch_size'")


def mean_over_processes(totals: Mapping[str, Tensor], steps: int) -> dict[str, float]:
    """Return the means of the metrics over the steps and all processes."""
    sums = torch.stack([torch.as_tensor(total, dtype=torch.float64) for total in totals.values()])
    means = (distributed.all_reduce_sum(sums) / (steps * distributed.world_size())).tolist()
    return dict(zip(totals, means, strict=True))

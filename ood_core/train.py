"""The training loop: AdamW, warm-up and cosine, clipping, checkpoints; it knows no pretext task.

Everything random is seeded by the stage's seed and the step, so a run that was killed and goes on from its checkpoint
does exactly what an uninterrupted one does.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from ood_core import network as networks
from ood_core.data import Steps, sample, step_seed, to_unit, training_batches
from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PretextTask, Task, TrainingData
from ood_core.stages import Observer, TrainStage
from ood_core.store import Store, load_notes, load_tensors, save_tensors

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 10.0
"""A killed training loses at most this much, and one step."""


def execute(stage: TrainStage, store: Store, observer: Observer) -> None:
    """Train, going on from a checkpoint where there is one, and file the network's weights."""
    training = _Training(stage, store)
    training.restore()
    training.run(observer)
    weights = training.network.state_dict()
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise OODError(f"the last step left weights that are not finite, such as {broken[0]}; lower 'learning_rate'")
    with store.put(stage) as (folder, facts):
        save_tensors(folder / networks.WEIGHTS, weights)
        facts |= training.facts()


def learning_rate(task: PretextTask, step: int, per_epoch: int) -> float:
    """Return the rate of a step: a line from 0 over the warm-up, then half a cosine to 0."""
    warmup, total = task.warmup_epochs * per_epoch, task.epochs * per_epoch
    if step < warmup:
        return task.learning_rate * (step + 1) / (warmup + 1)
    return task.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def parameter_groups(task: Task, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: matrices, which decay, and biases and norms, which do not."""
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


@dataclass
class _State:
    """How far a training is, apart from its tensors."""

    step: int = 0
    seconds: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)


class _Training:
    """One training stage at work."""

    def __init__(self, stage: TrainStage, store: Store) -> None:
        self.stage, self.options = stage, stage.task
        self.device = networks.device()
        self.images = stage.images.opened
        self.checkpoint = store.unfinished(stage) / CHECKPOINT
        self.state = _State()
        torch.manual_seed(step_seed(stage.seed, 0, "build"))
        self.network = self._network(store)
        data = TrainingData(len(self.images.classes), stage.image_size, partial(sample, self.images, stage.image_size))
        self.task = stage.task.build(self.network, data).to(self.device)
        self.optimizer = AdamW(parameter_groups(self.task, self.options.weight_decay), lr=self.options.learning_rate)

    def _network(self, store: Store) -> Network:
        if self.stage.start is not None:
            return networks.trained(self.stage.start, store)
        return networks.build(self.stage.backbone, self.stage.image_size, len(self.images.classes))

    def run(self, observer: Observer) -> None:
        steps = Steps(len(self.images), self.options.batch_size, self.options.epochs, self.stage.seed, self.state.step)
        total = self.state.step + len(steps)
        begun, saved = time.monotonic() - self.state.seconds, time.monotonic()
        self.task.train()
        for batch in training_batches(self.images, self.options.views(self.stage.image_size), steps):
            self._step(batch, steps.per_epoch, total)
            self.state.seconds = time.monotonic() - begun
            observer.progress(self.state.step, total)
            if self.state.step % steps.per_epoch == 0:
                observer.epoch(self._close_epoch(steps.per_epoch))
            if time.monotonic() - saved > CHECKPOINT_SECONDS and self.state.step < total:
                self.save()
                saved = time.monotonic()

    def _step(self, batch: Batch, per_epoch: int, total: int) -> None:
        step = self.state.step
        rate = learning_rate(self.options, step, per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(self.stage.seed, step, "model"))
        self.task.before_step(step / total)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            metrics = self.task(self._on_device(batch))
        self._refuse_nan(metrics["loss"], step, per_epoch, rate)
        self.optimizer.zero_grad()
        metrics["loss"].backward()
        clip_grad_norm_(self.task.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        for name, value in metrics.items():
            self.state.totals[name] = self.state.totals.get(name, 0.0) + value.item()
        self.state.step += 1

    def _on_device(self, batch: Batch) -> Batch:
        views = tuple(to_unit(view.to(self.device, non_blocking=True)) for view in batch.views)
        return Batch(views, batch.labels.to(self.device, non_blocking=True))

    def _refuse_nan(self, loss: Tensor, step: int, per_epoch: int, rate: float) -> None:
        if not torch.isfinite(loss):
            kept = "its last checkpoint is kept" if self.checkpoint.is_file() else "there is no checkpoint yet"
            raise OODError(
                f"the loss is {loss.item()} at step {step} (epoch {step // per_epoch + 1}, learning rate {rate:.3g}); "
                f"{kept}; lower 'learning_rate', lengthen 'warmup_epochs' or lower 'max_grad_norm'"
            )

    def _close_epoch(self, per_epoch: int) -> dict[str, float]:
        means = {name: total / per_epoch for name, total in self.state.totals.items()}
        self.state.epochs.append(means)
        self.state.totals = {}
        return {"epoch": len(self.state.epochs), "epochs": self.options.epochs} | means

    def facts(self) -> dict[str, Any]:
        trained = min(self.options.batch_size, len(self.images)) * self.state.step
        return {
            "seconds": round(self.state.seconds, 3),
            "steps": self.state.step,
            "images_per_second": round(trained / max(self.state.seconds, 1e-9), 1),
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "device": str(self.device),
            "epochs": self.state.epochs,
        }

    # ---------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write the whole state; the old checkpoint stays until the new one is complete."""
        tensors = {f"task.{name}": tensor for name, tensor in self.task.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": tensor for slot, tensor in slots.items()}
        temporary = self.checkpoint.with_name(uuid.uuid4().hex)
        save_tensors(temporary, tensors, asdict(self.state))
        temporary.replace(self.checkpoint)

    def restore(self) -> None:
        """Take up the state of a checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        tensors = load_tensors(self.checkpoint)
        prefix = "task."
        self.task.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".")
                state.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.state = _State(**load_notes(self.checkpoint))

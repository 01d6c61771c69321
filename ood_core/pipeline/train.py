"""Training stages: build the task, train it, from a checkpoint if there is one, and store its weights.

Everything random is seeded by the stage's seed, the step and the image, so a training that continues from a checkpoint
does exactly what an uninterrupted one does, and several processes see the images that one would see.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ood_core.data.loaders import (
    AuxiliarySampler,
    ShuffledBatchSampler,
    sample,
    sample_batch,
    step_seed,
    training_batches,
)
from ood_core.data.selection import to_unit
from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PretextTask, Task, TokenizerTraining, TrainingData
from ood_core.pipeline import networks
from ood_core.pipeline.events import Observer
from ood_core.pipeline.training.checkpoint import Progress, TrainingState, non_finite_names
from ood_core.pipeline.training.engine import Engine, explain_memory_errors, mean_over_processes
from ood_core.pipeline.training.schedule import learning_rate
from ood_core.records.stages import TrainStage
from ood_core.runtime import distributed, torch_state
from ood_core.store.artifacts import save_picture
from ood_core.store.store import Store, save_tensors

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 10.0
"""Seconds between checkpoints, which is what a killed training loses at most, besides one step."""

AGREEMENT_STEPS = 20
"""Steps after which several processes agree on whether to write a checkpoint."""

PICTURED = 8
"""Images that a task may draw for the report."""


def execute(stage: TrainStage, store: Store, observer: Observer) -> None:
    """Train, from a checkpoint if there is one, and store the trained weights."""
    training = _Training(stage, store)
    training.restore()
    with explain_memory_errors(stage.task):
        training.run(observer)
    weights = training.engine.weights()
    if bad := non_finite_names(weights):
        raise OODError(f"the last step left weights that are not finite, such as {bad[0]}; lower 'learning_rate'")
    if distributed.rank() == 0:
        with store.put(stage) as (folder, facts):
            save_tensors(folder / networks.WEIGHTS, weights)
            facts |= training.facts() | training.pictures(folder) | training.save_task(folder)
    distributed.barrier()


class _Training:
    """A training stage in progress."""

    def __init__(self, stage: TrainStage, store: Store) -> None:
        self.stage, self.options = stage, stage.task
        self.images = stage.images.opened
        self.checkpoint = store.unfinished(stage) / CHECKPOINT
        self.progress = Progress()
        torch_state.seed_all(step_seed(stage.seed, 0, "build"))
        task, self.grid = _build(stage, store)
        self.engine = Engine(task, self.options, networks.device())
        self.state = TrainingState(self.engine.modules(), self.engine.optimizer)
        self.totals: dict[str, Tensor] = {}
        self.unchecked: tuple[Tensor, int, float] | None = None
        self.steps = ShuffledBatchSampler(
            images=len(self.images),
            batch_size=self.options.batch_size,
            epochs=self.options.epochs,
            seed=stage.seed,
            process=distributed.rank(),
            processes=distributed.world_size(),
        )
        self._require_equal_parts()

    def _require_equal_parts(self) -> None:
        parts = distributed.world_size() * self.options.accumulation
        outliers = self._outliers()
        sizes = {"batch_size": self.steps.step_size}
        sizes |= {"auxiliary_batch_size": outliers.step_size} if outliers is not None else {}
        for option, size in sizes.items():
            if size % parts:
                raise OODError(
                    f"a batch of {size} images cannot be cut into {distributed.world_size()} processes x "
                    f"{self.options.accumulation} parts of equal size; change '{option}' or 'accumulation'"
                )

    # ------------------------------------------------------------------------------------------------------- running

    def run(self, observer: Observer) -> None:
        steps = self.steps.after(self.progress.step)
        total = self.progress.step + len(steps)
        begun, saved = time.monotonic() - self.progress.seconds, time.monotonic()
        self.engine.task.train()
        for batch in self._timed(training_batches(self.images, self._views(), steps, self._outliers())):
            self.progress.skipped += batch.broken
            self._step(batch, steps.per_epoch, total)
            self.progress.seconds = time.monotonic() - begun
            observer.progress(self.progress.step, total)
            if self.progress.step % steps.per_epoch == 0:
                observer.epoch(self._close_epoch(steps.per_epoch))
            if self._should_save(saved) and self.progress.step < total:
                self.save()
                saved = time.monotonic()
        self.progress.skipped = distributed.gather_unique(self.progress.skipped)

    def _outliers(self) -> AuxiliarySampler | None:
        """Return the images of the auxiliary set that come with each batch, for tasks that need them."""
        if not isinstance(self.options, PretextTask) or not self.options.auxiliary_images():
            return None
        assert self.stage.auxiliary is not None, "the recipe was checked to name an auxiliary set"
        return AuxiliarySampler(
            images=self.stage.auxiliary.opened,
            step_size=self.options.auxiliary_images(),
            process=self.steps.process,
            processes=self.steps.processes,
        )

    def _views(self) -> Any:
        return self.options.views(self.stage.image_size, self.grid)

    def _timed(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Yield the batches, and record the time spent waiting for them."""
        begun = time.monotonic()
        for batch in batches:
            self.progress.waited += time.monotonic() - begun
            yield batch
            begun = time.monotonic()

    def _step(self, batch: Batch, per_epoch: int, total: int) -> None:
        step = self.progress.step
        rate = learning_rate(self.options, step, per_epoch)
        drawn = self._draw(step)
        with torch_state.restoring():  # a step begins alike, whether it follows another one or a checkpoint
            metrics = self.engine.step(self._on_device(batch)._replace(drawn=drawn), rate, step / total)
        self._check_loss()  # of the step before: reading this one's would make the GPU wait
        self.unchecked = (metrics["loss"], step, rate)
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.progress.step += 1

    def _draw(self, step: int) -> Tensor | None:
        """Draw for the images of the whole step, return this process's rows, and seed its generator."""
        torch.manual_seed(step_seed(self.stage.seed, step, "model"))
        drawn = self.engine.task.draw(self.steps.step_size)
        if distributed.rank() > 0:
            torch.manual_seed(step_seed(self.stage.seed, step, "model", distributed.rank()))
        return None if drawn is None else drawn.chunk(distributed.world_size())[distributed.rank()]

    def _on_device(self, batch: Batch) -> Batch:
        device = self.engine.device
        views = tuple(to_unit(view.to(device, non_blocking=True)) for view in batch.views)
        outliers = None if batch.outliers is None else to_unit(batch.outliers.to(device, non_blocking=True))
        return Batch(views, batch.labels.to(device, non_blocking=True), outliers)

    def _check_loss(self) -> None:
        """Raise OODError if the loss of the last step is not finite."""
        if self.unchecked is None:
            return
        loss, step, rate = self.unchecked
        self.unchecked = None
        if not torch.isfinite(loss):
            saved = self.checkpoint.is_file()
            good = f"the last good checkpoint is {self.checkpoint}" if saved else "there is no checkpoint yet"
            raise OODError(
                f"the loss is {loss.item()} at step {step} (epoch {step // self.steps.per_epoch + 1}, "
                f"learning rate {rate:.3g}); {good}; "
                "lower 'learning_rate', lengthen 'warmup_epochs' or lower 'max_grad_norm'"
            )

    def _close_epoch(self, per_epoch: int) -> dict[str, float]:
        self._check_loss()
        with torch_state.restoring():
            means = mean_over_processes(self.totals, per_epoch) | self.engine.task.after_epoch()
        self.progress.epochs.append(means)
        self.totals = {}
        return {"epoch": len(self.progress.epochs), "epochs": self.options.epochs} | means

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _should_save(self, saved: float) -> bool:
        """Return what the first process decides by its clock; several agree only every few steps."""
        if distributed.world_size() > 1 and self.progress.step % AGREEMENT_STEPS:
            return False
        return distributed.broadcast(time.monotonic() - saved > CHECKPOINT_SECONDS)

    def save(self) -> None:
        self._check_loss()
        self.progress.skipped = distributed.gather_unique(self.progress.skipped)
        self.progress.totals = {name: float(total) for name, total in self.totals.items()}
        scaler = self.engine.scaler
        self.progress.scaler = scaler.state_dict() if scaler is not None else {}
        self.state.save(self.checkpoint, self.progress)

    def restore(self) -> None:
        """Restore the state of the checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        self.progress = self.state.load(self.checkpoint)
        for name, total in self.progress.totals.items():
            self.totals[name] = torch.tensor(total, dtype=torch.float64, device=self.engine.device)
        if self.progress.scaler and self.engine.scaler is not None:
            self.engine.scaler.load_state_dict(self.progress.scaler)

    # ------------------------------------------------------------------------------------------------------- results

    def facts(self) -> dict[str, Any]:
        product, seconds = self.engine.task.product(), max(self.progress.seconds, 1e-9)
        head = networks.head_of(product) if isinstance(product, Network) else None
        return {
            "seconds": round(seconds, 3),
            "steps": self.progress.step,
            "images_per_second": round(self.steps.step_size * self.progress.step / seconds, 1),
            "waiting": round(self.progress.waited / seconds, 4),
            "parameters": sum(parameter.numel() for parameter in product.parameters()),
            "outputs": None if head is None else len(head.bias),
            "device": str(self.engine.device),
            "processes": distributed.world_size(),
            "precision": self.engine.precision,
            "epochs": self.progress.epochs,
            "skipped": self.progress.skipped,
        }

    @torch.no_grad()
    def pictures(self, folder: Path) -> dict[str, Any]:
        """Save the task's example images for the report, and return their files by name."""
        if self.engine.sharded:  # only the first process comes here, and it does not hold all weights
            return {}
        batch = self._on_device(sample_batch(self.images, self._views(), PICTURED))
        torch.manual_seed(0)
        made = self.engine.task.eval().pictures(batch)
        return {"pictures": {name: save_picture(folder / f"{name}.png", picture) for name, picture in made.items()}}

    def save_task(self, folder: Path) -> dict[str, Any]:
        """Write the task beside the weights if it is used after the training, and return whether it is."""
        pretext, task, size = self.stage.task, self.engine.task, self.stage.image_size
        if self.engine.sharded or not isinstance(pretext, PretextTask):  # sharded: as for pictures
            return {"errors": False}
        network = task.product()
        assert isinstance(network, Network), "pretext tasks train networks"
        empty = networks.empty_task(pretext, network, size)
        if empty is not None:
            state = task.state_dict()
            save_tensors(folder / networks.TASK, {name: state[name] for name in networks.task_state(empty)})
        return {"errors": empty is not None}


def _build(stage: TrainStage, store: Store) -> tuple[Task, tuple[int, int] | None]:
    """Return the task, and the patch grid of its network."""
    opened = stage.images.opened
    data = TrainingData(
        classes=len(opened.classes),
        all_classes=opened.all_classes,
        image_size=stage.image_size,
        sample=partial(sample, opened, stage.image_size),
        tokenizer_weights=partial(_tokenizer_weights, stage, store),
    )
    if isinstance(stage.task, TokenizerTraining):
        return stage.task.build(data), None
    assert isinstance(stage.task, PretextTask), "there are two kinds of training"
    network = _network(stage, store)
    network.set_drop_path(stage.task.drop_path)
    if stage.task.gradient_checkpointing:
        network.set_gradient_checkpointing()
    return stage.task.build(network, data), getattr(network, "grid", None)


def _network(stage: TrainStage, store: Store) -> Network:
    if stage.start is not None:
        return networks.trained(stage.start, store)
    assert stage.backbone is not None, "a pretext task trains a network"
    return networks.build(stage.backbone, stage.image_size, len(stage.images.opened.classes))


def _tokenizer_weights(stage: TrainStage, store: Store, tokenizer: Any) -> dict[str, Tensor]:
    earlier = dict(stage.tokenizers)[tokenizer]
    return networks.trained_weights(earlier, store)

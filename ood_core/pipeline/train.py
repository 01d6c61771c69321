"""Training stages: build the task, train it, from a checkpoint if there is one, and store its weights.

Everything random is seeded by the stage's seed, the step and the image, so a training that continues from a checkpoint
does exactly what an uninterrupted one does, and several processes see the images that one would see.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ood_core.data import loaders
from ood_core.data.loaders import AuxiliarySampler, ShuffledBatchSampler, step_seed
from ood_core.data.selection import to_unit
from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PretextTask, Task, TokenizerTraining, TrainingData
from ood_core.interfaces.checks import check_task
from ood_core.pipeline import networks
from ood_core.pipeline.events import Observer
from ood_core.pipeline.training.checkpoint import Progress, TrainingState, non_finite_names
from ood_core.pipeline.training.engine import Engine, explain_memory_errors, mean_over_processes
from ood_core.pipeline.training.schedule import learning_rate
from ood_core.records.stages import TrainStage
from ood_core.runtime import distributed, torch_state
from ood_core.store.artifacts import save_picture
from ood_core.store.files import save_tensors
from ood_core.store.store import Store

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 10.0  # between checkpoints, which is what a killed training loses at most, besides one step
AGREEMENT_STEPS = 20  # after which several processes agree on whether to write a checkpoint
PICTURED = 8  # images that a task may draw for the report


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
        self.outliers: AuxiliarySampler | None = None
        sizes = {"batch_size": self.steps.step_size}
        if isinstance(self.options, PretextTask) and (size := self.options.auxiliary_images()):
            assert stage.auxiliary is not None, "the recipe was checked to name an auxiliary set"
            sizes["auxiliary_batch_size"] = size
            self.outliers = AuxiliarySampler(
                images=stage.auxiliary.opened,
                step_size=size,
                process=self.steps.process,
                processes=self.steps.processes,
            )
        for option, size in sizes.items():
            if size % (distributed.world_size() * self.options.accumulation):
                raise OODError(
                    f"a batch of {size} images cannot be cut into {distributed.world_size()} processes x "
                    f"{self.options.accumulation} parts of equal size; change '{option}' or 'accumulation'"
                )

    def run(self, observer: Observer) -> None:
        steps = replace(self.steps, begin=self.progress.step)
        total = self.progress.step + len(steps)
        begun, saved = time.monotonic() - self.progress.seconds, time.monotonic()
        self.engine.task.train()
        views = self.options.views(self.stage.image_size, self.grid)
        waiting = time.monotonic()
        for batch in loaders.training_batches(self.images, views, steps, self.outliers):
            self.progress.waited += time.monotonic() - waiting
            self.progress.skipped += batch.broken
            self._step(batch, steps.per_epoch, total)
            self.progress.seconds = time.monotonic() - begun
            observer.progress(self.progress.step, total)
            if self.progress.step % steps.per_epoch == 0:
                observer.epoch(self._close_epoch(steps.per_epoch))
            if self._should_save(saved) and self.progress.step < total:
                self.save()
                saved = time.monotonic()
            waiting = time.monotonic()
        self.progress.skipped = distributed.gather_unique(self.progress.skipped)

    def _step(self, batch: Batch, per_epoch: int, total: int) -> None:
        step = self.progress.step
        rate = learning_rate(self.options, step, per_epoch)
        # drawn for the images of the whole step, of which each process takes its rows before it seeds its own generator
        torch.manual_seed(step_seed(self.stage.seed, step, "model"))
        drawn = self.engine.task.draw(self.steps.step_size)
        if distributed.rank() > 0:
            torch.manual_seed(step_seed(self.stage.seed, step, "model", distributed.rank()))
        drawn = None if drawn is None else drawn.chunk(distributed.world_size())[distributed.rank()]
        with torch_state.restoring():  # a step begins alike, whether it follows another one or a checkpoint
            metrics = self.engine.step(self._on_device(batch)._replace(drawn=drawn), rate, step / total)
        self._check_loss()  # of the step before: reading this one's would make the GPU wait
        self.unchecked = (metrics["loss"], step, rate)
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.progress.step += 1

    def _on_device(self, batch: Batch) -> Batch:
        move = partial(Tensor.to, device=self.engine.device, non_blocking=True)
        outliers = None if batch.outliers is None else to_unit(move(batch.outliers))
        return Batch(tuple(to_unit(move(view)) for view in batch.views), move(batch.labels), outliers)

    def _check_loss(self) -> None:
        """Raise OODError if the loss of the last step is not finite."""
        unchecked, self.unchecked = self.unchecked, None
        if unchecked is not None and not torch.isfinite(unchecked[0]):
            loss, step, rate = unchecked
            saved = self.checkpoint.is_file()
            good = f"the last good checkpoint is {self.checkpoint}" if saved else "there is no checkpoint yet"
            place = f"at step {step} (epoch {step // self.steps.per_epoch + 1}, learning rate {rate:.3g}); {good}"
            advice = "lower 'learning_rate', lengthen 'warmup_epochs' or lower 'max_grad_norm'"
            raise OODError(f"the loss is {loss.item()} {place}; {advice}")

    def _close_epoch(self, per_epoch: int) -> dict[str, float]:
        self._check_loss()
        with torch_state.restoring():
            means = mean_over_processes(self.totals, per_epoch) | self.engine.task.after_epoch()
        self.progress.epochs.append(means)
        self.totals = {}
        return {"epoch": len(self.progress.epochs), "epochs": self.options.epochs} | means

    def _should_save(self, saved: float) -> bool:
        """Return the first process's decision by its clock; several agree only every few steps."""
        agrees = distributed.world_size() == 1 or self.progress.step % AGREEMENT_STEPS == 0
        return agrees and distributed.broadcast(time.monotonic() - saved > CHECKPOINT_SECONDS)

    def save(self) -> None:
        self._check_loss()
        self.progress.skipped = distributed.gather_unique(self.progress.skipped)
        self.progress.totals = {name: float(total) for name, total in self.totals.items()}
        self.progress.scaler = self.engine.scaler.state_dict() if self.engine.scaler is not None else {}
        self.state.save(self.checkpoint, self.progress)

    def restore(self) -> None:
        """Restore the state of the checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        self.progress = self.state.load(self.checkpoint)
        as_tensor = partial(torch.tensor, dtype=torch.float64, device=self.engine.device)
        self.totals = {name: as_tensor(total) for name, total in self.progress.totals.items()}
        if self.progress.scaler and self.engine.scaler is not None:
            self.engine.scaler.load_state_dict(self.progress.scaler)

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
        views = self.options.views(self.stage.image_size, self.grid)
        batch = self._on_device(loaders.sample_batch(self.images, views, PICTURED))
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
        if (empty := networks.empty_task(pretext, network, size)) is not None:
            state = task.state_dict()
            save_tensors(folder / networks.TASK, {name: state[name] for name in networks.task_state(empty)})
        return {"errors": empty is not None}


def _build(stage: TrainStage, store: Store) -> tuple[Task, tuple[int, int] | None]:
    """Return the task, and the patch grid of its network."""
    opened = stage.images.opened

    def tokenizer_weights(tokenizer: Any) -> dict[str, Tensor]:
        return networks.trained_weights(dict(stage.tokenizers)[tokenizer], store)

    data = TrainingData(
        classes=len(opened.classes),
        all_classes=opened.all_classes,
        image_size=stage.image_size,
        sample=partial(loaders.sample, opened, stage.image_size),
        tokenizer_weights=tokenizer_weights,
    )
    if isinstance(stage.task, TokenizerTraining):
        return check_task("a tokenizer's training", stage.task.build(data)), None
    assert isinstance(stage.task, PretextTask), "there are two kinds of training"
    if stage.start is not None:
        network = networks.trained(stage.start, store)
    else:
        assert stage.backbone is not None, "a pretext task trains a network"
        network = networks.build(stage.backbone, stage.image_size, len(opened.classes))
    network.set_drop_path(stage.task.drop_path)
    if stage.task.gradient_checkpointing:
        network.set_gradient_checkpointing()
    task = check_task(f"pretext '{stage.task.name}'", stage.task.build(network, data))
    return task, getattr(network, "grid", None)

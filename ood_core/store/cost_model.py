"""Cost of a stage, from that of stages with the same plugins and options, whatever seed, data or epochs."""

from __future__ import annotations

from typing import Any

from ood_core.recipe.build import describe, digest
from ood_core.records.stages import ExtractStage, FitStage, MeasureStage, ScoreStage, Stage, TrainStage

SCHEDULE = ("epochs", "warmup_epochs", "learning_rate", "min_learning_rate", "weight_decay", "ema_decay")
"""Options of a training that do not change what an image costs."""


def cost_key(stage: Stage) -> str:
    """Return a digest that is equal for stages whose costs differ by the number of images alone."""
    return digest(_likeness(stage))


def image_count(stage: Stage) -> int:
    """Return the number of images that a stage goes through, each epoch counted; at least 1."""
    if isinstance(stage, TrainStage):
        return stage.task.epochs * len(stage.images.opened)
    if isinstance(stage, ExtractStage):
        return max(len(stage.images.opened), 1)
    if isinstance(stage, FitStage):
        return image_count(stage.train.base)
    if isinstance(stage, ScoreStage):
        return image_count(stage.outputs.base)
    return image_count(stage.id_scores) + image_count(stage.ood_scores)


def format_seconds(seconds: float) -> str:
    """Return a time that is expected, in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _likeness(stage: Stage) -> dict[str, Any]:
    if isinstance(stage, TrainStage):
        task = {name: value for name, value in describe(stage.task).items() if name not in SCHEDULE}
        backbone = None if stage.backbone is None else describe(stage.backbone)
        return {"train": task, "backbone": backbone, "image_size": stage.image_size}
    if isinstance(stage, ExtractStage):
        return {"extract": repr(stage.probe), "backbone": describe(stage.backbone), "image_size": stage.image_size}
    if isinstance(stage, FitStage):
        return {"fit": describe(stage.scorer)} | _likeness(stage.train.base)
    if isinstance(stage, ScoreStage):
        return {"score": describe(stage.fit.scorer)} | _likeness(stage.outputs.base)
    assert isinstance(stage, MeasureStage), "there are five kinds of stage"
    return {"measure": "scores"}

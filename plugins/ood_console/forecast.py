"""The time that the trainings of a run will take, from the first steps of one of them."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ood_core.records.stages import Stage, TrainStage

STEPS, SECONDS = 20, 5.0
"""Least number of steps to measure, and how long they take at least: the first ones fill caches and queues."""

SHORT = 60.0
"""Seconds of all trainings below which they are not estimated."""


class Forecast:
    """Estimates once in a run; stages that are stored or done are to be discarded."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        from ood_core.records.stages import TrainStage  # slow

        self._left = {stage.key: stage for stage in stages if isinstance(stage, TrainStage)}
        self._first: dict[str, tuple[float, int]] = {}
        """Time and number of the first observed step of each training: it compiles, and a resumed one begins late."""
        self._finished = False

    def discard(self, stage: Stage) -> None:
        """Leave out a stage that needs no more time."""
        self._left.pop(stage.key, None)

    def after_step(self, stage: Stage, done: int, total: int) -> str:
        """Return a line on all trainings that are left when enough steps are measured; else ""."""
        if self._finished or stage.key not in self._left:
            return ""
        start, before = self._first.setdefault(stage.key, (monotonic(), done))
        steps, seconds = done - before, monotonic() - start
        if steps < STEPS or seconds < SECONDS:
            return ""
        self._finished = True
        return self._line(self._left[stage.key], seconds / steps * total, steps)

    def _line(self, measured: TrainStage, seconds: float, steps: int) -> str:
        from ood_core.store.cost_model import (  # above the plugins in the core's layers
            cost_key,
            format_seconds,
            image_count,
        )

        alike = [
            stage
            for stage in self._left.values()
            if (stage.backbone, stage.image_size) == (measured.backbone, measured.image_size)
        ]
        expected = seconds * sum(map(image_count, alike)) / image_count(measured)
        if expected < SHORT:
            return ""
        each = "" if len({cost_key(stage) for stage in alike}) == 1 else ", if an image costs the same in each"
        others = len(self._left) - len(alike)
        without = f"; without {others} more of another backbone or image size" if others else ""
        count = "the training" if len(alike) == 1 else f"{len(alike)} trainings"
        about = f"about {format_seconds(expected)} for {count} on this machine"
        return f"{about}, by the first {steps} steps{each}{without}"

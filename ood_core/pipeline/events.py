"""Forwards the progress of a stage to the lifecycle hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pluggy import HookRelay

from ood_core.records.stages import Stage
from ood_core.runtime import torch_state


@dataclass(frozen=True)
class Observer:
    """Notifies the lifecycle hooks of one stage's progress; settings of torch that a hook changes are restored."""

    hooks: HookRelay
    stage: Stage

    def progress(self, done: int, total: int) -> None:
        """Report the number of steps that are done."""
        with torch_state.restoring():
            self.hooks.ood_on_progress(stage=self.stage, done=done, total=total)

    def epoch(self, metrics: Mapping[str, float]) -> None:
        """Report the mean metrics of an epoch."""
        with torch_state.restoring():
            self.hooks.ood_after_epoch(stage=self.stage, metrics=metrics)

"""Who is told how stages get on, and what tells them: values between the stages and whatever carries them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ood_core.interfaces import StageFacts
from ood_core.records.stages import Stage
from ood_core.runtime import torch_state


class Hooks(Protocol):
    """Who is told how stages get on: the lifecycle hooks of the plugins, or the process that waits for this one."""

    def ood_before_stage(self, *, stage: Stage, stored: bool) -> Any:
        """Hear that a stage begins."""

    def ood_on_progress(self, *, stage: Stage, done: int, total: int) -> Any:
        """Hear how far it is."""

    def ood_after_epoch(self, *, stage: Stage, metrics: StageFacts) -> Any:
        """Hear the metrics of an epoch."""

    def ood_after_stage(self, *, stage: Stage, facts: StageFacts) -> Any:
        """Hear what it recorded."""

    def ood_on_error(self, *, stage: Stage, error: BaseException) -> Any:
        """Hear that it failed."""


@dataclass(frozen=True)
class Observer:
    """Tells the lifecycle hooks how one stage gets on; without hooks, in all processes but the first, nobody."""

    hook: Hooks | None
    stage: Stage

    def progress(self, done: int, total: int) -> None:
        """Tell that so many of the stage's steps are done."""
        if self.hook is not None:
            with torch_state.restoring():
                self.hook.ood_on_progress(stage=self.stage, done=done, total=total)

    def epoch(self, metrics: StageFacts) -> None:
        """Tell the mean metrics of an epoch."""
        if self.hook is not None:
            with torch_state.restoring():
                self.hook.ood_after_epoch(stage=self.stage, metrics=metrics)

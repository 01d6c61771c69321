"""The cost of each stage when it was carried out, and of the stages of each kind together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ood_core.records.report_data import StageRecord


@dataclass(frozen=True)
class Cost:
    """The cost of a stage, or of several.

    Attributes:
        speed: Images per second; None for stages without images.
        memory: Peak of the process in MiB; None if it was not recorded.
        gpu_memory: Peak in MiB; None without a GPU.
    """

    seconds: float
    speed: float | None
    memory: float | None
    gpu_memory: float | None


@dataclass(frozen=True)
class KindCost:
    """The cost of all stages of one kind; how many of them were carried out, and how many were in the store."""

    kind: str
    carried_out: int
    stored: int
    cost: Cost


@dataclass(frozen=True)
class StageCost:
    """A stage with its cost."""

    stage: StageRecord
    cost: Cost


def by_stage(stages: Sequence[StageRecord]) -> list[StageCost]:
    """Return a line for each stage."""
    return [StageCost(stage, cost(stage)) for stage in stages]


def cost(stage: StageRecord) -> Cost:
    """Return the cost of one stage."""
    facts = stage.facts
    seconds, speed = float(facts.get("seconds", 0)), facts.get("images_per_second")
    if stage.kind == "score" and seconds:
        speed = facts["images"] / seconds
    return Cost(seconds, speed, facts.get("peak_memory_mb"), facts.get("peak_gpu_memory_mb"))


def by_kind(stages: Sequence[StageRecord]) -> list[KindCost]:
    """Return a line for each kind, in the order of a run."""
    lines = []
    for kind in dict.fromkeys(stage.kind for stage in stages):
        same = [stage for stage in stages if stage.kind == kind]
        costs, stored = [cost(stage) for stage in same], sum(stage.stored for stage in same)
        timed = [(one.seconds, one.speed) for one in costs if one.speed is not None and one.seconds]
        images = sum(seconds * speed for seconds, speed in timed)
        together = Cost(
            sum(one.seconds for one in costs),
            images / sum(seconds for seconds, _ in timed) if timed else None,
            max((one.memory for one in costs if one.memory is not None), default=None),
            max((one.gpu_memory for one in costs if one.gpu_memory is not None), default=None),
        )
        lines.append(KindCost(kind, len(same) - stored, stored, together))
    return lines

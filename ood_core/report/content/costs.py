"""What each stage cost when it was carried out, and the stages of each kind together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ood_core.records.findings import StageRecord


@dataclass(frozen=True)
class Cost:
    """The cost of a stage, or of several.

    Attributes:
        speed: Images a second; None where no images are passed.
        memory: Peak of the process in MiB; None where it was not recorded.
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


def cost(stage: StageRecord) -> Cost:
    """Return the cost of one stage."""
    facts = stage.facts
    seconds, speed = float(facts.get("seconds", 0)), facts.get("images_per_second")
    if stage.kind == "score" and seconds:
        speed = facts["images"] / seconds
    return Cost(seconds, speed, facts.get("peak_memory_mb"), facts.get("peak_gpu_memory_mb"))


def by_kind(stages: Sequence[StageRecord]) -> list[KindCost]:
    """Return a line for each kind, in the order of a run."""
    grouped: dict[str, list[StageRecord]] = {}
    for stage in stages:
        grouped.setdefault(stage.kind, []).append(stage)
    return [_together(kind, same) for kind, same in grouped.items()]


def _together(kind: str, stages: Sequence[StageRecord]) -> KindCost:
    costs, stored = [cost(stage) for stage in stages], sum(stage.stored for stage in stages)
    timed = [one for one in costs if one.speed is not None and one.seconds]
    images = sum(one.seconds * (one.speed or 0) for one in timed)
    together = Cost(
        sum(one.seconds for one in costs),
        images / sum(one.seconds for one in timed) if timed else None,
        max((one.memory for one in costs if one.memory is not None), default=None),
        max((one.gpu_memory for one in costs if one.gpu_memory is not None), default=None),
    )
    return KindCost(kind, len(stages) - stored, stored, together)

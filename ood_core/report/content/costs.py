"""The cost of the stages of each kind together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ood_core.records.report_data import Cost, StageRecord


@dataclass(frozen=True)
class KindCost:
    """The cost of all stages of one kind; how many of them were carried out, and how many were in the store."""

    kind: str
    carried_out: int
    stored: int
    cost: Cost


def by_kind(stages: Sequence[StageRecord]) -> list[KindCost]:
    """Return a line for each kind, in the order of a run."""

    def peak(values: Iterable[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    lines = []
    for kind in dict.fromkeys(stage.kind for stage in stages):
        same = [stage for stage in stages if stage.kind == kind]
        costs, stored = [stage.cost for stage in same], sum(stage.stored for stage in same)
        timed = [(one.seconds, one.speed) for one in costs if one.speed is not None and one.seconds]
        images = sum(seconds * speed for seconds, speed in timed)
        together = Cost(
            sum(one.seconds for one in costs),
            images / sum(seconds for seconds, _ in timed) if timed else None,
            peak(one.memory for one in costs),
            peak(one.gpu_memory for one in costs),
        )
        lines.append(KindCost(kind, len(same) - stored, stored, together))
    return lines

"""From a run to what its reports show; afterwards neither the plan nor the store is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.pipeline.measure import Compared, compared
from ood_core.records.findings import AcceptedPair, ClassRow, Failed, Findings, RowScores, StageRecord
from ood_core.records.results import Record, ResultRow, Results
from ood_core.records.stages import Plan, Row, Stage
from ood_core.report.content import gallery, maps
from ood_core.report.content.confusions import accepted_pairs, class_rows
from ood_core.report.content.notes import duplicates, lost_baselines, skipped
from ood_core.report.content.pictures import copy_pictures
from ood_core.runtime.machine import machine
from ood_core.store.store import Store


def gather(plan: Plan, results: Results, store: Store, folder: Path) -> Findings:
    """Return what was found; pictures are filed in the folder on the way."""
    variants = _variants(plan)
    measured = _Measured()
    for row, _ in paired(plan, results):
        measured.add(row, compared(row.measure, store), store)
    return Findings(
        name=plan.name,
        started=(datetime.now(UTC) - timedelta(seconds=results.seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        rows=results.rows,
        scores=tuple(measured.scores),
        coordinates=plan.coordinates,
        baseline=plan.baseline,
        averaged=plan.averaged,
        notes=(*plan.notes, *skipped(results), *duplicates(results), *lost_baselines(plan, results)),
        failures=tuple(Failed(_title(f.stage), variants[f.stage.key], f.message) for f in results.failures),
        stages=tuple(_stage(record, variants[record.stage.key]) for record in results.records),
        accepted=tuple(measured.accepted),
        classes=tuple(measured.classes),
        resolved=plan.resolved,
        versions=plan.versions,
        machine=machine(),
        seconds=round(results.seconds, 3),
        pictures=tuple(copy_pictures(results, store, folder)),
        gallery=gallery.gather(plan, results.rows, store, folder),
        maps=maps.gather(plan, store),
        published=plan.published,
    )


def paired(plan: Plan, results: Results) -> Iterator[tuple[Row, ResultRow]]:
    """Yield each row that was measured with that of the plan; both are in the same order."""
    planned = {row.key: row for row in plan.rows}
    for result in results.rows:
        yield planned[result.key], result


@dataclass
class _Measured:
    """What is read of the store row by row; rows of the same ID images and scorer share their scores."""

    scores: list[RowScores] = field(default_factory=list)
    accepted: list[AcceptedPair] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)
    inside: dict[tuple[str, ...], NDArray[np.float64]] = field(default_factory=dict)

    def add(self, row: Row, found: Compared, store: Store) -> None:
        stages = (row.measure.id_scores, *row.measure.shifted_scores)
        inside = self.inside.setdefault(tuple(stage.key for stage in stages), found.inside.numpy())
        self.scores.append(RowScores(inside, found.outside.numpy()))
        self.accepted += accepted_pairs(row, found, store)
        self.classes += class_rows(row, found, store)


def _variants(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return for each stage, by key, whose it is."""
    found: dict[str, dict[str, None]] = {}

    def visit(stage: Stage, variant: str) -> None:
        if variant not in (of_stage := found.setdefault(stage.key, {})):
            of_stage[variant] = None
            for earlier in stage.inputs:
                visit(earlier, variant)

    for row in plan.rows:
        visit(row.measure, row.variant)
    return {key: tuple(of_stage) for key, of_stage in found.items()}


def _stage(record: Record, variants: tuple[str, ...]) -> StageRecord:
    stage = record.stage
    return StageRecord(stage.kind, str(stage), stage.key, _seed(stage), variants, record.stored, dict(record.facts))


def _title(stage: Stage) -> str:
    seed = _seed(stage)
    return str(stage) if seed is None else f"{stage}, seed {seed}"


def _seed(stage: Any) -> int | None:
    """Return the seed that decides a stage's result; None where none does."""
    if stage.kind == "measure":
        return _seed(stage.id_scores)
    return _seed(stage.fit) if stage.kind == "score" else stage.seed

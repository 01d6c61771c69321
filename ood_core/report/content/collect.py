"""Collects what the reports of a run show; afterwards neither the plan nor the store is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ood_core.evaluation.metrics import Scores
from ood_core.pipeline.measure import load_measured
from ood_core.records.plan import Plan, Row
from ood_core.records.report_data import (
    AcceptedPair,
    ClassRow,
    ClassRowKey,
    FailedStage,
    Picture,
    ReportData,
    RowScores,
    StageRecord,
)
from ood_core.records.results import ResultRow, Results
from ood_core.records.stages import Stage, TrainStage
from ood_core.report.content import gallery, maps, notes
from ood_core.report.content.confusions import accepted_pairs, class_rows
from ood_core.runtime.machine import machine
from ood_core.store.files import replacing
from ood_core.store.store import Store

PICTURES = "pictures"
"""Folder of the pictures of training stages, beside the report."""


def collect(plan: Plan, results: Results, store: Store, folder: Path) -> ReportData:
    """Return the content of the reports, and write its images into the folder."""
    variants = _variants(plan)
    scores: list[RowScores] = []
    accepted: list[AcceptedPair] = []
    classes: list[ClassRow] = []
    id_scores: dict[tuple[str, ...], Scores] = {}  # rows of the same ID images and scorer share an array
    for row, _ in paired(plan, results):
        measured = load_measured(row.measure, store)
        shared = id_scores.setdefault(tuple(stage.key for stage in row.measure.id_and_shifted), measured.id_scores)
        scores.append(RowScores(shared, measured.ood_scores))
        accepted += accepted_pairs(ClassRowKey.of(row), row.measure, measured)
        classes += class_rows(ClassRowKey.of(row), row.measure, measured)
    return ReportData(
        name=plan.name,
        started=(datetime.now(UTC) - timedelta(seconds=results.seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        rows=results.rows,
        scores=tuple(scores),
        coordinates=plan.coordinates,
        baseline=plan.baseline,
        averaged=plan.averaged,
        notes=(*plan.notes, *notes.of_run(plan, results)),
        failures=tuple(_failed(failure.stage, variants, failure.message) for failure in results.failures),
        stages=tuple(
            StageRecord(stage.kind, str(stage), stage.key, _seed(stage), variants[stage.key], stored, dict(facts))
            for stage, stored, facts in ((of.stage, of.stored, of.facts) for of in results.records)
        ),
        accepted=tuple(accepted),
        classes=tuple(classes),
        resolved=plan.resolved,
        versions=plan.versions,
        machine=machine(),
        seconds=round(results.seconds, 3),
        pictures=tuple(_copy_pictures(results, store, folder)),
        gallery=gallery.collect(plan, results.rows, store, folder),
        maps=maps.collect(plan, store),
        published=plan.published,
    )


def paired(plan: Plan, results: Results) -> Iterator[tuple[Row, ResultRow]]:
    """Yield each row that was measured with that of the plan; both are in the same order."""
    planned = {row.key: row for row in plan.rows}
    for result in results.rows:
        yield planned[result.key], result


def _variants(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the variants that use each stage, by its key."""
    found: dict[str, dict[str, None]] = {}

    def visit(stage: Stage, variant: str) -> None:
        if variant not in (of_stage := found.setdefault(stage.key, {})):
            of_stage[variant] = None
            for earlier in stage.inputs:
                visit(earlier, variant)

    for row in plan.rows:
        visit(row.measure, row.variant)
    return {key: tuple(of_stage) for key, of_stage in found.items()}


def _failed(stage: Stage, variants: dict[str, tuple[str, ...]], message: str) -> FailedStage:
    seed = _seed(stage)
    return FailedStage(str(stage) if seed is None else f"{stage}, seed {seed}", variants[stage.key], message)


def _seed(stage: Any) -> int | None:
    """Return the seed that decides a stage's result, or None."""
    return _seed(stage.fit) if stage.kind in ("score", "measure") else stage.seed


def _copy_pictures(results: Results, store: Store, folder: Path) -> Iterator[Picture]:
    """Copy the pictures of the training stages into the report's folder and yield them."""
    for record in results.records:
        if isinstance(record.stage, TrainStage):
            for name, file in record.facts.get("pictures", {}).items():
                target = folder / PICTURES / f"{record.stage.key[:8]}-{file}"
                target.parent.mkdir(exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copyfile(store.file(record.stage, file), temporary)
                yield Picture(f"{name} ({record.stage}, seed {record.stage.seed})", f"{PICTURES}/{target.name}")

"""Collects what the reports of a run show; afterwards neither the plan nor the store is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ood_core.evaluation.metrics import Scores
from ood_core.pipeline.measure import load_measured
from ood_core.records.plan import Plan
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
from ood_core.records.results import Results
from ood_core.records.stages import Stage, TrainStage
from ood_core.report.content import doubts, gallery, maps
from ood_core.report.content.confusions import accepted_pairs, class_rows
from ood_core.runtime.machine import machine
from ood_core.store.files import replacing
from ood_core.store.store import Store

PICTURES = "pictures"
"""Folder of the pictures of training stages, beside the report."""

FAILURES = "failures.txt"
"""File with the tracebacks of the stages that failed, beside the report."""


def collect(plan: Plan, results: Results, store: Store, folder: Path) -> ReportData:
    """Return the content of the reports, and write its images into the folder."""
    variants = _variants(plan)
    scores: list[RowScores] = []
    accepted: list[AcceptedPair] = []
    classes: list[ClassRow] = []
    id_scores: dict[tuple[str, ...], Scores] = {}  # rows of the same ID images and scorer share an array
    planned = {row.key: row.measure for row in plan.rows}
    for row in results.rows:
        stage = planned[row.key]
        measured = load_measured(stage, store)
        shared = id_scores.setdefault(tuple(of.key for of in stage.id_and_shifted), measured.id_scores)
        scores.append(RowScores(shared, measured.ood_scores))
        accepted += accepted_pairs(ClassRowKey.of(row), stage, measured)
        classes += class_rows(ClassRowKey.of(row), stage, measured)
    failures = []
    for group in results.failure_groups:
        first, seed = group.failures[0].stage, _seed(group.failures[0].stage)
        title = str(first) if seed is None else f"{first}, seed {seed}"
        names = tuple(dict.fromkeys(name for failure in group.failures for name in variants[failure.stage.key]))
        failures.append(FailedStage(title, names, group.message, FAILURES if group.traceback else ""))
    stages = []
    for of in results.records:
        name, key, seed = str(of.stage), of.stage.key, _seed(of.stage)
        stages.append(StageRecord(of.stage.kind, name, key, seed, variants[key], of.stored, dict(of.facts)))
    return ReportData(
        name=plan.name,
        started=(datetime.now(UTC) - timedelta(seconds=results.seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        rows=results.rows,
        scores=tuple(scores),
        coordinates=plan.coordinates,
        baseline=plan.baseline,
        averaged=plan.averaged,
        notes=(*plan.notes, *run_notes(plan, results), *doubts.notes(plan, results, store)),
        failures=tuple(failures),
        stages=tuple(stages),
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


def _seed(stage: Any) -> int | None:
    """Return the seed that decides a stage's result, or None."""
    return _seed(stage.fit) if stage.kind in ("score", "measure") else stage.seed


def run_notes(plan: Plan, results: Results) -> list[str]:
    """Return notes on skipped pictures, on OOD images that are ID images as well, and on baselines without rows."""
    notes = []
    for record in results.records:
        if reasons := record.facts.get("skipped"):
            pictures = "1 picture" if len(reasons) == 1 else f"{len(reasons)} pictures"
            notes.append(f"{record.stage}: {pictures} skipped, such as {reasons[0]}")
    shared: dict[str, None] = {}
    for row in results.rows:
        for count, where in ((row.duplicates_test, "ID test"), (row.duplicates_train, "ID training")):
            if count:
                images = "image is" if count == 1 else "images are"
                shared[f"{row.ood_set}: {count} {images} also among the {where} images of {row.id_set}"] = None
    found = dict.fromkeys(row.variant for row in results.rows)
    lost = dict.fromkeys(other for variant in found if (other := plan.baseline.of(variant)) not in found)
    return [*notes, *shared, *(f"the baseline '{name}' has no rows; nothing is compared with it" for name in lost)]


def _copy_pictures(results: Results, store: Store, folder: Path) -> Iterator[Picture]:
    """Copy the pictures of the training stages into the report's folder and yield them."""
    for record in results.records:
        if isinstance(record.stage, TrainStage):
            for name, file in record.facts.get("pictures", {}).items():
                target = folder / PICTURES / f"{record.stage.key[:8]}-{file}"
                target.parent.mkdir(exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copyfile(store.file(record.stage, file), temporary)
                title = f"{name} ({record.stage}, seed {record.stage.seed})"
                legend = record.stage.task.picture_legends.get(name, "")
                yield Picture(title, f"{PICTURES}/{target.name}", legend)

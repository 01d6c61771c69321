"""Merges several runs into one report, under names of variants that do not clash."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from ood_core.errors import OODError, suggest
from ood_core.records.plan import Baseline
from ood_core.records.report_data import AcceptedPair, ClassRow, GalleryImage, Picture, ReportData, StageRecord
from ood_core.records.results import ResultRow
from ood_core.store.files import replacing, writing

AXIS = "run"
"""The axis of the variants of several runs."""

SHARED = " / "
"""Between the names of variants that share a map."""

OfVariant = TypeVar("OfVariant", ResultRow, AcceptedPair, ClassRow)
OfFile = TypeVar("OfFile", Picture, GalleryImage)


@dataclass(frozen=True)
class Run:
    """A run, under a name that no other one has."""

    name: str
    folder: Path
    report: ReportData


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the names of the folders, with as many parent folders as it takes to make them unique."""
    paths = [folder.resolve().parts for folder in folders]
    names = ["/".join(parts[-1:]) for parts in paths]
    for depth in range(2, max(map(len, paths)) + 1):
        count = Counter(names)
        names = [
            "/".join(parts[-depth:]) if count[name] > 1 else name for name, parts in zip(names, paths, strict=True)
        ]
    return names


def merge(runs: Sequence[Run], baseline: str | None) -> ReportData:
    """Return the report of all runs; that of a single one stays as it is.

    Rows of several are compared if they measure the same images; by default with the baseline of the first run.

    Raises:
        OODError: There is no such variant as the baseline.
    """
    several = len(runs) > 1
    merged = _concatenate(runs, [_rename(run, _new_names(run, runs)) for run in runs]) if several else runs[0].report
    variants = dict.fromkeys(row.variant for row in merged.rows)
    if baseline is not None:
        if baseline not in variants:
            raise OODError(f"--baseline {baseline}: no variant is called so.{suggest(baseline, variants)}")
        return replace(merged, baseline=Baseline(variant=baseline))
    if several and not (merged.baseline.variant or merged.baseline.within):  # so that runs are compared with each other
        return replace(merged, baseline=Baseline(variant=next(iter(variants))))
    return merged


def copy_files(runs: Sequence[Run], folder: Path) -> None:
    """Copy the pictures, galleries and tracebacks of the runs to their places beside the merged report."""
    for run in runs:
        gallery = dict.fromkeys(image.file for row in run.report.gallery for image in row.images)
        tracebacks = {failed.traceback for failed in run.report.failures if failed.traceback}
        for file in (*(picture.file for picture in run.report.pictures), *gallery, *tracebacks):
            source, target = run.folder / file, folder / (f"{run.name}/{file}" if len(runs) > 1 else file)
            with writing(folder):
                target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists() and not (target.exists() and target.samefile(source)):
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)


def _new_names(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """Return a new name for each variant: that of the run if it is the only one there, else the run before a clash."""

    def variants(of: Run) -> list[str]:
        rows = (row.variant for row in of.report.rows)
        return list(dict.fromkeys([*rows, *of.report.coordinates, *of.report.missing]))

    others = {variant for other in runs if other is not run for variant in variants(other)}
    own = variants(run)
    if len(own) == 1 and run.name not in others:
        return {own[0]: run.name}
    return {name: f"{run.name}: {name}" if name in others else name for name in own}


def _rename(of: Run, names: dict[str, str]) -> ReportData:
    """Return the report with new names of variants and files, and with the run as an axis and in its notes."""
    run, old = of.name, of.report

    def renamed(variants: Sequence[str]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in variants)

    def each(records: Sequence[OfVariant]) -> tuple[OfVariant, ...]:
        return tuple(replace(record, variant=names.get(record.variant, record.variant)) for record in records)

    def moved(images: Sequence[OfFile]) -> tuple[OfFile, ...]:
        return tuple(replace(image, file=f"{run}/{image.file}") for image in images)

    def map_variants(variant: str) -> str:
        return SHARED.join(renamed([variant] if variant in names else variant.split(SHARED)))

    return replace(
        old,
        rows=each(old.rows),
        accepted=each(old.accepted),
        classes=each(old.classes),
        coordinates={names[name]: {AXIS: run} | old.coordinates.get(name, {}) for name in names},
        baseline=Baseline(
            names.get(old.baseline.variant, old.baseline.variant),
            old.baseline.scorer,
            {names[variant]: names[other] for variant, other in old.baseline.within.items()},
        ),
        notes=tuple(f"{run}: {note}" for note in old.notes),
        failures=tuple(
            replace(
                failed, variants=renamed(failed.variants), traceback=failed.traceback and f"{run}/{failed.traceback}"
            )
            for failed in old.failures
        ),
        stages=tuple(replace(stage, variants=renamed(stage.variants)) for stage in old.stages),
        pictures=tuple(replace(picture, title=f"{run}: {picture.title}") for picture in moved(old.pictures)),
        gallery=tuple(replace(row, images=moved(row.images)) for row in old.gallery),
        resolved={f"{run}: {name}": options for name, options in old.resolved.items()},
        published=tuple(table.renamed(names, run) for table in old.published),
        maps=tuple(replace(drawn, variant=map_variants(drawn.variant)) for drawn in old.maps),
    )


def _concatenate(runs: Sequence[Run], parts: Sequence[ReportData]) -> ReportData:
    """Return one report of all; each stage once, by key, carried out if one of the runs did it."""

    def joined(name: str) -> tuple[Any, ...]:
        return tuple(item for one in parts for item in getattr(one, name))

    stages: dict[str, StageRecord] = {}
    for stage in joined("stages"):
        earlier = stages.get(stage.key, stage)
        variants = tuple(dict.fromkeys((*earlier.variants, *stage.variants)))
        stages[stage.key] = replace(stage, variants=variants, stored=earlier.stored and stage.stored)
    rows_before = [0, *accumulate(len(one.rows) for one in parts)]
    tuples = ("rows", "scores", "notes", "failures", "accepted", "classes", "pictures", "maps", "published")
    joined_tuples: dict[str, Any] = {name: joined(name) for name in tuples}
    return replace(
        parts[0],
        name=" + ".join(run.name for run in runs),
        started=min(one.started for one in parts),
        coordinates={variant: values for one in parts for variant, values in one.coordinates.items()},
        averaged=all(one.averaged for one in parts),
        stages=tuple(stages.values()),
        resolved={name: options for one in parts for name, options in one.resolved.items()},
        versions=_merge_words(runs, [one.versions for one in parts]),
        machine=_merge_words(runs, [one.machine for one in parts]),
        seconds=round(sum(one.seconds for one in parts), 3),
        gallery=tuple(
            replace(row, row=row.row + before)
            for one, before in zip(parts, rows_before, strict=False)
            for row in one.gallery
        ),
        **joined_tuples,
    )


def _merge_words(runs: Sequence[Run], values: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what all runs agree on as it is, and everything else with the name of the run."""
    merged = {}
    for name in dict.fromkeys(name for of in values for name in of):
        words = [of.get(name, "none") for of in values]
        of_each = "; ".join(f"{word} ({run.name})" for run, word in zip(runs, words, strict=True))
        merged[name] = words[0] if len(set(words)) == 1 else of_each
    return merged

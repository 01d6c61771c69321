"""Several runs as one: their rows below each other, under names that do not clash."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ood_core.errors import OODError, suggest
from ood_core.records.findings import AcceptedPair, ClassRow, Findings, StageRecord, Strip
from ood_core.records.results import ResultRow
from ood_core.records.stages import Baseline
from ood_core.store.store import replacing, writing

AXIS = "run"
"""Along which the variants of several runs differ."""

SHARED = " / "
"""Between the variants of a map that several share."""

OfVariant = TypeVar("OfVariant", ResultRow, AcceptedPair, ClassRow)


@dataclass(frozen=True)
class Run:
    """A run whose findings were loaded.

    Attributes:
        name: By which it is told from the others.
        folder: Where its files lie.
    """

    name: str
    folder: Path
    findings: Findings


def named(folders: Sequence[Path]) -> list[str]:
    """Return the names of the folders, with as many of those above them as it takes to tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    names = ["/".join(parts[-1:]) for parts in paths]
    for depth in range(2, max(map(len, paths)) + 1):
        count = Counter(names)
        names = [
            "/".join(parts[-depth:]) if count[name] > 1 else name for name, parts in zip(names, paths, strict=True)
        ]
    return names


def merge(runs: Sequence[Run], baseline: str | None) -> Findings:
    """Return the findings of all runs; a single run stays as it is.

    Rows of several are compared wherever the same images were measured.

    Args:
        runs: At least one.
        baseline: A variant; None takes that of the first run.

    Raises:
        OODError: There is no such variant.
    """
    several = len(runs) > 1
    merged = _joined(runs, [_renamed(run, _new_names(run, runs)) for run in runs]) if several else runs[0].findings
    return replace(merged, baseline=_baseline(merged, baseline, several))


def copy_files(runs: Sequence[Run], folder: Path) -> None:
    """Copy the pictures and galleries of the runs to where the merged findings look for them."""
    for run in runs:
        for file in _files(run.findings):
            source, target = run.folder / file, folder / (_within(run.name, file) if len(runs) > 1 else file)
            with writing(folder):
                target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists() and not (target.exists() and target.samefile(source)):
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)


def _files(found: Findings) -> Iterator[str]:
    yield from (picture.file for picture in found.pictures)
    yield from dict.fromkeys(image.file for strip in found.gallery for image in strip.images)


def _within(run: str, file: str) -> str:
    return f"{run}/{file}"


def _baseline(merged: Findings, name: str | None, several: bool) -> Baseline:
    """Return the baseline: of several runs always a variant, so that they are compared with each other."""
    variants = dict.fromkeys(row.variant for row in merged.rows)
    if name is None:
        own = merged.baseline
        return own if own.variant or own.within or not several else Baseline(variant=next(iter(variants)))
    if name not in variants:
        raise OODError(f"--baseline {name}: no variant is called so.{suggest(name, variants)}")
    return Baseline(variant=name)


# -------------------------------------------------------------------------------------------------- under new names


def _new_names(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """Return how the variants are called from now on; the only one of a run that clashes is called as the run is."""
    others = {variant for other in runs if other is not run for variant in _variants(other.findings)}
    own = _variants(run.findings)
    clashing = run.name if len(own) == 1 else None
    return {name: (clashing or f"{run.name}: {name}") if name in others else name for name in own}


def _variants(found: Findings) -> list[str]:
    return list(dict.fromkeys([*(row.variant for row in found.rows), *found.coordinates, *found.missing]))


def _renamed(named: Run, names: dict[str, str]) -> Findings:
    """Return the findings with other names of variants and files, and the run as an axis and before what it says."""
    run, found = named.name, named.findings

    def variants(old: Sequence[str]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    def each(records: Sequence[OfVariant]) -> tuple[OfVariant, ...]:
        return tuple(replace(record, variant=names.get(record.variant, record.variant)) for record in records)

    def strip(old: Strip) -> Strip:
        return replace(old, images=tuple(replace(image, file=_within(run, image.file)) for image in old.images))

    return replace(
        found,
        rows=each(found.rows),
        accepted=each(found.accepted),
        classes=each(found.classes),
        coordinates={names[old]: {AXIS: run} | found.coordinates.get(old, {}) for old in names},
        baseline=Baseline(
            names.get(found.baseline.variant, found.baseline.variant),
            found.baseline.scorer,
            {names[variant]: names[other] for variant, other in found.baseline.within.items()},
        ),
        notes=tuple(f"{run}: {note}" for note in found.notes),
        failures=tuple(replace(failure, variants=variants(failure.variants)) for failure in found.failures),
        stages=tuple(replace(stage, variants=variants(stage.variants)) for stage in found.stages),
        pictures=tuple(replace(picture, file=_within(run, picture.file)) for picture in found.pictures),
        gallery=tuple(map(strip, found.gallery)),
        resolved={f"{run}: {name}": options for name, options in found.resolved.items()},
        published=tuple(table.renamed(names, run) for table in found.published),
        maps=tuple(
            replace(drawn, variant=SHARED.join(variants(_shared(drawn.variant, names)))) for drawn in found.maps
        ),
    )


def _shared(variant: str, names: dict[str, str]) -> list[str]:
    return [variant] if variant in names else variant.split(SHARED)


# -------------------------------------------------------------------------------------------------------- together


def _joined(runs: Sequence[Run], found: Sequence[Findings]) -> Findings:
    first = found[0]
    return Findings(
        name=" + ".join(run.name for run in runs),
        started=min(one.started for one in found),
        rows=_all(found, lambda one: one.rows),
        scores=_all(found, lambda one: one.scores),
        coordinates={variant: values for one in found for variant, values in one.coordinates.items()},
        baseline=first.baseline,
        averaged=all(one.averaged for one in found),
        notes=_all(found, lambda one: one.notes),
        failures=_all(found, lambda one: one.failures),
        stages=_stages(found),
        accepted=_all(found, lambda one: one.accepted),
        classes=_all(found, lambda one: one.classes),
        resolved={name: options for one in found for name, options in one.resolved.items()},
        versions=_differing(runs, [one.versions for one in found]),
        machine=_differing(runs, [one.machine for one in found]),
        seconds=round(sum(one.seconds for one in found), 3),
        pictures=_all(found, lambda one: one.pictures),
        gallery=tuple(_strips(found)),
        maps=_all(found, lambda one: one.maps),
        published=_all(found, lambda one: one.published),
    )


def _all(found: Sequence[Findings], part: Callable[[Findings], Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(item for one in found for item in part(one))


def _strips(found: Sequence[Findings]) -> Iterator[Strip]:
    """Yield the gallery; its rows follow those of the runs before."""
    before = 0
    for one in found:
        yield from (replace(strip, row=strip.row + before) for strip in one.gallery)
        before += len(one.rows)


def _stages(found: Sequence[Findings]) -> tuple[StageRecord, ...]:
    """Return each stage once, by key; it was carried out if one of the runs did it."""
    stages: dict[str, StageRecord] = {}
    for stage in _all(found, lambda one: one.stages):
        known = stages.get(stage.key, stage)
        variants = tuple(dict.fromkeys((*known.variants, *stage.variants)))
        stages[stage.key] = replace(stage, variants=variants, stored=known.stored and stage.stored)
    return tuple(stages.values())


def _differing(runs: Sequence[Run], values: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what all runs agree on as it is, and everything else with the run that it is of."""
    merged = {}
    for name in dict.fromkeys(name for of in values for name in of):
        said = [of.get(name, "none") for of in values]
        same = len(set(said)) == 1
        merged[name] = (
            said[0] if same else "; ".join(f"{value} ({run.name})" for run, value in zip(runs, said, strict=True))
        )
    return merged

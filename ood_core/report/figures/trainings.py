"""Training curves: a figure for each thing that the stages of one kind record at every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from ood_core.records.findings import StageRecord
from ood_core.report.figures import drawing
from ood_core.report.figures.curves import thinned
from ood_core.report.figures.drawing import Drawing, Style
from ood_core.report.figures.figures import affordable

LINES = 8
"""Trainings in one figure, at most."""

BYTES = 300_000
"""Of all figures together."""

_NAMED = 3  # variants named for a training that several share


@dataclass(frozen=True)
class TrainingPanel:
    """Trainings on the same tasks."""

    title: str
    key: tuple[tuple[Style, str], ...]
    drawings: tuple[Drawing, ...]


def panels(stages: Sequence[StageRecord]) -> list[TrainingPanel]:
    """Return the figures of all trainings, as far as they can be afforded."""
    return affordable(
        _grouped(stages), _panel, lambda panel: sum(len(drawing.svg) for drawing in panel.drawings), BYTES
    )


def count(stages: Sequence[StageRecord]) -> int:
    """Return how many trainings there are."""
    return sum(1 for stage in stages if stage.facts.get("epochs"))


def _grouped(stages: Sequence[StageRecord]) -> Iterator[list[StageRecord]]:
    grouped: dict[str, list[StageRecord]] = {}
    for stage in stages:
        if stage.kind == "train" and stage.facts.get("epochs"):
            grouped.setdefault(stage.title, []).append(stage)
    for same in grouped.values():
        yield from (same[first : first + LINES] for first in range(0, len(same), LINES))


def _panel(stages: Sequence[StageRecord]) -> TrainingPanel:
    names = [_name(stage) for stage in stages]
    metrics = dict.fromkeys(metric for stage in stages for metric in stage.facts["epochs"][0])
    drawings = [_draw(stages[0].title, metric, names, stages) for metric in metrics]
    key = tuple((drawing.style(index), name) for index, name in enumerate(names))
    return TrainingPanel(stages[0].title, key, tuple(drawings))


def _draw(title: str, metric: str, names: Sequence[str], stages: Sequence[StageRecord]) -> Drawing:
    what = metric.replace("_", " ")
    made, words = drawing.axes("epoch", what), []
    for index, (name, stage) in enumerate(zip(names, stages, strict=True)):
        values = [epoch.get(metric) for epoch in stage.facts["epochs"]]
        epochs = [epoch for epoch, value in enumerate(values, 1) if _is_number(value)]
        if not epochs:
            continue
        shown = np.array([values[epoch - 1] for epoch in epochs], float)
        drawing.line(made, *thinned(np.array(epochs, float), shown), drawing.style(index))
        words.append(f"{name}: from {shown[0]:.4g} to {shown[-1]:.4g} in {epochs[-1]} epochs")
    return drawing.finish(made, f"{what.capitalize()} of {title}", drawing.listed(words))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _name(stage: StageRecord) -> str:
    more = len(stage.variants) - _NAMED
    variants = ", ".join(stage.variants[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return ", ".join(part for part in (variants, "" if stage.seed is None else f"seed {stage.seed}") if part)

"""Training curves: a figure for each metric that the training stages record at every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ood_core.records.report_data import StageRecord
from ood_core.report.content.combinations import within_budget
from ood_core.report.figures import drawing
from ood_core.report.figures.curves import thinned
from ood_core.report.figures.drawing import Drawing, Style

LINES = 8
"""Trainings in one figure, at most."""

BYTES = 300_000
"""Of all figures together."""

_NAMED = 3  # variants named for a stage that several share


@dataclass(frozen=True)
class TrainingPanel:
    """Trainings on the same tasks."""

    title: str
    key: tuple[tuple[Style, str], ...]
    drawings: tuple[Drawing, ...]


def draw(stages: Sequence[StageRecord]) -> list[TrainingPanel]:
    """Return the figures of all trainings, within the budget."""
    grouped: dict[str, list[StageRecord]] = {}
    for stage in stages:
        if stage.kind == "train" and stage.facts.get("epochs"):
            grouped.setdefault(stage.title, []).append(stage)
    parts = (same[first : first + LINES] for same in grouped.values() for first in range(0, len(same), LINES))
    return within_budget(parts, _panel, lambda panel: sum(len(drawn.svg) for drawn in panel.drawings), BYTES)


def count(stages: Sequence[StageRecord]) -> int:
    """Return the number of trainings."""
    return sum(1 for stage in stages if stage.facts.get("epochs"))


def shorten_variants(stage: StageRecord) -> str:
    """Return the first variants of a stage, and how many more there are."""
    more = len(stage.variants) - _NAMED
    return ", ".join(stage.variants[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _panel(stages: Sequence[StageRecord]) -> TrainingPanel:
    names = []
    for stage in stages:
        seed = "" if stage.seed is None else f"seed {stage.seed}"
        names.append(", ".join(filter(None, (shorten_variants(stage), seed))))
    metrics = dict.fromkeys(metric for stage in stages for metric in stage.facts["epochs"][0])
    drawings = tuple(_draw(metric, names, stages) for metric in metrics)
    key = tuple((drawing.style(index), name) for index, name in enumerate(names))
    return TrainingPanel(stages[0].title, key, drawings)


def _draw(metric: str, names: Sequence[str], stages: Sequence[StageRecord]) -> Drawing:
    title = metric.replace("_", " ")
    made, words = drawing.axes("epoch", title), []
    for index, (name, stage) in enumerate(zip(names, stages, strict=True)):
        values = [epoch.get(metric) for epoch in stage.facts["epochs"]]
        epochs = [n for n, value in enumerate(values, 1) if isinstance(value, (int, float)) and isfinite(value)]
        if epochs:
            shown = np.array([values[epoch - 1] for epoch in epochs], float)
            drawing.line(made, *thinned(np.array(epochs, float), shown), drawing.style(index))
            words.append(f"{name}: from {shown[0]:.4g} to {shown[-1]:.4g} in {epochs[-1]} epochs")
    return drawing.finish(made, f"{title.capitalize()} of {stages[0].title}", words)

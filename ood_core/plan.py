"""From recipes to stages: every name, option, class and key is settled here, before the first epoch.

Data sets are opened for their names, labels and fingerprints; no pixel is read. All mistakes of a recipe are reported
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ood_core import sections
from ood_core.errors import OODError, OODErrors
from ood_core.options import Reader, digest, identity
from ood_core.plugins import Plugins, core_version
from ood_core.recipe import Recipe
from ood_core.sections import Experiment, Opened
from ood_core.stages import (
    ExtractStage,
    FitStage,
    Images,
    MeasureStage,
    Plan,
    Row,
    ScoreStage,
    TrainStage,
    each_once,
)


def make(recipes: Sequence[Recipe], plugins: Plugins) -> Plan:
    """Return the plan of a list of experiments.

    Raises:
        OODErrors: With all mistakes of all of them.
    """
    errors: list[OODError] = []
    experiments: list[Experiment] = []
    opened: Opened = {}
    for recipe in recipes:
        reader = Reader(plugins)
        experiment = sections.read(recipe, reader, opened)
        errors += reader.errors
        experiments += [experiment] if experiment is not None else []
    if errors:
        raise OODErrors(each_once(errors))
    builder = _Builder(plugins, core_version())
    return Plan(
        name=recipes[0].name,
        rows=tuple(row for experiment in experiments for row in builder.rows(experiment)),
        resolved={f"{e.recipe.variant}, seed {e.recipe.seed}": e.resolved for e in experiments},
        plugins=plugins,
        checks=tuple({(place, repr(p)): (place, p) for e in experiments for place, p in e.checks}.values()),
    )


@dataclass(frozen=True)
class _Builder:
    """Lays out the stages of experiments; what makes up each key stands in one place."""

    plugins: Plugins
    core: str

    def rows(self, experiment: Experiment) -> list[Row]:
        weights = self._training(experiment)
        data = experiment.data
        train, test = (self._extract(experiment, weights, images) for images in (data.train, data.test))
        held = self._extract(experiment, weights, data.holdout) if data.holdout is not None else None
        ood = [(group, images.name, self._extract(experiment, weights, images)) for group, images in data.ood]
        rows = []
        for name, scorer in experiment.scorers:
            seed = experiment.recipe.seed
            key = self._key("fit", scorer=identity(scorer, self.plugins), train=train.key, seed=seed)
            fit = FitStage(key=key, name=name, scorer=scorer, train=train, seed=seed)
            id_scores, held_scores = self._score(fit, test), self._score(fit, held) if held is not None else None
            for group, ood_set, outputs in ood:
                measure = self._measure(id_scores, held_scores, self._score(fit, outputs))
                rows.append(Row(experiment.recipe.variant, seed, name, ood_set, group, measure))
        return rows

    def _key(self, kind: str, **decides: Any) -> str:
        return digest({"kind": kind, "core": self.core} | decides)

    def _training(self, experiment: Experiment) -> TrainStage | None:
        stage: TrainStage | None = None
        data, seed = experiment.data, experiment.recipe.seed
        for task in experiment.tasks:
            key = self._key(
                "train",
                task=identity(task, self.plugins),
                backbone=identity(experiment.backbone, self.plugins),
                images=data.train.opened.fingerprint,
                image_size=data.image_size,
                seed=seed,
                start=stage.key if stage is not None else None,
            )
            stage = TrainStage(
                key=key,
                backbone=experiment.backbone,
                task=task,
                images=data.train,
                image_size=data.image_size,
                seed=seed,
                start=stage,
            )
        return stage

    def _extract(self, experiment: Experiment, weights: TrainStage | None, images: Images) -> ExtractStage:
        size, classes = experiment.data.image_size, len(experiment.data.train.opened.classes)
        network = weights.key if weights is not None else identity(experiment.backbone, self.plugins)
        key = self._key("extract", network=network, images=images.opened.fingerprint, image_size=size, classes=classes)
        return ExtractStage(
            key=key, backbone=experiment.backbone, weights=weights, images=images, image_size=size, classes=classes
        )

    def _score(self, fit: FitStage, outputs: ExtractStage) -> ScoreStage:
        return ScoreStage(key=self._key("score", fit=fit.key, outputs=outputs.key), fit=fit, outputs=outputs)

    def _measure(self, inside: ScoreStage, held: ScoreStage | None, outside: ScoreStage) -> MeasureStage:
        key = self._key("measure", id=inside.key, held=held.key if held is not None else None, ood=outside.key)
        return MeasureStage(key=key, id_scores=inside, held_scores=held, ood_scores=outside)

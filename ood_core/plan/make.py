"""From recipes to stages: every name, option, class and key is settled here, before the first epoch.

Data sets are opened for their names, labels and fingerprints; no pixel is read. All mistakes of a recipe are reported
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ood_core.data.open_sources import SourcePool
from ood_core.errors import OODError, OODErrors, suggest
from ood_core.interfaces import PretextTask, Probe, Scorer, Tokenizer
from ood_core.plan import published_cells, sections
from ood_core.plan.sections import Experiment
from ood_core.plan.versions import versions
from ood_core.plugins import Plugins, core_version
from ood_core.recipe.build import Reader, digest, identity, probe_identity, with_nested
from ood_core.recipe.read import Recipe
from ood_core.records.stages import (
    Baseline,
    Extraction,
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
from ood_core.runtime import torch_state


@torch_state.stage_state()
def make_plan(recipes: Sequence[Recipe], plugins: Plugins) -> Plan:
    """Return the plan of a list of experiments.

    Raises:
        OODErrors: With all mistakes of all of them.
    """
    errors: list[OODError] = []
    experiments: list[Experiment] = []
    library = SourcePool()
    for recipe in recipes:
        reader = Reader(plugins)
        experiments += sections.read(recipe, reader, library)
        errors += reader.errors
    if errors:
        raise OODErrors(each_once(errors))
    baseline = _baseline(recipes, experiments)
    builder = _Builder(plugins, core_version())
    rows = tuple(row for experiment in experiments for row in builder.rows(experiment))
    resolved = {f"{e.recipe.variant}, seed {e.recipe.seed}": e.resolved for e in experiments}
    return Plan(
        name=recipes[0].name,
        rows=rows,
        resolved=resolved,
        versions=versions(plugins),
        checks=tuple({(place, repr(p)): (place, p) for e in experiments for place, p in e.checks}.values()),
        notes=tuple(dict.fromkeys(note for experiment in experiments for note in experiment.notes)),
        averaged=all(experiment.averaged for experiment in experiments),
        coordinates={recipe.variant: recipe.coordinates for recipe in recipes},
        baseline=baseline,
        published=published_cells.read(recipes, rows, resolved, plugins),
    )


def _baseline(recipes: Sequence[Recipe], experiments: Sequence[Experiment]) -> Baseline:
    """Return what rows are compared with: their scorer under another variant or, where none has it, one scorer."""
    of = {recipe.variant: recipe.baseline_variant for recipe in recipes}
    recipe, scorer = recipes[0], recipes[0].baseline_scorer
    if len(set(of.values())) > 1:
        return Baseline("", scorer, of)
    variant = recipe.baseline_variant
    names = [name for e in experiments if variant in ("", e.recipe.variant) for name, _ in e.scorers]
    others = {name for e in experiments if e.recipe.variant != variant for name, _ in e.scorers}
    if scorer and scorer not in names:
        raise OODError(f"{recipe.baseline_place}: the baseline has no scorer '{scorer}'.{suggest(scorer, set(names))}")
    alone = not variant or not others & set(names)
    return Baseline(variant, scorer or (names[0] if alone else ""))


@dataclass(frozen=True)
class _Builder:
    """Lays out the stages of experiments; what makes up each key stands in one place."""

    plugins: Plugins
    core: str

    def rows(self, experiment: Experiment) -> list[Row]:
        weights = self._training(experiment)
        rows = []
        for name, scorer in experiment.scorers:
            fit = self._fit(experiment, weights, name, scorer)
            for inside in self._inside(experiment, fit, weights):
                for group, images in experiment.data.ood:
                    outside = self._score(fit, self._extraction(experiment, weights, scorer, images))
                    rows.append(_row(experiment, name, group, self._measure(experiment, inside, outside)))
        return rows

    def _inside(self, experiment: Experiment, fit: FitStage, weights: TrainStage | None) -> list[_Inside]:
        """Return what OOD is compared with: the ID test set, and where there is any the shifted ID images with it."""
        data = experiment.data

        def scores(images: Images) -> ScoreStage:
            return self._score(fit, self._extraction(experiment, weights, fit.scorer, images))

        held = scores(data.holdout) if data.holdout is not None else None
        plain = _Inside(scores(data.test), held)
        shifted = tuple(scores(images) for images in data.shifted)
        return [plain, replace(plain, shifted=shifted)] if shifted else [plain]

    def _key(self, kind: str, **decides: Any) -> str:
        return digest({"kind": kind, "core": self.core} | decides)

    def _images(self, images: Images) -> dict[str, Any]:
        """Return what decides the pixels and labels of a set: its content, and the code that reads it."""
        return {"content": images.opened.fingerprint, "code": self.plugins.code(images.opened.reader)}

    def _training(self, experiment: Experiment) -> TrainStage | None:
        stage: TrainStage | None = None
        data, seed = experiment.data, experiment.recipe.seed
        for step in experiment.steps:
            task, images = step.task, step.images or data.train
            auxiliary = data.auxiliary if task.auxiliary_images() else None
            tokenizers = self._tokenizers(experiment, task, images)
            key = self._key(
                "train",
                task=identity(task, self.plugins),
                backbone=identity(experiment.backbone, self.plugins),
                images=self._images(images),
                all_classes=images.opened.all_classes,
                auxiliary=None if auxiliary is None else self._images(auxiliary),
                image_size=experiment.settings.image_size,
                seed=seed,
                start=stage.key if stage is not None else None,
                tokenizers=[trained.key for _, trained in tokenizers],
            )
            stage = TrainStage(
                key=key,
                backbone=experiment.backbone,
                task=task,
                images=images,
                image_size=experiment.settings.image_size,
                seed=seed,
                auxiliary=auxiliary,
                id_classes=step.images is None,
                start=stage,
                tokenizers=tokenizers,
            )
        return stage

    def _tokenizers(
        self, experiment: Experiment, task: PretextTask, images: Images
    ) -> tuple[tuple[Tokenizer, TrainStage], ...]:
        """Return the stages that train the task's tokenizers, where those need any training."""
        stages = {}
        size, seed = experiment.settings.image_size, experiment.recipe.seed
        for tokenizer in with_nested(task):
            if not isinstance(tokenizer, Tokenizer) or (training := tokenizer.training()) is None:
                continue
            key = self._key(
                "train",
                tokenizer=identity(tokenizer, self.plugins),
                code=self.plugins.code(type(training)),
                images=self._images(images),
                all_classes=images.opened.all_classes,
                image_size=size,
                seed=seed,
            )
            stages[tokenizer] = TrainStage(
                key=key, backbone=None, task=training, images=images, image_size=size, seed=seed
            )
        return tuple(stages.items())

    def _fit(self, experiment: Experiment, weights: TrainStage | None, name: str, scorer: Scorer) -> FitStage:
        data, needs, seed = experiment.data, scorer.all_needs(), experiment.recipe.seed
        read = partial(self._extraction, experiment, weights, scorer)
        train = read(data.train)
        held_out = read(data.holdout) if data.holdout is not None and "held_out" in needs else None
        known_ood = tuple(read(images) for images in data.known) if "known_ood" in needs else ()
        key = self._key(
            "fit",
            scorer=identity(scorer, self.plugins),
            train=_keys(train),
            held_out=None if held_out is None else _keys(held_out),
            known_ood=[_keys(extraction) for extraction in known_ood],
            seed=seed,
        )
        return FitStage(
            key=key, name=name, scorer=scorer, train=train, held_out=held_out, known_ood=known_ood, seed=seed
        )

    def _extraction(
        self, experiment: Experiment, weights: TrainStage | None, scorer: Scorer, images: Images
    ) -> Extraction:
        """Return what this scorer is given of the images."""
        probes = [(part, probe) for part in scorer.parts() if (probe := part.probe()) is not None]
        stages = {
            stage.key: stage
            for part, probe in probes
            if (stage := self._extract(experiment, weights, images, probe, part))
        }
        return Extraction(self._extract(experiment, weights, images), tuple(stages.values()))

    def _extract(
        self,
        experiment: Experiment,
        weights: TrainStage | None,
        images: Images,
        probe: Probe | None = None,
        asked_by: Scorer | None = None,
    ) -> ExtractStage:
        size, classes = experiment.settings.image_size, len(experiment.data.train.opened.classes)
        augmented = _augmented_by(experiment, images)
        shared = {
            "network": weights.key if weights is not None else identity(experiment.backbone, self.plugins),
            "trains_head": weights.trains_head if weights is not None else None,
            "images": self._images(images),
            "image_size": size,
            "view": vars(experiment.view) if augmented is None else identity(augmented, self.plugins),
            "classes": classes,
        }
        read = {} if probe is None or asked_by is None else {"probe": probe_identity(probe, asked_by, self.plugins)}
        return ExtractStage(
            key=self._key("extract", **shared, **read),
            passage=self._key("pass", **shared),
            backbone=experiment.backbone,
            weights=weights,
            images=images,
            image_size=size,
            classes=classes,
            view=experiment.view,
            augmented_by=augmented,
            probe=probe,
        )

    def _score(self, fit: FitStage, outputs: Extraction) -> ScoreStage:
        return ScoreStage(key=self._key("score", fit=fit.key, outputs=_keys(outputs)), fit=fit, outputs=outputs)

    def _measure(self, experiment: Experiment, inside: _Inside, outside: ScoreStage) -> MeasureStage:
        overlap = experiment.settings.overlap
        key = self._key(
            "measure",
            id=inside.test.key,
            shifted=[stage.key for stage in inside.shifted],
            held=inside.held.key if inside.held is not None else None,
            ood=outside.key,
            classes=[inside.test.images.opened.classes, outside.images.opened.classes],
            overlap=overlap,
        )
        return MeasureStage(
            key=key,
            id_scores=inside.test,
            shifted_scores=inside.shifted,
            held_scores=inside.held,
            ood_scores=outside,
            overlap=overlap,
        )


@dataclass(frozen=True)
class _Inside:
    """Scores of ID images: of the test set, of the held-out ones, and of shifted ones that count as ID."""

    test: ScoreStage
    held: ScoreStage | None
    shifted: tuple[ScoreStage, ...] = ()


def _row(experiment: Experiment, scorer: str, group: str, measure: MeasureStage) -> Row:
    data, recipe = experiment.data, experiment.recipe
    return Row(
        variant=recipe.variant,
        case=data.case,
        draw=data.draw,
        seed=recipe.seed,
        scorer=scorer,
        id_set=measure.id_set,
        ood_set=measure.ood_scores.images.name,
        group=group,
        measure=measure,
    )


def _augmented_by(experiment: Experiment, images: Images) -> PretextTask | None:
    """Return the task through whose augmentation the images are shown: those that scorers are fitted to, if asked."""
    if experiment.settings.fit_images == "augmented" and images.part == "train":
        return experiment.steps[-1].task
    return None


def _keys(extraction: Extraction) -> list[str]:
    return [stage.key for stage in extraction.stages]

"""From recipes to stages: every name, option, class and key is settled here, before the first epoch.

Data sets are opened for their names, labels and fingerprints; no pixel is read. All mistakes of a recipe are reported
at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ood_core.data.open_sources import SourcePool
from ood_core.errors import OODError, OODErrors, suggest
from ood_core.interfaces import PretextTask, Probe, Scorer, Tokenizer
from ood_core.plan import published_cells
from ood_core.plan.experiments import Experiment, read_experiments
from ood_core.plugins import Plugins, core_version
from ood_core.recipe.build import RecipeReader, digest, identity, probe_identity, with_nested
from ood_core.recipe.read import Recipe
from ood_core.recipe.variants import MOST_EXPERIMENTS
from ood_core.records.plan import Baseline, Plan, Row, deduplicate
from ood_core.records.stages import (
    Extraction,
    ExtractStage,
    FitStage,
    Images,
    MeasureStage,
    ScoreStage,
    TrainStage,
)
from ood_core.runtime import torch_state


@torch_state.stage_state()
def make_plan(recipes: Sequence[Recipe], plugins: Plugins, sources: SourcePool | None = None) -> Plan:
    """Return the plan of a list of experiments; image sets that are open in `sources` are not opened again.

    Raises:
        OODErrors: With all mistakes of all of them.
    """
    errors: list[OODError] = []
    experiments: list[Experiment] = []
    sources = sources or SourcePool()
    for recipe in recipes:
        reader = RecipeReader(plugins)
        experiments += read_experiments(recipe, reader, sources)
        errors += reader.errors
        if len(experiments) > MOST_EXPERIMENTS:
            count = (
                f"more than {MOST_EXPERIMENTS} experiments, which are variants times seeds times cases of the protocol"
            )
            raise OODError(f"{recipe.root.place}: {count}")
    if errors:
        raise OODErrors(deduplicate(errors))
    baseline, core = _baseline(recipes, experiments), core_version()
    rows = tuple(row for experiment in experiments for row in _Builder(experiment, plugins, core).rows())
    resolved = {f"{e.recipe.variant}, seed {e.recipe.seed}": e.resolved for e in experiments}
    return Plan(
        name=recipes[0].name,
        rows=rows,
        resolved=resolved,
        versions=plugins.versions(),
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


class _Builder:
    """Lays out the stages of an experiment; the fields of each key are named in one place."""

    def __init__(self, experiment: Experiment, plugins: Plugins, core: str) -> None:
        self.experiment, self.plugins, self.core = experiment, plugins, core
        self.data, self.seed = experiment.data, experiment.recipe.seed
        self.image_size = experiment.settings.image_size
        self.weights = self._training()

    def rows(self) -> Iterator[Row]:
        """Yield the rows: ID against each OOD set, once without the shifted ID images and, if there are any, with."""
        data = self.data
        for name, scorer in self.experiment.scorers:
            fit = self._fit(name, scorer)
            held = None if data.holdout is None else self._score(fit, data.holdout)
            test, shifted = self._score(fit, data.test), tuple(self._score(fit, images) for images in data.shifted)
            for counted in [(), shifted] if shifted else [()]:
                for group, images in data.ood:
                    measure = self._measure(test, counted, held, self._score(fit, images))
                    yield Row(
                        variant=self.experiment.recipe.variant,
                        case=data.case,
                        draw=data.draw,
                        seed=self.seed,
                        scorer=name,
                        spectrum=measure.spectrum,
                        id_set=measure.id_set,
                        ood_set=images.name,
                        group=group,
                        measure=measure,
                    )

    def _key(self, kind: str, **decides: Any) -> str:
        return digest({"kind": kind, "core": self.core} | decides)

    def _images(self, images: Images) -> dict[str, Any]:
        """Return what decides the pixels and labels of a set: its content, and the code that reads it."""
        return {"content": images.opened.fingerprint, "code": self.plugins.code(images.opened.reader)}

    def _train_key(self, images: Images, **decides: Any) -> str:
        read = {"images": self._images(images), "all_classes": images.opened.all_classes}
        return self._key("train", **read, image_size=self.image_size, seed=self.seed, **decides)

    def _training(self) -> TrainStage | None:
        stage: TrainStage | None = None
        for step in self.experiment.steps:
            task, images = step.task, step.images or self.data.train
            auxiliary = self.data.auxiliary if task.auxiliary_images() else None
            tokenizers = self._tokenizers(task, images)
            key = self._train_key(
                images,
                task=identity(task, self.plugins),
                backbone=identity(self.experiment.backbone, self.plugins),
                auxiliary=None if auxiliary is None else self._images(auxiliary),
                start=stage.key if stage is not None else None,
                tokenizers=[trained.key for _, trained in tokenizers],
            )
            stage = TrainStage(
                key=key,
                backbone=self.experiment.backbone,
                task=task,
                images=images,
                image_size=self.image_size,
                seed=self.seed,
                auxiliary=auxiliary,
                id_classes=step.images is None,
                start=stage,
                tokenizers=tokenizers,
            )
        return stage

    def _tokenizers(self, task: PretextTask, images: Images) -> tuple[tuple[Tokenizer, TrainStage], ...]:
        """Return the stages that train the task's tokenizers, if these need any training."""
        stages = {}
        for tokenizer in with_nested(task):
            if not isinstance(tokenizer, Tokenizer) or (training := tokenizer.training()) is None:
                continue
            code = self.plugins.code(type(training))
            key = self._train_key(images, tokenizer=identity(tokenizer, self.plugins), code=code)
            stages[tokenizer] = TrainStage(
                key=key, backbone=None, task=training, images=images, image_size=self.image_size, seed=self.seed
            )
        return tuple(stages.items())

    def _fit(self, name: str, scorer: Scorer) -> FitStage:
        data, needs = self.data, scorer.all_needs()
        train = self._extraction(scorer, data.train)
        holdout = data.holdout if "held_out" in needs else None
        held_out = None if holdout is None else self._extraction(scorer, holdout)
        known_ood = tuple(self._extraction(scorer, images) for images in data.known) if "known_ood" in needs else ()
        key = self._key(
            "fit",
            scorer=identity(scorer, self.plugins),
            train=_keys(train),
            held_out=None if held_out is None else _keys(held_out),
            known_ood=[_keys(extraction) for extraction in known_ood],
            seed=self.seed,
        )
        return FitStage(
            key=key, name=name, scorer=scorer, train=train, held_out=held_out, known_ood=known_ood, seed=self.seed
        )

    def _extraction(self, scorer: Scorer, images: Images) -> Extraction:
        """Return the outputs, and what the probes of this scorer add to them."""
        probes = [(part, probe) for part in scorer.parts() if (probe := part.probe()) is not None]
        stages = [self._extract(images, probe, part) for part, probe in probes]
        return Extraction(self._extract(images), tuple({stage.key: stage for stage in stages}.values()))

    def _extract(self, images: Images, probe: Probe | None = None, part: Scorer | None = None) -> ExtractStage:
        experiment, weights, classes = self.experiment, self.weights, len(self.data.train.opened.classes)
        # images that scorers are fitted to may be shown through the augmentation of the last training
        augmented = experiment.settings.fit_images == "augmented" and images.part == "train"
        augmented_by = experiment.steps[-1].task if augmented else None
        shared = {
            "network": weights.key if weights is not None else identity(experiment.backbone, self.plugins),
            "trains_head": weights.trains_head if weights is not None else None,
            "images": self._images(images),
            "image_size": self.image_size,
            "view": vars(experiment.view) if augmented_by is None else identity(augmented_by, self.plugins),
            "classes": classes,
        }
        own = {} if probe is None or part is None else {"probe": probe_identity(probe, part, self.plugins)}
        return ExtractStage(
            key=self._key("extract", **shared, **own),
            pass_key=self._key("pass", **shared),
            backbone=experiment.backbone,
            weights=weights,
            images=images,
            image_size=self.image_size,
            classes=classes,
            view=experiment.view,
            augmented_by=augmented_by,
            probe=probe,
        )

    def _score(self, fit: FitStage, images: Images) -> ScoreStage:
        outputs = self._extraction(fit.scorer, images)
        return ScoreStage(key=self._key("score", fit=fit.key, outputs=_keys(outputs)), fit=fit, outputs=outputs)

    def _measure(
        self, test: ScoreStage, shifted: tuple[ScoreStage, ...], held: ScoreStage | None, ood: ScoreStage
    ) -> MeasureStage:
        overlap = self.experiment.settings.overlap
        key = self._key(
            "measure",
            id=test.key,
            shifted=[stage.key for stage in shifted],
            held=held.key if held is not None else None,
            ood=ood.key,
            classes=[test.images.opened.classes, ood.images.opened.classes],
            overlap=overlap,
        )
        return MeasureStage(
            key=key, id_scores=test, shifted_scores=shifted, held_scores=held, ood_scores=ood, overlap=overlap
        )


def _keys(extraction: Extraction) -> list[str]:
    return [stage.key for stage in extraction.stages]

"""Reads the sections of a recipe - data, backbone, training, scorers - into plugin objects and opened data sets.

Everything wrong is noted in the reader with its line; what can still be read is, so that all mistakes come at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ood_core.data.open_sources import SourcePool
from ood_core.data.selection import MUCH, cut_away
from ood_core.errors import listed, suggest
from ood_core.interfaces import Backbone, EvaluationView, Plugin, PretextTask, Scorer
from ood_core.interfaces.checks import unmet_needs
from ood_core.plan.data_section import Data
from ood_core.plan.image_sets import CaseData, SelectedSource, Settings, calibration_notes, described
from ood_core.plan.smoke import SMOKE_NOTE, limit_epochs
from ood_core.recipe.build import RecipeReader, describe, label, with_nested
from ood_core.recipe.read import Recipe
from ood_core.recipe.yaml import LocatedValue
from ood_core.records.stages import Images
from ood_core.runtime.memory import GIB

SECTIONS = ("data", "backbone", "training", "scorers")
OTHERS = ("protocol", "benchmark", "paper", "smoke")
"""Sections that a recipe may leave out; `published_cells` reads `paper`, and `--smoke` sets the last."""

BENCHMARK_KEYS = ("title", "paper", "source", "licence", "splits", "notes")

USUAL_DIMENSIONS = 768
"""Of the embeddings of a ViT-B: a plan does not know those of the network, which is not built yet."""

TRAIN_ON = "train_on"
"""Key of a training stage: what it is trained on, where that is not the ID training set."""

ALL_CLASSES = "all-classes"
"""What may stand behind it: the ID set as the recipe names it, before a protocol takes classes out of it."""


NamedScorers: TypeAlias = "Sequence[tuple[LocatedValue, str, Scorer]]"
"""Scorers with their places in the recipe and their names in the report."""


@dataclass(frozen=True)
class TrainingStep:
    """One training stage of an experiment; without `images` it trains on the ID training set of the case."""

    task: PretextTask
    images: Images | None

    @property
    def trains_head(self) -> bool:
        """Whether the classifier tells the ID classes apart afterwards."""
        return self.task.trains_head and self.images is None


@dataclass(frozen=True)
class Experiment:
    """One case of a recipe with everything resolved; `scorers` have their names in the report.

    Attributes:
        resolved: All of it in plain values, for the report.
        checks: Plugin objects with their places in the recipe.
        notes: Reasons why the numbers are hard to compare.
        averaged: Whether the mean over the protocol's cases means something.
    """

    recipe: Recipe
    data: CaseData
    settings: Settings
    view: EvaluationView
    backbone: Backbone
    steps: tuple[TrainingStep, ...]
    scorers: tuple[tuple[str, Scorer], ...]
    resolved: dict[str, Any]
    checks: tuple[tuple[str, Plugin], ...]
    notes: tuple[str, ...]
    averaged: bool


def read_experiments(recipe: Recipe, reader: RecipeReader, pool: SourcePool) -> list[Experiment]:
    """Return the experiments, one for each case of the protocol; none if the reader has noted any mistake."""
    sections = reader.keys(recipe.root, "a recipe", (*SECTIONS, *OTHERS))
    for name in SECTIONS:
        if name not in sections:
            reader.wrong(recipe.root, f"the recipe needs the section '{name}'")
    smoke: bool = "smoke" in sections and reader.value(sections["smoke"], bool, "'smoke'", False)
    reading = _Reading(reader, smoke)
    resolved: dict[str, Any] = {"smoke": True} if smoke else {}
    if "benchmark" in sections:
        entries = reader.keys(sections["benchmark"], "'benchmark'", BENCHMARK_KEYS)
        resolved["benchmark"] = {key: reader.value(entry, str, f"'{key}'", "") for key, entry in entries.items()}
    data = Data(reader, pool, sections["data"], sections.get("protocol"), smoke) if "data" in sections else None
    backbone = reading.plugin("backbone", sections["backbone"]) if "backbone" in sections else None
    tasks = reading.tasks(sections["training"], data) if "training" in sections else []
    scorers = reading.scorers(sections["scorers"]) if "scorers" in sections else []
    if data is None:
        return []
    cases = [(case, reading.steps(tasks, data, case)) for case in data.cases()]
    for case, steps in cases:
        reading.check_together(steps, scorers, case, data.settings)
    if reader.errors or not isinstance(backbone, Backbone):
        return []
    view = data.settings.evaluation or backbone.evaluation_view()
    if "paper" in sections:  # read again where a lock is run
        resolved["paper"] = sections["paper"].plain()
    resolved |= {
        "seed": recipe.seed,
        "protocol": {"use": data.protocol.name} | vars(data.protocol),
        "data": data.resolved() | {"evaluation": vars(view)},
        "backbone": describe(backbone),
        "training": [task.described(data) for task in tasks],
        "scorers": [{"name": name} | describe(scorer) for _, name, scorer in scorers],
    }
    of_size = [SMOKE_NOTE] if smoke else calibration_notes([case for case, _ in cases])
    notes = (*of_size, *reading.notes, *data.selections.notes, *_notes(cases, scorers, view))
    return [
        Experiment(
            recipe=recipe,
            data=case,
            settings=data.settings,
            view=view,
            backbone=backbone,
            steps=steps,
            scorers=tuple((name, scorer) for _, name, scorer in scorers),
            resolved=resolved,
            checks=(*reading.checks, *data.selections.sources),
            notes=notes,
            averaged=data.protocol.averaged,
        )
        for case, steps in cases
    ]


@dataclass(frozen=True)
class _Task:
    node: LocatedValue
    task: PretextTask
    train_on: SelectedSource | None

    def described(self, data: Data) -> dict[str, Any]:
        if self.train_on is None:
            return describe(self.task)
        images = ALL_CLASSES if self.train_on is data.inside else described(self.train_on.selection)
        return describe(self.task) | {TRAIN_ON: images}


class _Reading:
    def __init__(self, reader: RecipeReader, smoke: bool) -> None:
        self.reader, self.smoke = reader, smoke
        self.checks: list[tuple[str, Plugin]] = []
        self.notes: list[str] = []

    def plugin(self, kind: str, node: LocatedValue, reserved: Sequence[str] = ()) -> Plugin | None:
        plugin = self.reader.plugin(kind, node, reserved)
        if plugin is not None:
            self.checks += [(node.place, part) for part in with_nested(plugin)]
        return plugin

    def tasks(self, node: LocatedValue, data: Data | None) -> list[_Task]:
        tasks = []
        for item in self.reader.items(node, "'training'"):
            # an empty place is one that variants may fill
            task = None if item.value is None else self.plugin("pretext", item, (TRAIN_ON,))
            if not isinstance(task, PretextTask):
                continue
            task = self._fit_warmup(item, task)
            if task.auxiliary_images() and data is not None and data.auxiliary is None:
                self.reader.wrong(item, f"pretext '{task.name}' needs an auxiliary set; name it under 'auxiliary'")
            task = limit_epochs(task) if self.smoke else task
            tasks.append(_Task(item, task, None if data is None else self._train_on(item, data)))
        return tasks

    def _fit_warmup(self, item: LocatedValue, task: PretextTask) -> PretextTask:
        """Return a task with no more warm-up than epochs, if `--set` gave these alone; else more is a mistake."""
        if task.warmup_epochs <= task.epochs:
            return task
        entries = item.value if isinstance(item.value, dict) else {}
        given, own = entries.get("epochs"), entries.get("warmup_epochs")
        if given is None or not given.is_override or (own is not None and own.is_override):
            self.reader.wrong(item, f"'warmup_epochs' {task.warmup_epochs:g} is more than 'epochs' {task.epochs}")
            return task
        self.notes.append(
            f"pretext '{task.name}': the warm-up of {task.warmup_epochs:g} epochs is cut to the {task.epochs} of "
            f"{given.place}"
        )
        return replace(task, warmup_epochs=task.epochs)

    def _train_on(self, item: LocatedValue, data: Data) -> SelectedSource | None:
        node = item.value.get(TRAIN_ON) if isinstance(item.value, dict) else None
        if node is None:
            return None
        if node.value == ALL_CLASSES:
            return data.inside
        sources = self.reader.plugins.classes("dataset")
        if isinstance(node.value, str) and node.value not in sources:
            self.reader.wrong(node, f"no dataset '{node.value}'.{suggest(node.value, [ALL_CLASSES, *sources])}")
            return None
        return data.selections.read(node)

    def steps(self, tasks: Sequence[_Task], data: Data, case: CaseData) -> tuple[TrainingStep, ...]:
        """Return the training stages of a case, their own images opened."""
        steps = []
        for task in tasks:
            of = task.train_on
            images = None if of is None else data.selections.images(task.node, of.selection, "train")
            held = () if case.holdout is None else (case.holdout,)
            for tested in (*held, case.test, *case.shifted, *(ood for _, ood in case.ood)):
                if images is not None and (shared := images.opened.shared_with(tested.opened)):
                    pair = f"'{images.name}' shares {shared} images with '{tested.name}'"
                    message = f"{pair}; what is trained on must neither measure nor set the threshold"
                    self.reader.wrong(task.node, message)
            classes = len((images or case.train).opened.classes)
            if classes < task.task.least_classes:
                needed = f"pretext '{task.task.name}' needs at least {task.task.least_classes} classes"
                trained_on = "the ID set" if images is None else f"'{images.name}'"
                self.reader.wrong(task.node, f"{needed}, {trained_on} has {classes}")
            steps.append(TrainingStep(task.task, images))
        return tuple(steps)

    def scorers(self, node: LocatedValue) -> list[tuple[LocatedValue, str, Scorer]]:
        scorers: list[tuple[LocatedValue, str, Scorer]] = []
        for item in self.reader.items(node, "'scorers'"):
            scorer = None if item.value is None else self.plugin("scorer", item, ("name",))
            if not isinstance(scorer, Scorer):
                continue
            given = item.value.get("name") if isinstance(item.value, dict) else None
            name = self.reader.value(given, str, "'name'", "") if given is not None else label(scorer)
            if name in [other for _, other, _ in scorers]:
                self.reader.wrong(item, f"two scorers are called '{name}'; tell them apart by 'name:'")
            scorers.append((item, name, scorer))
        if node.value == []:
            self.reader.wrong(node, "'scorers' names no scorer")
        return scorers

    def check_together(
        self, steps: Sequence[TrainingStep], scorers: NamedScorers, case: CaseData, settings: Settings
    ) -> None:
        """Note unmet needs between the parts of a recipe."""
        missing = {}
        if steps and not steps[-1].trains_head:
            why = "trains no head" if not steps[-1].task.trains_head else "was not trained on the ID classes"
            missing["logits"] = f", but pretext '{steps[-1].task.name}' {why}"
        if case.holdout is None:
            missing["held_out"] = ", but 'holdout' is 0"
        if not case.known:
            missing["known_ood"] = "; name them under 'known' in 'data', or use the protocol few-shot"
        for node, name, scorer in scorers:
            for unmet in unmet_needs(scorer, missing):
                self.reader.wrong(node, f"scorer '{name}' needs {unmet}")
        if settings.fit_images == "augmented" and not steps:
            place = scorers[0][0] if scorers else LocatedValue(None, "the recipe")
            self.reader.wrong(place, "'fit_images: augmented' needs a training stage, whose augmentation it is")


def _notes(
    cases: Sequence[tuple[CaseData, Sequence[TrainingStep]]], scorers: NamedScorers, view: EvaluationView
) -> Iterator[str]:
    """Yield notes on classes seen before they measure as OOD, on images cut off, and on large scorers."""
    seen: dict[str, set[str]] = {}
    for case, steps in cases:
        for step in steps:
            for _, outside in case.ood:
                if step.images is not None:
                    names = set(step.images.opened.classes) & set(outside.opened.classes)
                    seen.setdefault(f"'{step.task.name}' on '{step.images}'", set()).update(names)
    for stage, names in seen.items():
        if names:
            yield f"{stage} has seen classes that measure as OOD: {listed(sorted(names))}"
    for case, _ in cases[:1]:  # which stands for all
        if (share := cut_away(case.train.opened.sizes(), view)) > MUCH:
            yield (
                f"{case.train}: the central square leaves out {share:.0%} of the area of the images, which are not "
                "square; 'evaluation: {squash: true}' in 'data' resizes them whole"
            )
    classes = max((len(case.train.opened.classes) for case, _ in cases), default=0)
    for _, name, scorer in scorers:
        if (size := sum(part.memory(classes, USUAL_DIMENSIONS) for part in scorer.parts())) > GIB:
            yield (
                f"scorer '{name}' takes at least {size / GIB:.1f} GiB of memory for {classes} classes, if embeddings "
                f"have {USUAL_DIMENSIONS} dimensions, and with the square of these"
            )

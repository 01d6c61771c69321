"""Reads the sections of a recipe - data, backbone, training, scorers - into plugin objects and opened data sets.

Everything wrong is noted in the reader with its line; what can still be read is, so that all mistakes come at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ood_core.data.open_sources import SourcePool
from ood_core.data.selection import MUCH, cut_away
from ood_core.errors import listed, suggest
from ood_core.interfaces import Backbone, EvaluationView, Plugin, PretextTask, Scorer
from ood_core.interfaces.checks import unmet_needs
from ood_core.plan.data_section import Data
from ood_core.plan.leakage import DataSets
from ood_core.plan.selections import Selected, Settings, described
from ood_core.recipe.build import Reader, describe, label, with_nested
from ood_core.recipe.read import Recipe
from ood_core.recipe.yaml import Node
from ood_core.records.stages import Images
from ood_core.runtime.memory import GIB

SECTIONS = ("data", "backbone", "training", "scorers")
OTHERS = ("protocol", "benchmark", "paper")
"""Sections that a recipe may leave out; `paper` reads the last."""

BENCHMARK_KEYS = ("title", "paper", "source", "licence", "splits", "notes")

USUAL_DIMENSIONS = 768
"""Of the embeddings of a ViT-B: a plan does not know those of the network, which is not built yet."""

TRAIN_ON = "train_on"
"""Key of a training stage: what it is trained on, where that is not the ID training set."""

ALL_CLASSES = "all-classes"
"""What may stand behind it: the ID set as the recipe names it, before a protocol takes classes out of it."""


@dataclass(frozen=True)
class Step:
    """One training stage of an experiment.

    Attributes:
        task: What the network is asked to do.
        images: What it is trained on; None is the ID training set of the case.
    """

    task: PretextTask
    images: Images | None

    @property
    def trains_head(self) -> bool:
        """Whether the classifier tells the ID classes apart afterwards."""
        return self.task.trains_head and self.images is None


@dataclass(frozen=True)
class Experiment:
    """One case of a recipe with everything resolved.

    Attributes:
        recipe: Where it comes from.
        data: Its image sets.
        settings: What holds for all cases.
        view: How images are shown when they are evaluated.
        backbone: What is trained.
        steps: The training stages in order.
        scorers: Names in the report, and scorers.
        resolved: All of it in plain values, for the report.
        checks: Plugin objects with their places in the recipe.
        notes: What makes the numbers hard to compare.
        averaged: Whether the mean over the protocol's cases means something.
    """

    recipe: Recipe
    data: DataSets
    settings: Settings
    view: EvaluationView
    backbone: Backbone
    steps: tuple[Step, ...]
    scorers: tuple[tuple[str, Scorer], ...]
    resolved: dict[str, Any]
    checks: tuple[tuple[str, Plugin], ...]
    notes: tuple[str, ...]
    averaged: bool


def read(recipe: Recipe, reader: Reader, library: SourcePool) -> list[Experiment]:
    """Return the experiments, one for each case of the protocol; none if the reader has noted any mistake."""
    sections = reader.keys(recipe.root, "a recipe", (*SECTIONS, *OTHERS))
    for name in SECTIONS:
        if name not in sections:
            reader.wrong(recipe.root, f"the recipe needs the section '{name}'")
    reading = _Reading(reader)
    benchmark = reading.benchmark(sections.get("benchmark"))
    data = Data(reader, library, sections["data"], sections.get("protocol")) if "data" in sections else None
    backbone = (
        cast(Backbone | None, reading.plugin("backbone", sections["backbone"])) if "backbone" in sections else None
    )
    tasks = reading.tasks(sections["training"], data) if "training" in sections else []
    scorers = reading.scorers(sections["scorers"]) if "scorers" in sections else []
    if data is None:
        return []
    cases = [(case, reading.steps(tasks, data, case)) for case in data.cases()]
    for case, steps in cases:
        reading.check_together(steps, scorers, case, data.settings)
    if reader.errors or backbone is None:
        return []
    reading.checks += data.selections.sources
    read = _Read(recipe, data, backbone, tasks, scorers)
    paper = {"paper": sections["paper"].plain()} if "paper" in sections else {}  # read again where a lock is run
    resolved = benchmark | paper | read.resolved()
    notes = (*data.selections.notes, *_seen_before(cases), *_cut(cases, read.view), *_large(cases, scorers))
    return [read.experiment(case, steps, resolved, tuple(reading.checks), notes) for case, steps in cases]


@dataclass(frozen=True)
class _Read:
    """A recipe without a mistake."""

    recipe: Recipe
    data: Data
    backbone: Backbone
    tasks: Sequence[_Task]
    scorers: Sequence[tuple[Node, str, Scorer]]

    @property
    def view(self) -> EvaluationView:
        return self.data.settings.evaluation or self.backbone.evaluation_view()

    def resolved(self) -> dict[str, Any]:
        protocol = self.data.protocol
        return {
            "seed": self.recipe.seed,
            "protocol": {"use": protocol.name} | vars(protocol),
            "data": self.data.resolved() | {"evaluation": vars(self.view)},
            "backbone": describe(self.backbone),
            "training": [task.described() for task in self.tasks],
            "scorers": [{"name": name} | describe(scorer) for _, name, scorer in self.scorers],
        }

    def experiment(
        self,
        case: DataSets,
        steps: tuple[Step, ...],
        resolved: dict[str, Any],
        checks: tuple[tuple[str, Plugin], ...],
        notes: tuple[str, ...],
    ) -> Experiment:
        return Experiment(
            recipe=self.recipe,
            data=case,
            settings=self.data.settings,
            view=self.view,
            backbone=self.backbone,
            steps=steps,
            scorers=tuple((name, scorer) for _, name, scorer in self.scorers),
            resolved=resolved,
            checks=checks,
            notes=notes,
            averaged=self.data.protocol.averaged,
        )


@dataclass(frozen=True)
class _Task:
    node: Node
    task: PretextTask
    train_on: Selected | None
    on_id_set: bool
    """Whether that is the ID set as the recipe names it."""

    def described(self) -> dict[str, Any]:
        if self.train_on is None:
            return describe(self.task)
        return describe(self.task) | {TRAIN_ON: ALL_CLASSES if self.on_id_set else described(self.train_on.selection)}


class _Reading:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.checks: list[tuple[str, Plugin]] = []

    def plugin(self, kind: str, node: Node, reserved: Sequence[str] = ()) -> Plugin | None:
        plugin = self.reader.plugin(kind, node, reserved)
        if plugin is not None:
            self.checks += [(node.place, part) for part in with_nested(plugin)]
        return plugin

    def _items(self, node: Node, what: str) -> list[Node]:
        if isinstance(node.value, list):
            return [item for item in node.value if item.value is not None]  # a place that variants may fill
        self.reader.wrong(node, f"{what} must be a list")
        return []

    def benchmark(self, node: Node | None) -> dict[str, Any]:
        """Return what a recipe says of the benchmark that it is."""
        if node is None:
            return {}
        entries = self.reader.keys(node, "'benchmark'", BENCHMARK_KEYS)
        return {"benchmark": {key: self.reader.value(entry, str, f"'{key}'", "") for key, entry in entries.items()}}

    # ---------------------------------------------------------------------------------------------------- training

    def tasks(self, node: Node, data: Data | None) -> list[_Task]:
        tasks = []
        for item in self._items(node, "'training'"):
            task = cast(PretextTask | None, self.plugin("pretext", item, (TRAIN_ON,)))
            if task is None:
                continue
            if task.warmup_epochs > task.epochs:
                self.reader.wrong(item, f"'warmup_epochs' {task.warmup_epochs:g} is more than 'epochs' {task.epochs}")
            if task.auxiliary_images() and data is not None and data.auxiliary is None:
                self.reader.wrong(item, f"pretext '{task.name}' needs an auxiliary set; name it under 'auxiliary'")
            train_on = self._train_on(item, data)
            tasks.append(_Task(item, task, train_on, data is not None and train_on is data.inside))
        return tasks

    def _train_on(self, item: Node, data: Data | None) -> Selected | None:
        node = item.value.get(TRAIN_ON) if isinstance(item.value, dict) else None
        if node is None or data is None:
            return None
        if node.value == ALL_CLASSES:
            return data.inside
        sources = self.reader.plugins.classes("dataset")
        if isinstance(node.value, str) and node.value not in sources:
            self.reader.wrong(node, f"no dataset '{node.value}'.{suggest(node.value, [ALL_CLASSES, *sources])}")
            return None
        return data.selections.read(node)

    def steps(self, tasks: Sequence[_Task], data: Data, case: DataSets) -> tuple[Step, ...]:
        """Return the training stages of a case, their own images opened."""
        steps = []
        for task in tasks:
            images = None
            if task.train_on is not None:
                images = data.selections.images(task.node, task.train_on.selection, "train")
                self._refuse_measured(task.node, images, case)
            known = images or case.train
            classes = len(known.opened.classes)
            if classes < task.task.least_classes:
                needed = f"pretext '{task.task.name}' needs at least {task.task.least_classes} classes"
                what = "the ID set" if images is None else f"'{images.name}'"
                self.reader.wrong(task.node, f"{needed}, {what} has {classes}")
            steps.append(Step(task.task, images))
        return tuple(steps)

    def _refuse_measured(self, node: Node, images: Images | None, case: DataSets) -> None:
        held = () if case.holdout is None else (case.holdout,)
        for tested in (*held, case.test, *case.shifted, *(of for _, of in case.ood)):
            if images is not None and (shared := images.opened.shared_with(tested.opened)):
                what = f"'{images.name}' shares {shared} images with '{tested.name}'"
                self.reader.wrong(node, f"{what}; what is trained on must neither measure nor set the threshold")

    # ----------------------------------------------------------------------------------------------------- scorers

    def scorers(self, node: Node) -> list[tuple[Node, str, Scorer]]:
        scorers: list[tuple[Node, str, Scorer]] = []
        for item in self._items(node, "'scorers'"):
            scorer = cast(Scorer | None, self.plugin("scorer", item, ("name",)))
            if scorer is None:
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
        self, steps: Sequence[Step], scorers: Sequence[tuple[Node, str, Scorer]], case: DataSets, settings: Settings
    ) -> None:
        """Note what the parts of a recipe need of each other and do not get."""
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
            place = scorers[0][0] if scorers else Node(None, "the recipe")
            self.reader.wrong(place, "'fit_images: augmented' needs a training stage, whose augmentation it is")


def _cut(cases: Sequence[tuple[DataSets, Sequence[Step]]], view: EvaluationView) -> list[str]:
    """Return a note where the central square leaves much of the ID images out; the first case stands for all."""
    for case, _ in cases[:1]:
        if (share := cut_away(case.train.opened.sizes(), view)) > MUCH:
            return [
                f"{case.train}: the central square leaves out {share:.0%} of the area of the images, which are not "
                "square; 'evaluation: {squash: true}' in 'data' resizes them whole"
            ]
    return []


def _large(cases: Sequence[tuple[DataSets, Sequence[Step]]], scorers: Sequence[tuple[Node, str, Scorer]]) -> list[str]:
    """Return notes on scorers that take much memory if embeddings are as large as a ViT-B's."""
    classes = max((len(case.train.opened.classes) for case, _ in cases), default=0)
    sizes = {
        name: sum(part.memory(classes, USUAL_DIMENSIONS) for part in scorer.parts()) for _, name, scorer in scorers
    }
    return [
        f"scorer '{name}' takes at least {size / GIB:.1f} GiB of memory for {classes} classes, if embeddings have "
        f"{USUAL_DIMENSIONS} dimensions, and with the square of these"
        for name, size in sizes.items()
        if size > GIB
    ]


def _seen_before(cases: Sequence[tuple[DataSets, Sequence[Step]]]) -> list[str]:
    """Return notes on training stages that were shown images of classes that measure as OOD, in whatever case."""
    seen: dict[str, set[str]] = {}
    for case, steps in cases:
        for step in steps:
            for _, outside in case.ood:
                if step.images is not None:
                    names = set(step.images.opened.classes) & set(outside.opened.classes)
                    seen.setdefault(f"'{step.task.name}' on '{step.images}'", set()).update(names)
    return [
        f"{stage} has seen classes that measure as OOD: {listed(sorted(names))}"
        for stage, names in seen.items()
        if names
    ]

"""Reads the sections of a recipe - data, backbone, training, scorers - into plugin objects and opened data sets.

Everything wrong is noted in the reader with its line; what can still be read is, so that all mistakes come at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast

from annotated_types import Ge, Lt

from ood_core.data import Part, SelectedImages, Selection
from ood_core.errors import OODError
from ood_core.interfaces import Backbone, DatasetSource, Plugin, PositiveInt, PretextTask, Scorer
from ood_core.options import Reader, describe, digest, label, with_nested
from ood_core.recipe import Node, Recipe
from ood_core.stages import Images

SECTIONS = ("data", "backbone", "training", "scorers")
DATA_KEYS = ("image_size", "holdout", "id", "known", "near", "far")
SELECTION_KEYS = ("name", "classes", "limit")
GROUPS = ("near", "far")
OUTSIDE = ("known", *GROUPS)
HOLDOUT = 0.1
"""Share of the ID training images kept back for the threshold where a recipe does not say."""

Opened: TypeAlias = dict[str, SelectedImages]
"""Data sets opened so far, so that variants and seeds share them and their decoded images."""


@dataclass(frozen=True)
class DataSets:
    """The data of an experiment: the ID set in its parts, OOD sets that scorers may know, and those that measure."""

    image_size: int
    train: Images
    holdout: Images | None
    test: Images
    known: tuple[Images, ...]
    ood: tuple[tuple[str, Images], ...]


@dataclass(frozen=True)
class Experiment:
    """A recipe with everything resolved.

    Attributes:
        recipe: Where it comes from.
        data: Its image sets.
        backbone: What is trained.
        tasks: The pretext tasks in order.
        scorers: Names in the report, and scorers.
        resolved: All of it in plain values, for the report.
        checks: Plugin objects with their places in the recipe.
    """

    recipe: Recipe
    data: DataSets
    backbone: Backbone
    tasks: tuple[PretextTask, ...]
    scorers: tuple[tuple[str, Scorer], ...]
    resolved: dict[str, Any]
    checks: tuple[tuple[str, Plugin], ...]


def read(recipe: Recipe, reader: Reader, opened: Opened) -> Experiment | None:
    """Return the experiment; None if the reader has noted any mistake."""
    sections = reader.keys(recipe.root, "a recipe", SECTIONS)
    for name in SECTIONS:
        if name not in sections:
            reader.wrong(recipe.root, f"the recipe needs the section '{name}'")
    reading = _Reading(reader, opened)
    data = reading.data(sections["data"]) if "data" in sections else None
    backbone = (
        cast(Backbone | None, reading.plugin("backbone", sections["backbone"])) if "backbone" in sections else None
    )
    tasks = reading.tasks(sections["training"], data) if "training" in sections else []
    scorers = reading.scorers(sections["scorers"], tasks, data) if "scorers" in sections else []
    if reader.errors or data is None or backbone is None:
        return None
    resolved = {
        "seed": recipe.seed,
        "data": reading.resolved_data,
        "backbone": describe(backbone),
        "training": [describe(task) for task in tasks],
        "scorers": [{"name": name} | describe(scorer) for name, scorer in scorers],
    }
    return Experiment(recipe, data, backbone, tuple(tasks), tuple(scorers), resolved, tuple(reading.checks))


class _Reading:
    def __init__(self, reader: Reader, opened: Opened) -> None:
        self.reader = reader
        self.opened = opened
        self.checks: list[tuple[str, Plugin]] = []
        self.resolved_data: dict[str, Any] = {}

    def plugin(self, kind: str, node: Node, reserved: Sequence[str] = ()) -> Plugin | None:
        plugin = self.reader.plugin(kind, node, reserved)
        if plugin is not None:
            self.checks += [(node.place, part) for part in with_nested(plugin)]
        return plugin

    def _items(self, node: Node, what: str) -> list[Node]:
        if isinstance(node.value, list):
            return node.value
        self.reader.wrong(node, f"{what} must be a list")
        return []

    # ----------------------------------------------------------------------------------------------------- data

    def data(self, node: Node) -> DataSets | None:
        entries = self.reader.keys(node, "'data'", DATA_KEYS)
        for name in ("image_size", "id"):
            if name not in entries:
                self.reader.wrong(node, f"'data' needs '{name}'")
        if not {"near", "far"} & entries.keys():
            self.reader.wrong(node, "'data' needs 'near' or 'far', the sets that are not in-distribution")
        if not {"image_size", "id"} <= entries.keys():
            return None
        size = self.reader.value(entries["image_size"], PositiveInt, "'image_size'", 1)
        share = entries.get("holdout", Node(HOLDOUT, node.place))
        holdout = self.reader.value(share, Annotated[float, Ge(0), Lt(1)], "'holdout'", 0.0)
        inside = self._selection(entries["id"], holdout)
        if inside is None:
            return None
        self.resolved_data = {"image_size": size, "holdout": holdout, "id": _describe(inside)}
        self.resolved_data |= {group: [] for group in OUTSIDE if group in entries or group in GROUPS}
        return self._sets(entries, inside, size)

    def _sets(self, entries: dict[str, Node], inside: Selection, size: int) -> DataSets | None:
        parts: tuple[Part, ...] = ("train", "holdout", "test") if inside.holdout > 0 else ("train", "test")
        own = {part: self._images(entries["id"], inside, part) for part in parts}
        train, test = own["train"], own["test"]
        ood = [(group, *pair) for group in GROUPS for pair in self._outside(entries, group, inside, test)]
        known = self._outside(entries, "known", inside, train)
        if train is None or test is None:
            return None
        if train.opened.source == test.opened.source:
            message = f"ID set '{inside.name}' gives the same images for training and test; it needs a split of each"
            self.reader.wrong(entries["id"], message)
        if not ood and not self.reader.errors:
            self.reader.wrong(entries["id"], "neither 'near' nor 'far' names an OOD set")
        self._refuse_repeated(known, [(node, images) for _, node, images in ood])
        groups = tuple((group, images) for group, _, images in ood)
        return DataSets(size, train, own.get("holdout"), test, tuple(images for _, images in known), groups)

    def _refuse_repeated(self, known: Sequence[tuple[Node, Images]], ood: Sequence[tuple[Node, Images]]) -> None:
        names: set[str] = set()
        for node, images in ood:
            if images.name in names:
                self.reader.wrong(node, f"two OOD sets are called '{images.name}'; tell them apart by 'name:'")
            names.add(images.name)
        for node, images in known:
            for _, tested in ood:
                if shared := images.opened.shared_with(tested.opened):
                    message = f"known OOD set '{images.name}' shares {shared} images with OOD set '{tested.name}'"
                    self.reader.wrong(node, message)

    def _outside(
        self, entries: dict[str, Node], group: str, inside: Selection, own: Images | None
    ) -> list[tuple[Node, Images]]:
        nodes = self._items(entries[group], f"'{group}'") if group in entries else ()
        return [(node, images) for node in nodes if (images := self._ood_images(node, group, inside, own)) is not None]

    def _ood_images(self, node: Node, group: str, inside: Selection, own: Images | None) -> Images | None:
        """Return an OOD set; having images of the ID classes is a mistake."""
        outside = self._selection(node, 0.0)
        images = self._images(node, outside, "known" if group == "known" else "test") if outside is not None else None
        if outside is None or images is None or own is None:
            return None
        self.resolved_data[group].append(_describe(outside))
        shared = [name for name in images.opened.classes if name in own.opened.classes]
        if images.opened.source == own.opened.source and shared:
            self.reader.wrong(node, f"OOD set '{outside.name}' shares classes with the ID set: {', '.join(shared)}")
        if outside.name == inside.name:
            self.reader.wrong(node, f"OOD set and ID set are both called '{inside.name}'; tell them apart by 'name:'")
        return images

    def _selection(self, node: Node, holdout: float) -> Selection | None:
        source = cast(DatasetSource | None, self.plugin("dataset", node, SELECTION_KEYS))
        if source is None:
            return None
        entries = node.value if isinstance(node.value, dict) else {}
        name = self.reader.value(entries["name"], str, "'name'") if "name" in entries else None
        limit = self.reader.value(entries["limit"], PositiveInt, "'limit'") if "limit" in entries else None
        classes = self._class_names(entries["classes"]) if "classes" in entries else None
        return Selection(name=name or label(source), source=source, classes=classes, limit=limit, holdout=holdout)

    def _class_names(self, node: Node) -> tuple[str, ...] | None:
        names = self.reader.value(node, tuple[str | int, ...], "'classes'", None)
        if names is None:
            return None
        if not names:
            self.reader.wrong(node, "'classes' names no class")
            return None
        if len(set(map(str, names))) < len(names):
            self.reader.wrong(node, "'classes' names a class twice")
        return tuple(map(str, names))

    def _images(self, node: Node, selection: Selection, part: Part) -> Images | None:
        key = digest([self.reader.plugins.version(selection.source), _describe(selection), selection.holdout, part])
        try:
            if key not in self.opened:
                self.opened[key] = selection.open(part)
        except OODError as error:
            self.reader.wrong(node, str(error))
            return None
        return Images(selection.name, part, self.opened[key])

    # ----------------------------------------------------------------------------------------- training, scorers

    def tasks(self, node: Node, data: DataSets | None) -> list[PretextTask]:
        tasks = []
        classes = None if data is None else len(data.train.opened.classes)
        for item in self._items(node, "'training'"):
            task = cast(PretextTask | None, self.plugin("pretext", item))
            if task is None:
                continue
            if task.warmup_epochs > task.epochs:
                self.reader.wrong(item, f"'warmup_epochs' {task.warmup_epochs:g} is more than 'epochs' {task.epochs}")
            if classes is not None and classes < task.least_classes:
                needed = f"pretext '{task.name}' needs at least {task.least_classes} classes"
                self.reader.wrong(item, f"{needed}, the ID set has {classes}")
            tasks.append(task)
        return tasks

    def scorers(self, node: Node, tasks: Sequence[PretextTask], data: DataSets | None) -> list[tuple[str, Scorer]]:
        scorers: list[tuple[str, Scorer]] = []
        for item in self._items(node, "'scorers'"):
            scorer = cast(Scorer | None, self.plugin("scorer", item, ("name",)))
            if scorer is None:
                continue
            given = item.value.get("name") if isinstance(item.value, dict) else None
            name = self.reader.value(given, str, "'name'", "") if given is not None else label(scorer)
            if name in [other for other, _ in scorers]:
                self.reader.wrong(item, f"two scorers are called '{name}'; tell them apart by 'name:'")
            for missing in _missing(scorer, tasks, data):
                self.reader.wrong(item, f"scorer '{name}' needs {missing}")
            scorers.append((name, scorer))
        if node.value == []:
            self.reader.wrong(node, "'scorers' names no scorer")
        return scorers


def _missing(scorer: Scorer, tasks: Sequence[PretextTask], data: DataSets | None) -> list[str]:
    """Return what a scorer needs and this recipe does not give, in words."""
    needs, missing = scorer.all_needs(), []
    if tasks and not tasks[-1].trains_head and needs & {"logits", "head"}:
        missing.append(f"logits, but pretext '{tasks[-1].name}' trains no head")
    if data is not None and data.holdout is None and "held_out" in needs:
        missing.append("held-out ID images, but 'holdout' is 0")
    if data is not None and not data.known and "known_ood" in needs:
        missing.append("known OOD images; name them under 'known' in 'data'")
    return missing


def _describe(selection: Selection) -> dict[str, Any]:
    chosen = {"name": selection.name, "classes": selection.classes, "limit": selection.limit}
    return describe(selection.source) | {key: value for key, value in chosen.items() if value is not None}

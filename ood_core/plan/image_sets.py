"""Image sets of a recipe: reads and opens each, and checks that no image has two roles in a case."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt

from ood_core.data.open_sources import SourcePool
from ood_core.data.selection import Groups, Part, Selection
from ood_core.errors import OODError, format_image_count, listed
from ood_core.evaluation import TPR
from ood_core.evaluation.calibration import highest_tpr, least_images
from ood_core.interfaces import DatasetSource, EvaluationView, NonNegativeInt, PositiveInt, Split
from ood_core.plan import superclasses
from ood_core.plan.smoke import limit_images
from ood_core.recipe.build import RecipeReader, describe, label
from ood_core.recipe.yaml import LocatedValue, parse
from ood_core.records.stages import Images

_CHOICES = ("split", "superclasses", "classes", "without", "limit", "draw")
OTHERWISE = "otherwise"
"""Key of a selection: another source, where the first one cannot be opened."""

SELECTION_KEYS = ("name", *_CHOICES, "expected", OTHERWISE)


HOLDOUT = 0.1
"""Default share of the ID training images kept back for the threshold."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of `data` that are no sets of images, with their defaults; recipes/README.md explains them."""

    image_size: PositiveInt = 1
    evaluation: EvaluationView | None = None
    root: Path = Path()
    holdout: Annotated[float, Ge(0), Lt(1)] = HOLDOUT
    fit_images: Literal["plain", "augmented"] = "plain"
    unreadable: Literal["stop", "skip"] = "stop"
    overlap: Literal["count", "remove"] = "count"
    missing_files: Literal["stop", "leave-out"] = "stop"


@dataclass(frozen=True)
class SelectedSource:
    """A selection, where it stands in the recipe, and how many images it should have."""

    node: LocatedValue
    selection: Selection
    expected: Mapping[Split, int]


class SelectionReader:
    """Reads selections, and opens them; mistakes go to the reader."""

    def __init__(self, reader: RecipeReader, pool: SourcePool, settings: Settings, smoke: bool = False) -> None:
        self.reader, self.pool, self.settings, self.smoke = reader, pool, settings, smoke
        self.notes: list[str] = []
        self.sources: list[tuple[str, DatasetSource]] = []

    def read(self, node: LocatedValue, holdout: float = 0.0) -> SelectedSource | None:
        """Return the images selected from one source; None after a mistake."""
        whole = self._source(node, SELECTION_KEYS)
        if whole is None:
            return None
        entries = node.value if isinstance(node.value, dict) else {}
        selection = replace(
            whole,
            name=self._value(entries, "name", str, whole.name),
            split=self._value(entries, "split", Split, None),
            superclasses=self._superclasses(entries["superclasses"]) if "superclasses" in entries else None,
            classes=self._class_names(entries, "classes"),
            without=self._class_names(entries, "without") or (),
            limit=self._value(entries, "limit", PositiveInt, None),
            draw=self._value(entries, "draw", NonNegativeInt, None),
            holdout=holdout,
            skip_broken=self.settings.unreadable == "skip",
        )
        if not whole.candidates and whole.otherwise is None and self.settings.missing_files == "stop":
            self.sources.append((node.place, whole.source))  # to be checked; of others it is no mistake to be missing
        selected = SelectedSource(node, selection, self._value(entries, "expected", dict[Split, PositiveInt], {}))
        return SelectedSource(node, limit_images(selection), {}) if self.smoke else selected

    def _value(self, entries: Mapping[str, LocatedValue], key: str, hint: Any, default: Any) -> Any:
        return self.reader.value(entries[key], hint, f"'{key}'", default) if key in entries else default

    def _source(self, node: LocatedValue, reserved: Collection[str]) -> Selection | None:
        """Return all images of a source, with the installed sources that it is a name for, and its fallback."""
        source = self.reader.plugin("dataset", node, reserved)
        if not isinstance(source, DatasetSource):
            return None
        paths = {field.name: getattr(source, field.name) for field in fields(source)}
        below = {name: self.settings.root / path for name, path in paths.items() if isinstance(path, Path)}
        source = replace(source, **below)
        alternatives: Sequence[Mapping[str, Any]] = ()
        try:
            alternatives = source.alternatives()
        except OODError as error:
            self.reader.wrong(node, str(error))
        reader = RecipeReader(self.reader.plugins)  # those that are not installed are no mistakes
        texts = [json.dumps(alternative, default=str, ensure_ascii=False) for alternative in alternatives]
        found = [reader.plugin("dataset", parse(text, node.place, line_numbers=False)) for text in texts]
        other = node.value.get(OTHERWISE) if isinstance(node.value, dict) else None
        return Selection(
            name=_own_name(source),
            source=source,
            candidates=tuple(made for made in found if isinstance(made, DatasetSource)),
            otherwise=None if other is None else self._source(other, (OTHERWISE,)),
        )

    def _superclasses(self, node: LocatedValue) -> Groups | None:
        if isinstance(node.value, str):
            try:
                return tuple(superclasses.load(node.value).items())
            except OODError as error:
                self.reader.wrong(node, str(error))
                return None
        groups = self.reader.value(node, dict[str, tuple[str | int, ...]], "'superclasses'", {})
        every = [str(one) for classes in groups.values() for one in classes]
        for twice in {one for one in every if every.count(one) > 1}:
            self.reader.wrong(node, f"'superclasses' has the class '{twice}' twice")
        return tuple((name, tuple(map(str, classes))) for name, classes in groups.items())

    def _class_names(self, entries: Mapping[str, LocatedValue], key: str) -> tuple[str, ...] | None:
        names = self._value(entries, key, tuple[str | int, ...], None)
        if names is not None and not names:
            self.reader.wrong(entries[key], f"'{key}' names no class")
        elif names is not None and len(set(map(str, names))) < len(names):
            self.reader.wrong(entries[key], f"'{key}' names a class twice")
        return tuple(map(str, names)) if names else None

    def images(self, node: LocatedValue, selection: Selection, part: Part) -> Images | None:
        """Return the opened images; None after a mistake."""
        try:
            opened = selection.open(part, self.pool)
            if selection.otherwise is not None and selection.stands_in(part, self.pool):
                self.notes.append(f"{selection.name}: '{selection.otherwise.name}' stands in for what is missing")
            self.notes.extend(note for note in opened.notes if note not in self.notes)
            return Images(selection.name, part, opened)
        except OODError as error:
            self.reader.wrong(node, str(error))
            return None

    def is_there(self, selected: SelectedSource, part: Part) -> bool:
        """Return whether the files are there; leaving a set out where they are not is noted for the report."""
        if self.settings.missing_files == "stop":
            return True
        try:
            selected.selection.pictures(part, self.pool)
        except OODError as error:
            self.notes.append(f"left out: {selected.selection.name}: {error}")
            return False
        return True

    def note_size(self, selected: SelectedSource, split: Split, found: int) -> None:
        """Note where there are not as many images as the benchmark says."""
        wanted = selected.expected.get(split, found)
        if wanted != found:
            self.notes.append(
                f"{selected.selection.name}: {found} images in the {split} split, the benchmark has {wanted}; "
                "numbers do not compare"
            )


def described(selection: Selection) -> dict[str, Any]:
    """Return a selection in plain values as a recipe writes it, without options at their default."""
    chosen: dict[str, Any] = {"name": selection.name}
    for field in fields(Selection):
        value = getattr(selection, field.name)
        if field.name in _CHOICES and value != field.default:
            chosen[field.name] = dict(value) if field.name == "superclasses" else value
    return _described_source(selection) | chosen


def _described_source(selection: Selection) -> dict[str, Any]:
    other = selection.otherwise
    return describe(selection.source) | ({} if other is None else {OTHERWISE: _described_source(other)})


def _own_name(source: DatasetSource) -> str:
    """Return the name of a set without `name`: of the data set, the file or folder, or else the source."""
    for option in ("dataset", "path", "test", "train"):
        if value := getattr(source, option, None):
            if not isinstance(value, Path):
                return str(value)
            # abspath: "." and ".." have no name, and a link keeps its own
            return Path(os.path.abspath(value)).stem or label(source)  # noqa: PTH100
    return label(source)


# ------------------------------------------------------------------------------------------- the sets of one case


@dataclass(frozen=True, kw_only=True)
class CaseData:
    """The data of one case: the ID set in its parts, OOD sets that may be known, and those that measure.

    Attributes:
        case: Its name; empty if the protocol has only one.
        draw: Number of its random draw.
        known: OOD images that scorers may be fitted to.
        auxiliary: OOD images that networks may be trained on.
        shifted: Covariate-shifted ID images; OOD is measured once without and once with them as ID.
        ood: Groups and OOD sets that measure.
    """

    case: str
    draw: int
    train: Images
    holdout: Images | None
    test: Images
    known: tuple[Images, ...]
    auxiliary: Images | None
    shifted: tuple[Images, ...]
    ood: tuple[tuple[str, Images], ...]

    def calibration_images(self) -> int:
        """Return the number of held-out ID images."""
        return 0 if self.holdout is None else len(self.holdout.opened)


def mistakes(sets: CaseData) -> Iterator[tuple[Images, str]]:
    """Yield the mistakes, each with its set."""
    train, test, name = sets.train.opened, sets.test.opened, sets.test.name
    if train.source == test.source:
        notes = "".join(f"; {note}" for note in test.notes)  # such as what the source could take splits from
        yield sets.test, f"ID set '{name}' gives the same images for training and test; it needs a split of each{notes}"
    if train.classes != test.classes:
        differ = next((pair for pair in zip(train.classes, test.classes, strict=False) if len(set(pair)) > 1), None)
        first = f"'{differ[0]}' and '{differ[1]}'" if differ else f"{len(train.classes)} and {len(test.classes)}"
        yield sets.test, f"ID set '{name}' has other classes for training than for test: {first}"
    # images of the ID classes, out of the ID set itself, are not OOD
    for images in (*(images for _, images in sets.ood), *sets.known):
        common = [name for name in images.opened.classes if name in test.classes]
        if common and images.opened.source in (test.source, train.source):
            yield images, f"OOD set '{images.name}' shares classes with the ID set: {listed(common)}"
    fitted = [("ID training set", sets.train), *(("known OOD set", images) for images in sets.known)]
    fitted += [("held-out ID set", sets.holdout)] if sets.holdout is not None else []
    fitted += [("auxiliary set", sets.auxiliary)] if sets.auxiliary is not None else []
    measuring = [("OOD set", images) for _, images in sets.ood]
    measuring += [("shifted ID set", images) for images in sets.shifted]
    # test images that the source itself gives for training, too, are a mistake of their own
    measuring += [("ID test set", sets.test)] if train.source != test.source else []
    for role, images in fitted:
        for kind, tested in measuring:
            if shared := images.opened.shared_with(tested.opened):
                pair = f"{role} '{images.name}' shares {shared} images with {kind} '{tested.name}'"
                yield images, f"{pair}; what is fitted to must not measure"
    if sets.auxiliary is not None and (shared := sets.auxiliary.opened.shared_with(sets.train.opened)):
        yield sets.auxiliary, f"auxiliary set '{sets.auxiliary.name}' shares {shared} images with the ID training set"
    for images in sets.shifted:
        if shared := images.opened.shared_with(sets.test.opened):
            yield images, f"shifted ID set '{images.name}' shares {shared} images with the ID test set"


def gaps(sets: CaseData) -> list[str]:
    """Return a note on ID classes without images for training, and one for test."""
    notes = []
    for part in (sets.train, sets.test):
        counts = np.bincount(part.opened.labels.numpy(), minlength=len(part.opened.classes))
        empty = [part.opened.classes[label] for label in np.flatnonzero(counts == 0)]
        if len(empty) == 1:
            notes.append(f"{part}: no image of the class '{empty[0]}'")
        elif empty:
            notes.append(f"{part}: no image of {len(empty)} classes: {listed([repr(name) for name in empty])}")
    return notes


def calibration_notes(cases: Sequence[CaseData]) -> Iterator[str]:
    """Yield a note where the held-out ID images of a case are too few for `TPR`, with a hold-out that suffices."""
    sets = min(cases, key=CaseData.calibration_images)
    images, least = sets.calibration_images(), least_images(TPR)
    if sets.holdout is None:
        yield "no ID images are held out, so there will be no detector; --set data.holdout=0.2 holds out a fifth"
    elif images < least:
        counts = np.bincount(torch.cat([sets.train.opened.labels, sets.holdout.opened.labels]).numpy())
        enough = (share / 100 for share in range(1, 51) if sum(round(of * share / 100) for of in counts) >= least)
        more = next((f"--set data.holdout={share:g} holds out enough" for share in enough), "it takes more ID images")
        yield (
            f"{sets.holdout}: {format_image_count(images)} can vouch for a TPR of {images}/{images + 1} at most, "
            f"so the detector accepts {highest_tpr(images):.1%} of ID images by default; "
            f"{TPR:.0%} needs {least} images: {more}"
        )

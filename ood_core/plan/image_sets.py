"""Reads what a recipe says of one set of images: a source, and which of its images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from ood_core.data.open_sources import SourcePool
from ood_core.data.selection import Groups, Part, Selection
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, EvaluationView, NonNegativeInt, PositiveInt, Split
from ood_core.plan import superclasses
from ood_core.recipe.build import RecipeReader, describe, label
from ood_core.recipe.yaml import LocatedValue
from ood_core.records.stages import Images

_CHOICES = ("split", "superclasses", "classes", "without", "limit", "draw")
OTHERWISE = "otherwise"
"""Key of a selection: another source, where the first one cannot be opened."""

SELECTION_KEYS = ("name", *_CHOICES, "expected", OTHERWISE)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of `data` that are no sets of images; recipes/README.md explains them."""

    image_size: int
    evaluation: EvaluationView | None
    root: Path
    holdout: float
    fit_images: Literal["plain", "augmented"]
    unreadable: Literal["stop", "skip"]
    overlap: Literal["count", "remove"]
    missing_files: Literal["stop", "leave-out"]


@dataclass(frozen=True)
class SelectedSource:
    """A selection, where it stands in the recipe, and how many images it should have."""

    node: LocatedValue
    selection: Selection
    expected: Mapping[Split, int]


class SelectionReader:
    """Reads selections, and opens them; mistakes go to the reader."""

    def __init__(self, reader: RecipeReader, library: SourcePool, settings: Settings) -> None:
        self.reader, self.library, self.settings = reader, library, settings
        self.notes: list[str] = []
        self.sources: list[tuple[str, DatasetSource]] = []

    def read(self, node: LocatedValue, holdout: float = 0.0) -> SelectedSource | None:
        """Return what is selected from one source; None after a mistake."""
        source = cast(DatasetSource | None, self.reader.plugin("dataset", node, SELECTION_KEYS))
        if source is None:
            return None
        entries = node.value if isinstance(node.value, dict) else {}
        source = _rooted(source, self.settings.root)
        selection = Selection(
            name=self._value(entries, "name", str, _own_name(source)),
            source=source,
            candidates=self._alternatives(source, node),
            otherwise=self._otherwise(node),
            split=self._value(entries, "split", Split, None),
            superclasses=self._superclasses(entries["superclasses"]) if "superclasses" in entries else None,
            classes=self._class_names(entries, "classes"),
            without=self._class_names(entries, "without") or (),
            limit=self._value(entries, "limit", PositiveInt, None),
            draw=self._value(entries, "draw", NonNegativeInt, None),
            holdout=holdout,
            skip_broken=self.settings.unreadable == "skip",
        )
        if not selection.candidates and selection.otherwise is None and self.settings.missing_files == "stop":
            self.sources.append((node.place, source))  # to be checked; of others it is no mistake to be missing
        return SelectedSource(node, selection, self._value(entries, "expected", dict[Split, PositiveInt], {}))

    def _value(self, entries: Mapping[str, LocatedValue], key: str, hint: Any, default: Any) -> Any:
        return self.reader.value(entries[key], hint, f"'{key}'", default) if key in entries else default

    def _otherwise(self, node: LocatedValue) -> Selection | None:
        """Return what is read where the first source cannot be opened."""
        other = node.value.get(OTHERWISE) if isinstance(node.value, dict) else None
        if other is None:
            return None
        source = cast(DatasetSource | None, self.reader.plugin("dataset", other, (OTHERWISE,)))
        if source is None:
            return None
        source = _rooted(source, self.settings.root)
        candidates = self._alternatives(source, other)
        return Selection(name=_own_name(source), source=source, candidates=candidates, otherwise=self._otherwise(other))

    def _alternatives(self, source: DatasetSource, node: LocatedValue) -> tuple[DatasetSource, ...]:
        """Return the sources that this one is a name for, as far as they are installed."""
        try:
            alternatives = source.alternatives()
        except OODError as error:
            self.reader.wrong(node, str(error))
            return ()
        reader = RecipeReader(self.reader.plugins)
        found = [reader.plugin("dataset", _noded(dict(alternative), node.place)) for alternative in alternatives]
        return tuple(cast(DatasetSource, made) for made in found if made is not None)

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
        if names is None:
            return None
        if not names:
            self.reader.wrong(entries[key], f"'{key}' names no class")
        elif len(set(map(str, names))) < len(names):
            self.reader.wrong(entries[key], f"'{key}' names a class twice")
        return tuple(map(str, names)) or None

    # ----------------------------------------------------------------------------------------------------- opening

    def images(self, node: LocatedValue, selection: Selection, part: Part) -> Images | None:
        """Return the opened images; None after a mistake."""
        try:
            opened = selection.open(part, self.library)
            if selection.otherwise is not None and selection.stands_in(part, self.library):
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
            selected.selection.pictures(part, self.library)
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
    """Return a selection in plain values as a recipe writes it, without what is left at its default."""
    chosen: dict[str, Any] = {"name": selection.name}
    for field in dataclasses.fields(Selection):
        value = getattr(selection, field.name)
        if field.name in _CHOICES and value != field.default:
            chosen[field.name] = dict(value) if field.name == "superclasses" else value
    return _described_source(selection) | chosen


def _described_source(selection: Selection) -> dict[str, Any]:
    other = selection.otherwise
    return describe(selection.source) | ({} if other is None else {OTHERWISE: _described_source(other)})


def _own_name(source: DatasetSource) -> str:
    """Return what a set without a name is called: as the data set, the file or folder, or else the source."""
    for option in ("dataset", "path", "test", "train"):
        if value := getattr(source, option, None):
            if not isinstance(value, Path):
                return str(value)
            # abspath: "." and ".." have no name, and a link keeps its own
            return Path(os.path.abspath(value)).stem or label(source)  # noqa: PTH100
    return label(source)


def _rooted(source: DatasetSource, root: Path) -> DatasetSource:
    """Return the source with its relative paths beneath a folder."""
    paths = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    return replace(source, **{name: root / path for name, path in paths.items() if isinstance(path, Path)})


def _noded(value: Any, place: str) -> LocatedValue:
    """Return plain values as a recipe's nodes."""
    if isinstance(value, dict):
        return LocatedValue({key: _noded(item, place) for key, item in value.items()}, place)
    if isinstance(value, (list, tuple)):
        return LocatedValue([_noded(item, place) for item in value], place)
    return LocatedValue(str(value) if isinstance(value, Path) else value, place)

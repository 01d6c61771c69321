"""Reads the section `data` of a recipe, and its protocol, into opened image sets: one group of them for each case.

Everything wrong is noted in the reader with its line; what makes numbers hard to compare is noted for the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Lt

from ood_core.data.open_sources import SourcePool
from ood_core.data.selection import Part
from ood_core.errors import OODError, suggest
from ood_core.interfaces import EvaluationView, PositiveInt
from ood_core.plan.leakage import DataSets, gaps, mistakes
from ood_core.plan.protocols import PROTOCOLS, Case, FewShot, MultiClass, Protocol, Sets
from ood_core.plan.selections import Selected, SelectionReader, Settings, described
from ood_core.recipe.build import Reader
from ood_core.recipe.yaml import Node
from ood_core.records.stages import Images

HOLDOUT = 0.1
"""Share of the ID training images kept back for the threshold where a recipe does not say."""

SETTINGS: dict[str, tuple[Any, Any]] = {
    "root": (Path, Path()),
    "holdout": (Annotated[float, Ge(0), Lt(1)], HOLDOUT),
    "fit_images": (Literal["plain", "augmented"], "plain"),
    "unreadable": (Literal["stop", "skip"], "stop"),
    "overlap": (Literal["count", "remove"], "count"),
    "missing_files": (Literal["stop", "leave-out"], "stop"),
}
"""Keys of `data` with a single value: their type and default."""

GROUPS = ("near", "far")
WITHOUT_OOD = (
    "without OOD images of your own, 'far: [{use: noise}]' measures against noise, "
    "and Detector.fit (docs/detector.md) needs ID images alone"
)
"""How to go on where a recipe has only ID images."""

LISTS = ("known", "shifted", *GROUPS)
DATA_KEYS = ("image_size", "evaluation", *SETTINGS, "id", "auxiliary", *LISTS)


class Data:
    """The section `data` as it was read, before the protocol takes it apart."""

    def __init__(self, reader: Reader, library: SourcePool, node: Node, protocol: Node | None) -> None:
        self.reader, self.node = reader, node
        self.entries = reader.keys(node, "'data'", DATA_KEYS)
        before = len(reader.errors)
        self.protocol = _protocol(reader, protocol)
        self.understood = len(reader.errors) == before
        self.protocol_node = protocol or node
        self.settings = _settings(reader, self.entries)
        self.selections = SelectionReader(reader, library, self.settings)
        self._require()
        self.inside = self._inside()
        self.named = {group: self._listed(group) for group in LISTS}
        self.auxiliary = self.selections.read(self.entries["auxiliary"]) if "auxiliary" in self.entries else None
        self._require_names()

    def _require(self) -> None:
        for name in ("image_size", "id"):
            if name not in self.entries:
                self.reader.wrong(self.node, f"'data' needs '{name}'")
        if self.understood and not self.protocol.own_outside and not set(GROUPS) & self.entries.keys():
            wanted = "'near' or 'far', the sets that are not in-distribution"
            self.reader.wrong(self.node, f"'data' needs {wanted}; {WITHOUT_OOD}")

    def _inside(self) -> Selected | None:
        return self.selections.read(self.entries["id"], self.settings.holdout) if "id" in self.entries else None

    def _listed(self, group: str) -> list[Selected]:
        if group not in self.entries:
            return []
        nodes = self.entries[group].value
        if not isinstance(nodes, list):
            self.reader.wrong(self.entries[group], f"'{group}' must be a list")
            return []
        return [found for node in nodes if (found := self.selections.read(node)) is not None]

    def _require_names(self) -> None:
        names = {} if self.inside is None else {self.inside.selection.name: "OOD set and ID set are both"}
        for selected in (selected for group in GROUPS for selected in self.named[group]):
            name = selected.selection.name
            if name in names:
                self.reader.wrong(selected.node, f"{names[name]} called '{name}'; tell them apart by 'name:'")
            names.setdefault(name, "two OOD sets are")

    def resolved(self) -> dict[str, Any]:
        """Return the section in plain values, with everything that is left at its default."""
        assert self.inside is not None, "asked for only when nothing is wrong"
        plain: dict[str, Any] = {name: getattr(self.settings, name) for name in ("image_size", *SETTINGS)}
        plain |= {"root": str(self.settings.root), "id": described(self.inside.selection)}
        for group, sets in self.named.items():
            if sets or group in GROUPS:
                plain[group] = [described(selected.selection) for selected in sets]
        if self.auxiliary is not None:
            plain["auxiliary"] = described(self.auxiliary.selection)
        return plain

    # -------------------------------------------------------------------------------------------------------- cases

    def cases(self) -> list[DataSets]:
        """Return the data of each case, opened; none after a mistake."""
        if self.inside is None or self.reader.errors:
            return []
        shifted = [selected for selected in self.named["shifted"] if self.selections.is_there(selected, "test")]
        found = [sets for case in self._named_cases() if (sets := self._opened(case, shifted)) is not None]
        if not found and not self.reader.errors:
            self.reader.wrong(self.node, f"protocol '{self.protocol.name}' makes no case of these images")
        return [] if self.reader.errors else found

    def _named_cases(self) -> Iterator[Case]:
        assert self.inside is not None, "there is an ID set"
        inside = self.inside.selection
        outside = tuple(
            (group, selected.selection)
            for group in GROUPS
            for selected in self.named[group]
            if self.selections.is_there(selected, "test")
        )
        known = tuple(selected.selection for selected in self.named["known"])
        try:
            yield from self.protocol.cases(
                Sets(inside, known, outside), lambda: inside.class_names(self.selections.library)
            )
        except OODError as error:
            self.reader.wrong(self.protocol_node, str(error))

    def _opened(self, case: Case, shifted: Sequence[Selected]) -> DataSets | None:
        return _Opening(self, case).sets(shifted)

    def place(self, name: str) -> Node:
        """Return where the recipe names a set; the protocol for one that it makes."""
        every = [*(s for sets in self.named.values() for s in sets), *filter(None, (self.inside, self.auxiliary))]
        return next((s.node for s in every if s.selection.name == name), self.protocol_node)


@dataclass(frozen=True)
class _Opening:
    """Opens the sets of one case, and checks how they go together."""

    data: Data
    case: Case

    def sets(self, shifted: Sequence[Selected]) -> DataSets | None:
        inside, given = self.case.sets.inside, self.data.selections
        node = self.data.place(inside.name) if self.data.inside is None else self.data.inside.node
        parts: tuple[Part, ...] = ("train", "holdout", "test") if inside.holdout > 0 else ("train", "test")
        own = {part: given.images(node, inside, part) for part in parts}
        known = [(of, given.images(self.data.place(of.name), of, "known")) for of in self.case.sets.known]
        ood = [(group, of, given.images(self.data.place(of.name), of, "test")) for group, of in self.case.sets.outside]
        train, test, auxiliary = own["train"], own["test"], self._auxiliary()
        other = [(s, given.images(s.node, s.selection, "test")) for s in shifted]
        if train is None or test is None or self.data.reader.errors:
            return None
        found = DataSets(
            case=self.case.name,
            draw=self.case.draw,
            train=train,
            holdout=own.get("holdout"),
            test=test,
            known=tuple(images for _, images in known if images is not None),
            auxiliary=auxiliary,
            shifted=tuple(images for _, images in other if images is not None),
            ood=tuple((group, images) for group, _, images in ood if images is not None),
        )
        self._check(found)
        return found

    def _auxiliary(self) -> Images | None:
        selected = self.data.auxiliary
        return None if selected is None else self.data.selections.images(selected.node, selected.selection, "auxiliary")

    # -------------------------------------------------------------------------------------------------------- checks

    def _check(self, sets: DataSets) -> None:
        for images, message in mistakes(sets):
            self._wrong(images, message)
        self._check_shots()
        self.data.selections.notes.extend(gaps(sets))
        self._note_sizes(sets)
        if not sets.ood:
            named = any(self.data.named[group] for group in GROUPS)
            why = "all OOD sets were left out" if named else "neither 'near' nor 'far' names an OOD set"
            self._wrong(sets.test, f"{why}; {WITHOUT_OOD}")

    def _wrong(self, images: Images, message: str) -> None:
        self.data.reader.wrong(self.data.place(images.name), message)

    def _check_shots(self) -> None:
        """Every class of a set that few shots are drawn from must have so many."""
        if not isinstance(self.data.protocol, FewShot):
            return
        library = self.data.selections.library
        for drawn in self.case.sets.known:
            if drawn.draw is None or drawn.limit is None:
                continue
            opened = drawn.open("known", library)
            counts = np.bincount(opened.labels.numpy(), minlength=len(opened.classes))
            if counts.min() < drawn.limit:
                few = f"{counts.min()} images of the class '{opened.classes[int(counts.argmin())]}'"
                self.data.reader.wrong(self.data.protocol_node, f"'{drawn.name}' has {few}, not {drawn.limit}")

    def _note_sizes(self, sets: DataSets) -> None:
        selections = self.data.selections
        if self.data.inside is not None and self.case.sets.inside == self.data.inside.selection:
            selections.note_size(self.data.inside, "train", sets.train.opened.found)
            selections.note_size(self.data.inside, "test", sets.test.opened.found)
        named = {s.selection.name: s for group in LISTS for s in self.data.named[group]}
        for images in (*(images for _, images in sets.ood), *sets.shifted):
            if images.name in named:
                selections.note_size(named[images.name], "test", images.opened.found)


def _protocol(reader: Reader, node: Node | None) -> Protocol:
    if node is None:
        return MultiClass()
    entries = {"use": node} if isinstance(node.value, str) else node.value
    if not isinstance(entries, dict) or "use" not in entries or not isinstance(entries["use"].value, str):
        reader.wrong(node, "a protocol must be a name, or a mapping with 'use: name'")
        return MultiClass()
    name = entries["use"].value
    if name not in PROTOCOLS:
        reader.wrong(entries["use"], f"no protocol '{name}'.{suggest(name, PROTOCOLS)}")
        return MultiClass()
    options = {key: entry for key, entry in entries.items() if key != "use"}
    return reader.build(PROTOCOLS[name], options, node, f"protocol '{name}'") or MultiClass()


def _settings(reader: Reader, entries: Mapping[str, Node]) -> Settings:
    values = {
        name: reader.value(entries[name], hint, f"'{name}'", default) if name in entries else default
        for name, (hint, default) in SETTINGS.items()
    }
    size = reader.value(entries["image_size"], PositiveInt, "'image_size'", 1) if "image_size" in entries else 1
    view = None
    if "evaluation" in entries:
        node = entries["evaluation"]
        options = reader.keys(node, "'evaluation'", [field.name for field in fields(EvaluationView)])
        view = reader.build(EvaluationView, options, node, "'evaluation'")
    return Settings(image_size=size, evaluation=view, **values)

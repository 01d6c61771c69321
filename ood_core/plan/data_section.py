"""Reads the section `data` of a recipe, and its protocol, into opened image sets: one group of them for each case.

Everything wrong is noted in the reader with its line; what makes numbers hard to compare is noted for the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Lt

from ood_core.data.open_sources import SourcePool
from ood_core.data.selection import Part
from ood_core.errors import OODError, suggest
from ood_core.interfaces import EvaluationView, PositiveInt
from ood_core.plan.image_sets import SelectedSource, SelectionReader, Settings, described
from ood_core.plan.leakage import CaseData, gaps, mistakes
from ood_core.plan.protocols import PROTOCOLS, Case, FewShot, MultiClass, Protocol, Sets
from ood_core.recipe.build import RecipeReader
from ood_core.recipe.yaml import LocatedValue

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

    def __init__(
        self, reader: RecipeReader, library: SourcePool, node: LocatedValue, protocol: LocatedValue | None
    ) -> None:
        self.reader, self.node = reader, node
        self.entries = reader.keys(node, "'data'", DATA_KEYS)
        before = len(reader.errors)
        self.protocol = _protocol(reader, protocol)
        self.understood = len(reader.errors) == before
        self.protocol_node = protocol or node
        self.settings = _settings(reader, self.entries)
        self.selections = SelectionReader(reader, library, self.settings)
        self._require()
        self.inside = self.selections.read(self.entries["id"], self.settings.holdout) if "id" in self.entries else None
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

    def _listed(self, group: str) -> list[SelectedSource]:
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

    def cases(self) -> list[CaseData]:
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
        sets = Sets(inside, tuple(selected.selection for selected in self.named["known"]), outside)
        try:
            yield from self.protocol.cases(sets, lambda: inside.class_names(self.selections.library))
        except OODError as error:
            self.reader.wrong(self.protocol_node, str(error))

    def place(self, name: str) -> LocatedValue:
        """Return where the recipe names a set; the protocol for one that it makes."""
        every = [*(s for sets in self.named.values() for s in sets), *filter(None, (self.inside, self.auxiliary))]
        return next((s.node for s in every if s.selection.name == name), self.protocol_node)

    def _opened(self, case: Case, shifted: Sequence[SelectedSource]) -> CaseData | None:
        """Open the sets of one case, and check how they go together."""
        inside, opened = case.sets.inside, self.selections.images
        assert self.inside is not None, "there is an ID set"
        parts: tuple[Part, ...] = ("train", "holdout", "test") if inside.holdout > 0 else ("train", "test")
        own = {part: opened(self.inside.node, inside, part) for part in parts}
        known = [opened(self.place(of.name), of, "known") for of in case.sets.known]
        ood = [(group, opened(self.place(of.name), of, "test")) for group, of in case.sets.outside]
        aux = self.auxiliary
        auxiliary = None if aux is None else opened(aux.node, aux.selection, "auxiliary")
        other = [opened(selected.node, selected.selection, "test") for selected in shifted]
        train, test = own["train"], own["test"]
        if train is None or test is None or self.reader.errors:
            return None
        found = CaseData(
            case=case.name,
            draw=case.draw,
            train=train,
            holdout=own.get("holdout"),
            test=test,
            known=tuple(images for images in known if images is not None),
            auxiliary=auxiliary,
            shifted=tuple(images for images in other if images is not None),
            ood=tuple((group, images) for group, images in ood if images is not None),
        )
        self._check(case, found)
        return found

    # -------------------------------------------------------------------------------------------------------- checks

    def _check(self, case: Case, sets: CaseData) -> None:
        for images, message in mistakes(sets):
            self.reader.wrong(self.place(images.name), message)
        if isinstance(self.protocol, FewShot):
            self._check_shots(case)
        self.selections.notes.extend(gaps(sets))
        if self.inside is not None and case.sets.inside == self.inside.selection:
            self.selections.note_size(self.inside, "train", sets.train.opened.found)
            self.selections.note_size(self.inside, "test", sets.test.opened.found)
        named = {selected.selection.name: selected for group in LISTS for selected in self.named[group]}
        for images in (*(images for _, images in sets.ood), *sets.shifted):
            if images.name in named:
                self.selections.note_size(named[images.name], "test", images.opened.found)
        if not sets.ood:
            given = any(self.named[group] for group in GROUPS)
            why = "all OOD sets were left out" if given else "neither 'near' nor 'far' names an OOD set"
            self.reader.wrong(self.place(sets.test.name), f"{why}; {WITHOUT_OOD}")

    def _check_shots(self, case: Case) -> None:
        """Require as many images of every class as are drawn."""
        for drawn in case.sets.known:
            if drawn.draw is None or drawn.limit is None:
                continue
            opened = drawn.open("known", self.selections.library)
            counts = np.bincount(opened.labels.numpy(), minlength=len(opened.classes))
            if counts.min() < drawn.limit:
                few = f"{counts.min()} images of the class '{opened.classes[int(counts.argmin())]}'"
                self.reader.wrong(self.protocol_node, f"'{drawn.name}' has {few}, not {drawn.limit}")


def _protocol(reader: RecipeReader, node: LocatedValue | None) -> Protocol:
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


def _settings(reader: RecipeReader, entries: Mapping[str, LocatedValue]) -> Settings:
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

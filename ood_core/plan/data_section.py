"""Reads the section `data` of a recipe, and its protocol, into opened image sets: one group of them for each case.

Everything wrong is noted in the reader with its line; what makes numbers hard to compare is noted for the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Any, get_type_hints

import numpy as np

from ood_core.data.open_sources import SourcePool
from ood_core.errors import OODError, suggest
from ood_core.interfaces import EvaluationView
from ood_core.plan.image_sets import (
    HOLDOUT,
    CaseData,
    SelectedSource,
    SelectionReader,
    Settings,
    described,
    gaps,
    mistakes,
)
from ood_core.plan.protocols import PROTOCOLS, Case, FewShot, MultiClass, Protocol, Sets
from ood_core.recipe.build import RecipeReader
from ood_core.recipe.variants import MOST_EXPERIMENTS
from ood_core.recipe.yaml import LocatedValue

GROUPS = ("near", "far")
WITHOUT_OOD = (
    "without OOD images of your own, 'far: [{use: noise}]' measures against noise, "
    "and Detector.fit (docs/detector.md) needs ID images alone"
)
"""How to go on where a recipe has only ID images."""

LISTS = ("known", "shifted", *GROUPS)
SETTINGS = tuple(field.name for field in fields(Settings))
DATA_KEYS = (*SETTINGS, "id", "auxiliary", *LISTS)


class Data:
    """The section `data` as it was read, before the protocol takes it apart."""

    def __init__(
        self,
        reader: RecipeReader,
        pool: SourcePool,
        node: LocatedValue,
        protocol: LocatedValue | None,
        smoke: bool = False,
    ) -> None:
        self.reader, self.node = reader, node
        entries = reader.keys(node, "'data'", DATA_KEYS)
        before = len(reader.errors)
        self.protocol = _read_protocol(reader, protocol)
        understood = len(reader.errors) == before
        self.protocol_node = protocol or node
        self.settings = _read_settings(reader, entries)
        if smoke and self.settings.holdout:
            self.settings = replace(self.settings, holdout=max(self.settings.holdout, HOLDOUT))
        self.selections = SelectionReader(reader, pool, self.settings, smoke)
        for key in ("image_size", "id"):
            if key not in entries:
                reader.wrong(node, f"'data' needs '{key}'")
        if understood and not self.protocol.own_outside and not set(GROUPS) & entries.keys():
            needed = "'near' or 'far', the sets that are not in-distribution"
            reader.wrong(node, f"'data' needs {needed}; {WITHOUT_OOD}")
        self.inside = self.selections.read(entries["id"], self.settings.holdout) if "id" in entries else None
        self.named: dict[str, list[SelectedSource]] = {}
        for group in LISTS:
            items = reader.items(entries[group], f"'{group}'") if group in entries else []
            self.named[group] = [read for item in items if (read := self.selections.read(item)) is not None]
        self.auxiliary = self.selections.read(entries["auxiliary"]) if "auxiliary" in entries else None
        names = {} if self.inside is None else {self.inside.selection.name: "OOD set and ID set are both"}
        for selected in (selected for group in GROUPS for selected in self.named[group]):
            name = selected.selection.name
            if name in names:
                reader.wrong(selected.node, f"{names[name]} called '{name}'; tell them apart by 'name:'")
            names.setdefault(name, "two OOD sets are")

    def resolved(self) -> dict[str, Any]:
        """Return the section in plain values, with everything that is left at its default."""
        assert self.inside is not None, "asked for only when nothing is wrong"
        plain: dict[str, Any] = {name: value for name, value in vars(self.settings).items() if name != "evaluation"}
        plain |= {"root": str(self.settings.root), "id": described(self.inside.selection)}
        for group, sets in self.named.items():
            if sets or group in GROUPS:
                plain[group] = [described(selected.selection) for selected in sets]
        if self.auxiliary is not None:
            plain["auxiliary"] = described(self.auxiliary.selection)
        return plain

    def cases(self) -> list[CaseData]:
        """Return the data of each case, opened; none after a mistake."""
        if self.inside is None or self.reader.errors:
            return []
        inside, there = self.inside.selection, self.selections.is_there
        shifted = [selected for selected in self.named["shifted"] if there(selected, "test")]
        every = [(group, selected) for group in GROUPS for selected in self.named[group]]
        outside = tuple((group, selected.selection) for group, selected in every if there(selected, "test"))
        sets = Sets(inside, tuple(selected.selection for selected in self.named["known"]), outside)
        found = []
        try:
            for case in _require_few(self.protocol.cases(sets, lambda: inside.class_names(self.selections.pool))):
                if (opened := self._open(case, shifted)) is not None:
                    found.append(opened)
        except OODError as error:
            self.reader.wrong(self.protocol_node, str(error))
        if not found and not self.reader.errors:
            self.reader.wrong(self.node, f"protocol '{self.protocol.name}' makes no case of these images")
        return [] if self.reader.errors else found

    def place(self, name: str) -> LocatedValue:
        """Return where the recipe names a set; the protocol for one that it makes."""
        every = [*(s for sets in self.named.values() for s in sets), *filter(None, (self.inside, self.auxiliary))]
        return next((s.node for s in every if s.selection.name == name), self.protocol_node)

    def _open(self, case: Case, shifted: Sequence[SelectedSource]) -> CaseData | None:
        """Open the sets of one case, and check how they go together."""
        inside, images = case.sets.inside, self.selections.images
        assert self.inside is not None, "there is an ID set"
        train = images(self.inside.node, inside, "train")
        holdout = images(self.inside.node, inside, "holdout") if inside.holdout > 0 else None
        test = images(self.inside.node, inside, "test")
        known = [images(self.place(of.name), of, "known") for of in case.sets.known]
        ood = [(group, images(self.place(of.name), of, "test")) for group, of in case.sets.outside]
        aux = self.auxiliary
        auxiliary = None if aux is None else images(aux.node, aux.selection, "auxiliary")
        other = [images(selected.node, selected.selection, "test") for selected in shifted]
        if train is None or test is None or self.reader.errors:
            return None
        found = CaseData(
            case=case.name,
            draw=case.draw,
            train=train,
            holdout=holdout,
            test=test,
            known=tuple(filter(None, known)),
            auxiliary=auxiliary,
            shifted=tuple(filter(None, other)),
            ood=tuple((group, opened) for group, opened in ood if opened is not None),
        )
        self._check(case, found)
        return found

    def _check(self, case: Case, sets: CaseData) -> None:
        for images, message in mistakes(sets):
            self.reader.wrong(self.place(images.name), message)
        for drawn in case.sets.known if isinstance(self.protocol, FewShot) else ():
            if drawn.draw is None or drawn.limit is None:
                continue
            opened = drawn.open("known", self.selections.pool)
            counts = np.bincount(opened.labels.numpy(), minlength=len(opened.classes))
            if counts.min() < drawn.limit:
                few = f"{counts.min()} images of the class '{opened.classes[int(counts.argmin())]}'"
                self.reader.wrong(self.protocol_node, f"'{drawn.name}' has {few}, not {drawn.limit}")
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


def _require_few(cases: Iterator[Case]) -> list[Case]:
    """Return the cases of a protocol; OODError, before any is opened, if no run could be planned of so many."""
    found = list(islice(cases, MOST_EXPERIMENTS + 1))
    if len(found) > MOST_EXPERIMENTS:
        raise OODError(f"the protocol makes more than {MOST_EXPERIMENTS} cases")
    return found


def _read_protocol(reader: RecipeReader, node: LocatedValue | None) -> Protocol:
    """Return the protocol; multi-class by default and after a mistake."""
    entries = reader.use("protocol", node) if node is not None else None
    if node is None or entries is None:
        return MultiClass()
    name = str(entries["use"].value)
    if name not in PROTOCOLS:
        reader.wrong(entries["use"], f"no protocol '{name}'.{suggest(name, PROTOCOLS)}")
        return MultiClass()
    options = {key: entry for key, entry in entries.items() if key != "use"}
    return reader.build(PROTOCOLS[name], options, node, f"protocol '{name}'") or MultiClass()


def _read_settings(reader: RecipeReader, entries: Mapping[str, LocatedValue]) -> Settings:
    hints = get_type_hints(Settings, include_extras=True)
    values = {
        key: reader.value(entry, hints[key], f"'{key}'", getattr(Settings, key))
        for key, entry in entries.items()
        if key in hints and key != "evaluation"
    }
    if (node := entries.get("evaluation")) is not None:
        options = reader.keys(node, "'evaluation'", [field.name for field in fields(EvaluationView)])
        values["evaluation"] = reader.build(EvaluationView, options, node, "'evaluation'")
    return Settings(**values)

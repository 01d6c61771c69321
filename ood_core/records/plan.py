"""The plan of a run: its stages, and the rows of the table that they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ood_core.errors import OODError, OODErrors
from ood_core.interfaces import Plugin
from ood_core.records.published import Table
from ood_core.records.stages import KINDS, MeasureStage, Stage
from ood_core.runtime import torch_state
from ood_core.runtime.plugin_errors import RAISED, PluginError


@dataclass(frozen=True, kw_only=True)
class RowKey:
    """What distinguishes a line of the result table from all others; `spectrum` is "standard" or "full"."""

    variant: str
    case: str
    draw: int
    seed: int
    scorer: str
    spectrum: str
    id_set: str
    ood_set: str
    group: str

    @property
    def key(self) -> RowKey:
        """The key alone, of a row that has more."""
        return RowKey(**{field.name: getattr(self, field.name) for field in fields(RowKey)})


@dataclass(frozen=True, kw_only=True)
class Row(RowKey):
    """One line of the result table before it is measured."""

    measure: MeasureStage


@dataclass(frozen=True)
class Baseline:
    """What each row of the table is compared with: the same case, seed, draw and OOD set under this variant and scorer.

    Attributes:
        variant: "" stands for the row's own, where only scorers are compared.
        scorer: "" stands for the row's own, where only variants are compared.
        within: For each variant the one that it is compared with, where these differ.
    """

    variant: str = ""
    scorer: str = ""
    within: dict[str, str] = field(default_factory=dict)

    def of(self, variant: str) -> str:
        """Return the variant that this one is compared with; itself if there is no other."""
        return self.within.get(variant, self.variant) or variant

    def __str__(self) -> str:
        variants = " / ".join(dict.fromkeys(self.within.values())) or self.variant
        return " of ".join(name for name in (self.scorer, variants) if name)


@dataclass(frozen=True)
class Plan:
    """The stages and rows of a run: a value, which pickles and compares.

    Attributes:
        resolved: Every option of every variant, also those a recipe leaves at their default.
        versions: Of Python, the libraries that decide numbers, the core and every plugin package.
        checks: Plugin objects with their places in the recipe.
        notes: Differences from a benchmark that make the numbers hard to compare.
        averaged: Whether the mean over the cases of the protocol means something.
        coordinates: For each variant its value on each axis that the recipe varies; {} where nothing varies.
        published: Tables to compare the rows with.
    """

    name: str
    rows: tuple[Row, ...]
    resolved: dict[str, Any]
    versions: dict[str, str]
    checks: tuple[tuple[str, Plugin], ...]
    notes: tuple[str, ...] = ()
    averaged: bool = True
    coordinates: dict[str, dict[str, str]] = field(default_factory=dict)
    baseline: Baseline = field(default_factory=Baseline)
    published: tuple[Table, ...] = ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, each once, every one behind its inputs."""
        ordered: dict[str, Stage] = {}

        def visit(stage: Stage) -> None:
            if stage.key not in ordered:
                for earlier in stage.inputs:
                    visit(earlier)
                ordered[stage.key] = stage

        for row in self.rows:
            visit(row.measure)
        return tuple(sorted(ordered.values(), key=lambda stage: KINDS.index(stage.kind)))

    def __str__(self) -> str:
        return f"{self.name}: {len(self.stages)} stages for {len(self.rows)} rows"

    @torch_state.stage_state()
    def check(self) -> None:
        """Raise OODErrors for options that the plugins themselves find wrong; imports what is slow."""
        errors: list[OODError] = []
        for place, plugin in self.checks:
            try:
                plugin.check()
            except OODError as error:
                errors.append(OODError(f"{place}: {error}"))
            except RAISED as error:
                errors.append(PluginError.of(place, error))
        if errors:
            raise OODErrors(deduplicate(errors))


def deduplicate(errors: Sequence[OODError]) -> list[OODError]:
    """Return the errors without repetitions: variants and seeds share most of a recipe."""
    return list({str(error): error for error in errors}.values())

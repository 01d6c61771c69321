"""recipe.lock.yaml: what a run was made of, to run it again bit for bit, or to say what differs.

lock           the version of this format
experiments    every variant under every seed with every option resolved, as `recipe` reads it
versions       of Python, the libraries and all plugin packages
machine        the hardware, in words
data           the fingerprint of each set of images
stages         the key of each stage, and the threads it was computed with: sums depend on how they are cut
measurements   a digest of the numbers of each row
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import yaml
from annotated_types import Len
from pydantic import TypeAdapter, ValidationError

from ood_core.errors import OODError, OODErrors, listed
from ood_core.evaluation.metrics import RATES
from ood_core.interfaces import NonNegativeInt, PositiveInt
from ood_core.recipe.build import digest
from ood_core.recipe.read import Recipe
from ood_core.recipe.yaml import parse, with_new_names
from ood_core.records.plan import Plan
from ood_core.records.results import Results
from ood_core.records.stages import ExtractStage, TrainStage
from ood_core.runtime.machine import machine
from ood_core.runtime.run_files import LOCK
from ood_core.store.files import write_text

FORMAT = 1

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+( [A-Za-z0-9_./+-]+)*")
"""Words that YAML reads as they stand, unless they are numbers or flags."""

HARDWARE = ("processor", "accelerator")
"""Parts of the machine that may change the last bits."""

MEASURED = (*RATES, "threshold", "id_accuracy")


Texts: TypeAlias = dict[str, str]


@dataclass(frozen=True)
class _Baseline:
    variant: str
    scorer: str


@dataclass(frozen=True)
class _Experiment:
    variant: str
    seed: NonNegativeInt
    coordinates: Texts
    left_out: list[Texts]
    baseline: _Baseline
    recipe: dict[str, Any]


@dataclass(frozen=True)
class _Stage:
    key: str
    stage: str
    threads: PositiveInt


@dataclass(frozen=True)
class _Entries:
    lock: int
    recipe: str
    experiments: Annotated[list[_Experiment], Len(1)]
    versions: Texts
    machine: Texts
    data: Texts
    stages: list[_Stage]
    measurements: Texts


@dataclass(frozen=True)
class Lock:
    """A lock as it was read; `entries` are all of it, in plain values."""

    path: Path
    recipes: list[Recipe]
    entries: Mapping[str, Any]

    @property
    def threads(self) -> dict[str, int]:
        """Number of threads that each stage was computed with, by key."""
        return {stage["key"]: stage["threads"] for stage in self.entries["stages"]}


def is_lock(path: Path) -> bool:
    """Return whether a recipe's file is a lock, by its name."""
    return path.name.endswith(".lock.yaml")


def write(plan: Plan, recipes: Sequence[Recipe], results: Results, folder: Path) -> None:
    """Write the lock of a run into its folder."""
    entries = {
        "lock": FORMAT,
        "recipe": plan.name,
        "experiments": [_experiment(recipe, plan) for recipe in recipes],
        "versions": plan.versions,
        "machine": machine(),
        "data": _data(plan),
        "stages": [
            {"key": record.stage.key, "stage": str(record.stage), "threads": record.facts.threads}
            for record in results.records
        ],
        "measurements": _measurements(results),
    }
    first = f"# `ood-run {LOCK}` computes {plan.name} again, bit for bit, or says what differs.\n"
    write_text(folder / LOCK, first + yaml.dump(entries, Dumper=_Dumper, sort_keys=False, width=120))


def read(path: Path) -> Lock:
    """Return a lock.

    Raises:
        OODError: It cannot be read, is no lock, or one of another format.
    """
    try:
        node = parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise OODError(f"{path}: cannot be read: {error}") from None
    entries: Any = node.plain()
    if not isinstance(entries, dict) or "lock" not in entries:
        raise OODError(f"{path}: is no lock: the key 'lock' is missing")
    if (found := entries["lock"]) != FORMAT:
        raise OODError(f"{path}: is a lock of format {found}, this version reads {FORMAT}; run its recipe again")
    try:
        TypeAdapter(_Entries).validate_json(json.dumps(entries), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise OODError(f"{path}: is damaged: '{where}': {first['msg']}; run its recipe again") from None
    nodes = cast(Any, node.value)["experiments"].value
    recipes = [_recipe(entries["recipe"], each.value) for each in nodes]
    variants = {"", *(recipe.variant for recipe in recipes)}
    if strays := [recipe.baseline_variant for recipe in recipes if recipe.baseline_variant not in variants]:
        raise OODError(f"{path}: is damaged: no variant '{strays[0]}', a baseline; run its recipe again")
    return Lock(path, recipes, entries)


def require_same(lock: Lock, plan: Plan) -> None:
    """Refuse to run a plan whose inputs are not those of the lock.

    Raises:
        OODErrors: With a line for each input that differs.
    """
    then, lines = lock.entries, []
    for section, what, now in (("versions", "version of", plan.versions), ("data", "data", _data(plan))):
        for name, was in then[section].items():
            if name not in now:
                lines.append(f"{what} {name} was {was}, is missing now")
            elif now[name] != was:
                lines.append(f"{what} {name} was {was}, is {now[name]}")
    here = {stage.key for stage in plan.stages}
    gone = [stage["stage"] for stage in then["stages"] if stage["key"] not in here]
    if gone and not lines:  # other inputs change the keys too
        lines.append(f"options differ: another key has {listed(gone)}")
    if lines:
        raise OODErrors([OODError(f"{lock.path.name}: {line}") for line in lines])


def notes(lock: Lock) -> list[str]:
    """Return a line for each part of the machine that differs: it may change the last bits, but need not."""
    now, then = machine(), lock.entries["machine"]
    return [
        f"{name} is {now[name]}, was {was}: bits may differ"
        for name in HARDWARE
        if now[name] != (was := then.get(name, "unknown"))
    ]


def verdict(lock: Lock, results: Results) -> tuple[bool, str]:
    """Return whether the numbers are those of the lock, and that in words."""
    then, now = lock.entries["measurements"], _measurements(results)
    changed = [name for name in then if now.get(name) != then[name]]
    if not changed:
        return True, f"the numbers are those of {lock.path.name}, bit for bit"
    return False, f"{len(changed)} of {len(then)} measurements differ from {lock.path.name}, the first: {changed[0]}"


def _experiment(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    resolved = plan.resolved[f"{recipe.variant}, seed {recipe.seed}"]
    rooted = resolved["data"] | {"root": "."}  # the paths have it already
    return {
        "variant": recipe.variant,
        "seed": recipe.seed,
        "coordinates": recipe.coordinates,
        "left_out": list(recipe.left_out),
        "baseline": {"variant": recipe.baseline_variant, "scorer": recipe.baseline_scorer},
        "recipe": {name: value for name, value in resolved.items() if name != "seed"} | {"data": rooted},
    }


def _data(plan: Plan) -> dict[str, str]:
    """Return the fingerprints of all image sets, by their names and parts."""
    found = {}
    for stage in plan.stages:
        if isinstance(stage, (TrainStage, ExtractStage)):
            found[str(stage.images)] = stage.images.opened.fingerprint
        if isinstance(stage, TrainStage) and stage.auxiliary is not None:
            found[str(stage.auxiliary)] = stage.auxiliary.opened.fingerprint
    return found


def _measurements(results: Results) -> dict[str, str]:
    """Return a digest of each row's numbers, to the last bit of the floats."""
    found = {}
    for row in results.rows:
        within = [row.variant, *([row.case] if row.case else []), f"draw {row.draw}", f"seed {row.seed}"]
        title = ", ".join([*within, row.scorer, row.spectrum, row.ood_set])
        values = [getattr(row, name) for name in MEASURED]
        found[title] = digest([None if value is None else float(value).hex() for value in values])
    return found


def _recipe(name: str, of: Any) -> Recipe:
    baseline = of["baseline"]
    return Recipe(
        name=name,
        variant=of["variant"].value,
        seed=of["seed"].value,
        root=with_new_names(of["recipe"]),
        coordinates=of["coordinates"].plain(),
        left_out=tuple(of["left_out"].plain()),
        baseline_variant=baseline.value["variant"].value,
        baseline_scorer=baseline.value["scorer"].value,
        baseline_place=baseline.place,
    )


class _Dumper(yaml.SafeDumper):
    """Writes a word that this project would read as a number or a flag in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out: a lock is read by people too."""
        return True


def _word(dumper: yaml.SafeDumper, word: str) -> yaml.Node:
    try:
        plain = _PLAIN.fullmatch(word) is not None and parse(word, "", line_numbers=False).value == word
    except OODError:  # a number that is too large
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", word, style=None if plain else '"')


_Dumper.add_representer(str, _word)

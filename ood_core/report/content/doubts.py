"""Notes on what failed without an error: networks that recognise no class, and scores that rank ID above OOD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from ood_core.detector.accuracy import near_chance
from ood_core.records.plan import Plan
from ood_core.records.results import ResultRow, Results
from ood_core.records.stages import Extraction, ExtractStage
from ood_core.store.artifacts import load_outputs
from ood_core.store.store import Store

ENOUGH = 100
"""Images of a set from which on a result reveals a failure; those of a trial on fewer reveal how few they are."""


def notes(plan: Plan, results: Results, store: Store) -> list[str]:
    """Return a note for each network that failed, and one on all AUROCs below 50 %."""
    return [*chain(failed_networks(plan, results, store), below_half(results.rows))]


def failed_networks(plan: Plan, results: Results, store: Store) -> Iterator[str]:
    """Yield a note for each network whose accuracy on the ID test images is near chance."""
    planned = {row.key: row.measure for row in plan.rows}
    networks: dict[str, tuple[ExtractStage, ResultRow]] = {}
    for row in results.rows:
        if row.id_accuracy is not None:
            base = planned[row.key].id_scores.outputs.base
            networks.setdefault(base.key, (base, row))
    for base, row in networks.values():
        outputs = load_outputs(Extraction(base), store)
        if len(outputs) >= ENOUGH and near_chance(outputs):
            yield (
                f"the network of {_place(row)} classifies {row.id_accuracy:.1%} of {len(outputs)} ID test images of "
                f"{outputs.classes} classes correctly, which is near chance: it has not learned them"
            )


def below_half(rows: Sequence[ResultRow]) -> Iterator[str]:
    """Yield a note on the AUROCs that are below 50 % with their whole interval, if there are any."""
    below = [
        row
        for row in rows
        if row.auroc_high is not None and row.auroc_high < 0.5 and min(row.id_images, row.ood_images) >= ENOUGH
    ]
    if below:
        worst = min(below, key=lambda row: row.auroc)
        yield (
            f"{len(below)} of {len(rows)} AUROCs are below 50 %, and so are their intervals: the scores take OOD "
            f"images for more typical than ID; the lowest is {worst.auroc:.1%}, {worst.scorer} on {worst.ood_set} of "
            f"{_place(worst)}"
        )


def _place(row: ResultRow) -> str:
    """Return variant, case, draw and seed of a row in words."""
    words = [f"'{row.variant}'", row.case, f"draw {row.draw}" if row.draw else "", f"seed {row.seed}"]
    return ", ".join(filter(None, words))

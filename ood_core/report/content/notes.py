"""Notes on a run that qualify its numbers."""

from __future__ import annotations

from ood_core.records.plan import Plan
from ood_core.records.results import Results


def of_run(plan: Plan, results: Results) -> list[str]:
    """Return notes on skipped pictures, on OOD images that are ID images as well, and on baselines without rows."""
    notes = []
    for record in results.records:
        if reasons := record.facts.get("skipped"):
            pictures = "1 picture" if len(reasons) == 1 else f"{len(reasons)} pictures"
            notes.append(f"{record.stage}: {pictures} skipped, such as {reasons[0]}")
    shared: dict[str, None] = {}
    for row in results.rows:
        for count, where in ((row.duplicates_test, "ID test"), (row.duplicates_train, "ID training")):
            if count:
                images = "image is" if count == 1 else "images are"
                shared[f"{row.ood_set}: {count} {images} also among the {where} images of {row.id_set}"] = None
    found = dict.fromkeys(row.variant for row in results.rows)
    lost = dict.fromkeys(other for variant in found if (other := plan.baseline.of(variant)) not in found)
    return [*notes, *shared, *(f"the baseline '{name}' has no rows; nothing is compared with it" for name in lost)]

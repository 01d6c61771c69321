"""What a reader has to know beside the numbers."""

from __future__ import annotations

from ood_core.records.results import Results
from ood_core.records.stages import Plan


def skipped(results: Results) -> list[str]:
    """Return a note for each stage that had to do without some pictures."""
    notes = []
    for record in results.records:
        if reasons := record.facts.get("skipped"):
            pictures = "1 picture" if len(reasons) == 1 else f"{len(reasons)} pictures"
            notes.append(f"{record.stage}: {pictures} skipped, such as {reasons[0]}")
    return notes


def duplicates(results: Results) -> list[str]:
    """Return a note for each OOD set that has images in common with the ID images, pixel for pixel."""
    found: dict[str, None] = {}
    for row in results.rows:
        for count, where in ((row.duplicates_test, "ID test"), (row.duplicates_train, "ID training")):
            if count:
                images = "image is" if count == 1 else "images are"
                found[f"{row.ood_set}: {count} {images} also among the {where} images of {row.id_set}"] = None
    return list(found)


def lost_baselines(plan: Plan, results: Results) -> list[str]:
    """Return a note for each variant that others should be compared with and that has no rows."""
    found = {row.variant for row in results.rows}
    lost = dict.fromkeys(other for variant in found if (other := plan.baseline.of(variant)) not in found)
    return [f"the baseline '{name}' has no rows; nothing is compared with it" for name in lost]

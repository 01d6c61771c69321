"""Which OOD classes are accepted as which ID classes: the counts behind the paper's Figure 3."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ood_core.measure import ACCEPTED
from ood_core.stages import Plan, Row
from ood_core.store import Store, map_array

MOST = 12
"""Pairs shown in the report; the paper shows as many."""


@dataclass(frozen=True)
class AcceptedPair:
    """How many images of an OOD class are accepted and taken for an ID class, at the TPR of 95 %.

    Attributes:
        images: How many images the OOD class has.
    """

    variant: str
    case: str
    draw: int
    seed: int
    scorer: str
    id_set: str
    ood_set: str
    ood_class: str
    id_class: str
    accepted: int
    images: int


def accepted_pairs(plan: Plan, store: Store) -> list[AcceptedPair]:
    """Return all pairs that occur, row by row of the plan, the most frequent first."""
    return [pair for row in plan.rows for pair in sorted(_pairs(row, store), key=lambda pair: -pair.accepted)]


def most_frequent(pairs: Sequence[AcceptedPair]) -> list[AcceptedPair]:
    """Return the pairs that the report shows."""
    return sorted(pairs, key=lambda pair: -pair.accepted)[:MOST]


def table(pairs: Sequence[AcceptedPair]) -> str:
    """Return the pairs as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(AcceptedPair)]
    writer.writerow(names)
    writer.writerows([getattr(pair, name) for name in names] for pair in pairs)
    return text.getvalue()


def _pairs(row: Row, store: Store) -> Iterator[AcceptedPair]:
    file = store.folder(row.measure) / ACCEPTED
    if not file.is_file():
        return
    counts = map_array(file)
    inside = row.measure.id_scores.fit.train.base.images.opened
    outside = row.measure.ood_scores.images.opened
    sizes = np.bincount(outside.labels.numpy(), minlength=len(outside.classes))
    for foreign, known in np.argwhere(counts):
        yield AcceptedPair(
            variant=row.variant,
            case=row.case,
            draw=row.draw,
            seed=row.seed,
            scorer=row.scorer,
            id_set=row.id_set,
            ood_set=row.ood_set,
            ood_class=outside.classes[foreign],
            id_class=inside.classes[known],
            accepted=int(counts[foreign, known]),
            images=int(sizes[foreign]),
        )

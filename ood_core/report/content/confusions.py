"""How each OOD class fares: how well it is told from ID, and as which ID classes it is accepted (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from statistics import mean
from typing import Any

import numpy as np
import torch

from ood_core.evaluation.metrics import threshold
from ood_core.pipeline.measure import ACCEPTED, Compared
from ood_core.records.findings import AcceptedPair, ClassRow, WhichRow
from ood_core.records.stages import Extraction, Row
from ood_core.store.artifacts import load_outputs
from ood_core.store.store import Store, map_array

MOST = 12
"""Pairs shown in the report; the paper shows as many."""

HARDEST = 3
"""Classes named for each line of the report."""


@dataclass(frozen=True)
class Hardest:
    """The OOD classes of one line that are hardest to tell from ID; AUROCs are means over the repeats."""

    variant: str
    case: str
    scorer: str
    id_set: str
    ood_set: str
    classes: tuple[tuple[str, float], ...]
    of: int


def accepted_pairs(row: Row, found: Compared, store: Store) -> list[AcceptedPair]:
    """Return all pairs that occur, the most frequent first; none where no classifier tells ID classes apart."""
    if ACCEPTED not in store.names(row.measure):
        return []
    counts = map_array(store.file(row.measure, ACCEPTED))
    inside, outside = row.measure.id_scores.fit.train.base.images.opened, row.measure.ood_scores.images.opened
    sizes = np.bincount(_labels(row, found, store), minlength=len(outside.classes))
    pairs = [
        AcceptedPair(
            **_which(row),
            ood_class=outside.classes[foreign],
            id_class=inside.classes[known],
            accepted=int(counts[foreign, known]),
            images=int(sizes[foreign]),
        )
        for foreign, known in np.argwhere(counts)
    ]
    return sorted(pairs, key=lambda pair: -pair.accepted)


def class_rows(row: Row, found: Compared, store: Store) -> Iterator[ClassRow]:
    """Yield a line for each OOD class of which images were measured."""
    names, labels = row.measure.ood_scores.images.opened.classes, _labels(row, found, store)
    known, foreign = np.sort(found.inside.numpy()), found.outside.numpy()
    twice_below = np.searchsorted(known, foreign) + np.searchsorted(known, foreign, side="right")
    below = np.bincount(labels, weights=twice_below, minlength=len(names)) / (2 * len(known))
    accepted = np.bincount(labels[foreign <= threshold(found.inside)], minlength=len(names))
    for label, images in enumerate(np.bincount(labels, minlength=len(names))):
        if images:
            yield ClassRow(
                **_which(row),
                ood_class=names[label],
                images=int(images),
                accepted=int(accepted[label]),
                auroc=float(below[label] / images),
            )


def most_frequent(pairs: Sequence[AcceptedPair]) -> list[AcceptedPair]:
    """Return the pairs that the report shows."""
    return sorted(pairs, key=lambda pair: -pair.accepted)[:MOST]


def hardest(classes: Sequence[ClassRow]) -> list[Hardest]:
    """Return for each line of the table the classes with the lowest AUROC; left out where a set has just one class."""
    lines: dict[tuple[str, str, str, str, str], dict[str, list[float]]] = {}
    for row in classes:
        line = lines.setdefault((row.variant, row.case, row.scorer, row.id_set, row.ood_set), {})
        line.setdefault(row.ood_class, []).append(row.auroc)
    return [Hardest(*which, _lowest(line), len(line)) for which, line in lines.items() if len(line) > 1]


def _lowest(line: Mapping[str, Sequence[float]]) -> tuple[tuple[str, float], ...]:
    means = [(name, mean(of)) for name, of in line.items()]
    return tuple(sorted(means, key=itemgetter(1))[:HARDEST])


def _which(row: Row) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(WhichRow)}


def _labels(row: Row, found: Compared, store: Store) -> Any:
    """Return the labels of the OOD images that count."""
    labels: torch.Tensor = load_outputs(Extraction(row.measure.ood_scores.outputs.base), store).labels
    return labels[found.kept].numpy()

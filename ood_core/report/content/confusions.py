"""How well each OOD class is separated from ID, and as which ID classes it is accepted (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from statistics import mean

from ood_core.pipeline.measure import Measured
from ood_core.records.report_data import AcceptedPair, ClassRow, ClassRowKey
from ood_core.records.stages import MeasureStage

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


def accepted_pairs(key: ClassRowKey, stage: MeasureStage, measured: Measured) -> list[AcceptedPair]:
    """Return all pairs of classes that occur, the most frequent first; none without a classifier."""
    if measured.accepted is None:
        return []
    id_classes, ood_classes = (of.images.opened.classes for of in (stage.fit.train.base, stage.ood_scores))
    counts, images = measured.accepted.tolist(), measured.classes["images"].tolist()
    pairs = [
        AcceptedPair(**asdict(key), ood_class=name, id_class=id_class, accepted=accepted, images=of)
        for name, of, of_name in zip(ood_classes, images, counts, strict=True)
        for id_class, accepted in zip(id_classes, of_name, strict=True)
        if accepted
    ]
    return sorted(pairs, key=lambda pair: -pair.accepted)


def class_rows(key: ClassRowKey, stage: MeasureStage, measured: Measured) -> Iterator[ClassRow]:
    """Yield a line for each OOD class of which images were measured."""
    names = stage.ood_scores.images.opened.classes
    for name, (images, accepted, auroc) in zip(names, measured.classes.tolist(), strict=True):
        if images:
            yield ClassRow(**asdict(key), ood_class=name, images=images, accepted=accepted, auroc=auroc)


def most_frequent(pairs: Sequence[AcceptedPair]) -> list[AcceptedPair]:
    """Return the pairs that the report shows."""
    return sorted(pairs, key=lambda pair: -pair.accepted)[:MOST]


def hardest(classes: Sequence[ClassRow]) -> list[Hardest]:
    """Return for each line of the table the classes with the lowest AUROC; left out where a set has just one class."""
    lines: dict[tuple[str, str, str, str, str], dict[str, list[float]]] = {}
    for row in classes:
        line = lines.setdefault((row.variant, row.case, row.scorer, row.id_set, row.ood_set), {})
        line.setdefault(row.ood_class, []).append(row.auroc)
    found = []
    for key, line in lines.items():
        if len(line) > 1:
            means = sorted(((name, mean(aurocs)) for name, aurocs in line.items()), key=itemgetter(1))
            found.append(Hardest(*key, tuple(means[:HARDEST]), len(line)))
    return found

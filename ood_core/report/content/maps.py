"""Maps of what networks make of the images, in the first two principal components of the ID training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ood_core.records.findings import EmbeddingMap, MapSet
from ood_core.records.stages import Extraction, Plan, Row
from ood_core.store.artifacts import load_outputs
from ood_core.store.store import Store

FITTED = 5000
"""Training images that the components are computed from, at most; evenly over all of them."""

POINTS = 400
"""Images of each set on a map, at most; evenly over all of them."""


@dataclass(frozen=True)
class _Wanted:
    """The extractions that make a map: the training images, then the sets on it."""

    train: Extraction
    sets: tuple[Extraction, ...]

    def __hash__(self) -> int:
        return hash(self.keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Wanted) and self.keys == other.keys

    @property
    def keys(self) -> tuple[str, ...]:
        """By which equal maps are found."""
        return tuple(extraction.base.key for extraction in (self.train, *self.sets))


def gather(plan: Plan, store: Store) -> tuple[EmbeddingMap, ...]:
    """Return a map for each variant and case at its first seed and draw; variants with equal maps share one.

    Rows without results, because a stage failed, are not looked at.
    """
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in plan.rows:
        if store.facts(row.measure) is not None:
            grouped.setdefault((row.variant, row.case), []).append(row)
    shared: dict[_Wanted, list[Row]] = {}
    for rows in grouped.values():
        shared.setdefault(_wanted(rows), []).append(rows[0])
    maps = (_map(wanted, rows, store) for wanted, rows in shared.items())
    return tuple(found for found in maps if found is not None)


def _wanted(rows: Sequence[Row]) -> _Wanted:
    """Return what the first seed and draw has extracted, the ID test images first."""
    first = rows[0]
    same = [row for row in rows if (row.seed, row.draw) == (first.seed, first.draw)]
    sets: dict[str, Extraction] = {}
    for scores in (first.measure.id_scores, *(row.measure.ood_scores for row in same)):
        sets.setdefault(scores.outputs.base.key, replace(scores.outputs, probes=()))
    return _Wanted(replace(first.measure.id_scores.fit.train, probes=()), tuple(sets.values()))


def _map(wanted: _Wanted, rows: Sequence[Row], store: Store) -> EmbeddingMap | None:
    """Return the map; none where the embeddings have no two dimensions."""
    from sklearn.decomposition import PCA  # slow

    train, _ = _spread(wanted.train, FITTED, store)
    if min(train.shape) < 2:
        return None
    components = PCA(2, svd_solver="covariance_eigh").fit(train.astype(np.float64))
    sets = []
    for place, extraction in enumerate(wanted.sets):
        embeddings, labels = _spread(extraction, POINTS, store)
        points = components.transform(embeddings.astype(np.float64)).astype(np.float32)
        sets.append(MapSet(str(extraction.base.images), place == 0, points, labels))
    variants = " / ".join(dict.fromkeys(row.variant for row in rows))
    return EmbeddingMap(variants, rows[0].case, rows[0].seed, tuple(sets))


def _spread(extraction: Extraction, most: int, store: Store) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return embeddings and class names of at most so many images, evenly over the set."""
    outputs = load_outputs(extraction, store)
    places = np.unique(np.linspace(0, len(outputs) - 1, min(most, len(outputs))).astype(np.int64))
    classes = extraction.base.images.opened.classes
    labels = tuple(classes[int(label)] for label in outputs.labels.numpy()[places])
    return outputs.embeddings.numpy()[places], labels

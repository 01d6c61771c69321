"""Maps of the embeddings of networks in the first two principal components of the ID training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ood_core.records.plan import Plan, Row
from ood_core.records.report_data import EmbeddingMap, EmbeddingPoints
from ood_core.records.stages import Extraction
from ood_core.store.artifacts import load_outputs
from ood_core.store.store import Store

FITTED = 5000
"""Training images that the components are computed from, at most; evenly over all of them."""

POINTS = 400
"""Images of each set on a map, at most; evenly over all of them."""


def collect(plan: Plan, store: Store) -> tuple[EmbeddingMap, ...]:
    """Return a map for each variant and case at its first seed and draw; variants with equal maps share one.

    Rows without results, because a stage failed, are left out.
    """
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in plan.rows:
        if store.facts(row.measure) is not None:
            grouped.setdefault((row.variant, row.case), []).append(row)
    shared: dict[tuple[str, ...], tuple[list[Extraction], list[Row]]] = {}
    for rows in grouped.values():
        first = rows[0]
        same = [row.measure.ood_scores for row in rows if (row.seed, row.draw) == (first.seed, first.draw)]
        outputs = [first.measure.fit.train, *(scores.outputs for scores in (first.measure.id_scores, *same))]
        train, *tests = (replace(extraction, probes=()) for extraction in outputs)
        extractions = [train, *{extraction.base.key: extraction for extraction in tests}.values()]
        key = tuple(extraction.base.key for extraction in extractions)
        shared.setdefault(key, (extractions, []))[1].append(rows[0])
    return tuple(drawn for extractions, rows in shared.values() for drawn in _maps(extractions, rows, store))


def _maps(extractions: Sequence[Extraction], rows: Sequence[Row], store: Store) -> Iterator[EmbeddingMap]:
    """Yield the map, unless the embeddings have no two dimensions."""
    train, _ = _spread(extractions[0], FITTED, store)
    if min(train.shape) < 2:
        return
    mean, components = _principal_components(train.astype(np.float64))
    sets = []
    for place, extraction in enumerate(extractions[1:]):
        embeddings, labels = _spread(extraction, POINTS, store)
        name, images = str(extraction.base.images), len(extraction.base.images.opened)
        points = ((embeddings.astype(np.float64) - mean) @ components).astype(np.float32)
        sets.append(EmbeddingPoints(name, place == 0, points, labels, images))
    variants = " / ".join(dict.fromkeys(row.variant for row in rows))
    yield EmbeddingMap(variants, rows[0].case, rows[0].seed, tuple(sets))


def _principal_components(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean [D] and the first two components [D, 2], the largest loading of each positive.

    As scikit-learn's PCA, whose import takes longer than all else in the report of a small run.
    """
    vectors = np.linalg.eigh(np.cov(rows, rowvar=False))[1][:, :-3:-1]
    return rows.mean(0), vectors * np.sign(vectors[np.abs(vectors).argmax(0), [0, 1]])


def _spread(extraction: Extraction, most: int, store: Store) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return embeddings and class names of at most so many images, evenly over the set."""
    outputs = load_outputs(extraction, store)
    places = np.unique(np.linspace(0, len(outputs) - 1, min(most, len(outputs))).astype(np.int64))
    classes = extraction.base.images.opened.classes
    labels = tuple(classes[int(label)] for label in outputs.labels.numpy()[places])
    return outputs.embeddings.numpy()[places], labels

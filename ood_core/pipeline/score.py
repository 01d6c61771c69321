"""Scores the outputs of a data set with a fitted score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ood_core.data.loaders import BROKEN, evaluation_batches
from ood_core.data.selection import to_unit
from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score
from ood_core.interfaces.checks import check_scores, first_not_finite
from ood_core.pipeline import networks
from ood_core.pipeline.events import Observer
from ood_core.pipeline.extract import shown
from ood_core.records.stages import ScoreStage
from ood_core.runtime import memory
from ood_core.store.artifacts import SCORE, load_outputs, load_score
from ood_core.store.files import create_array
from ood_core.store.store import Store

SCORES = "scores.npy"
BATCH_SIZE = 64
"""Images that go through the network at once for a scorer that needs it: a gradient takes more memory than a pass."""


def execute(stage: ScoreStage, store: Store, observer: Observer) -> None:
    """Score chunk by chunk, and file the scores, float64 [N]."""
    outputs = load_outputs(stage.outputs, store)
    score: Score = load_score(store.file(stage.fit, SCORE), stage.fit.scorer)
    with store.put(stage) as (folder, facts):
        scores = create_array(folder / SCORES, (len(outputs),), float)
        done, in_parts = 0, memory.Halving()
        for chunk in _chunks(stage, store, outputs):
            given = chunk.declared_by(stage.fit.scorer).without_labels()
            found = torch.cat(in_parts(lambda part: check_scores(stage.fit.name, score(part), len(part)), given))
            if (row := first_not_finite(found)) is not None:
                raise OODError(f"scorer '{stage.fit.name}' gave {float(found[row])} for row {done + row}")
            scores[done : done + len(chunk)] = found.numpy()
            done += len(chunk)
            observer.progress(done, len(outputs))
        scores.flush()
        facts["images"] = len(outputs)


def _chunks(stage: ScoreStage, store: Store, outputs: Outputs) -> Iterator[Outputs]:
    if "network" not in stage.fit.scorer.all_needs():
        yield from outputs.chunks()
        return
    base, start = stage.outputs.base, 0
    network = networks.extracted(base, store)
    for batch in evaluation_batches(base.images.opened, shown(base, network), BATCH_SIZE):
        images = batch.images[batch.digests != BROKEN]
        if len(images):
            rows = outputs[start : start + len(images)]
            yield replace(rows, network=network, images=to_unit(images.to(networks.device())))
        start += len(images)

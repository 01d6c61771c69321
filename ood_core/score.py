"""Scores the outputs of a data set with a fitted score."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score
from ood_core.stages import Observer, ScoreStage
from ood_core.store import Store, create_array, load_outputs, load_score

SCORES = "scores.npy"


def execute(stage: ScoreStage, store: Store, observer: Observer) -> None:
    """Score chunk by chunk, and file the scores, float64 [N]."""
    outputs = load_outputs(store.folder(stage.outputs), stage.outputs.classes).without_labels()
    score = load_score(store.folder(stage.fit), stage.fit.scorer.scores)
    with store.put(stage) as (folder, facts):
        scores = create_array(folder / SCORES, (len(outputs),), float)
        done = 0
        for chunk in outputs.chunks():
            scores[done : done + len(chunk)] = _checked(stage, score, chunk, done).numpy()
            done += len(chunk)
            observer.progress(done, len(outputs))
        scores.flush()
        facts["images"] = len(outputs)


def _checked(stage: ScoreStage, score: Score, chunk: Outputs, first: int) -> Tensor:
    """Return the scores of a chunk, and refuse what is no score for each row."""
    scores = score(chunk).cpu()
    if scores.shape != (len(chunk),) or scores.dtype != torch.float64:
        shape = f"{str(scores.dtype).removeprefix('torch.')} {list(scores.shape)}"
        raise OODError(f"scorer '{stage.fit.name}' gave {shape}, not float64 [{len(chunk)}]")
    if not (finite := scores.isfinite()).all():
        row = first + int((~finite).nonzero()[0])
        raise OODError(f"scorer '{stage.fit.name}' gave {float(scores[row - first])} for row {row}")
    return scores

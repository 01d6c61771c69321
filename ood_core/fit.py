"""Fits a scorer to the outputs of the ID training images."""

from __future__ import annotations

import torch

from ood_core.data import step_seed
from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Scorer
from ood_core.stages import FitStage, Observer
from ood_core.store import Store, load_outputs, plain_values, save_score


def execute(stage: FitStage, store: Store, observer: Observer) -> None:
    """Fit, and file the score; its plain values are recorded as facts."""
    outputs = load_outputs(store.folder(stage.train), stage.train.classes)
    _refuse_missing(stage.scorer, outputs)
    with store.put(stage) as (folder, facts):
        torch.manual_seed(step_seed(stage.seed, 0, "fit"))
        score = stage.scorer.fit(outputs)
        save_score(folder, score)
        facts["fitted"] = plain_values(score)
    observer.progress(1, 1)


def _refuse_missing(scorer: Scorer, outputs: Outputs) -> None:
    if scorer.needs & {"logits", "head"} and outputs.head is None:
        raise OODError(
            f"scorer '{scorer.name}' needs logits, and the backbone has no classifier with {outputs.classes} outputs, "
            "one for each ID class; add a pretext that trains one, such as classification"
        )

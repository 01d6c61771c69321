"""Fits a scorer to the outputs of the ID training images."""

from __future__ import annotations

import logging
from dataclasses import replace

from ood_core.data.loaders import step_seed
from ood_core.errors import OODError
from ood_core.interfaces import Outputs
from ood_core.interfaces.checks import check_fitted
from ood_core.pipeline.events import Observer
from ood_core.records.stages import FitStage
from ood_core.runtime import memory, torch_state
from ood_core.runtime.memory import much
from ood_core.store.artifacts import load_outputs, load_together, plain_values, save_score
from ood_core.store.store import Store

_LOG = logging.getLogger(__name__)


def execute(stage: FitStage, store: Store, observer: Observer) -> None:
    """Fit, and file the score; its plain values are recorded as facts."""
    outputs = load_outputs(stage.train, store)
    _refuse_missing(stage, outputs)
    held_out = None if stage.held_out is None else load_outputs(stage.held_out, store)
    known_ood = load_together(stage.known_ood, store) if stage.known_ood else None
    size = sum(part.memory(outputs.classes, outputs.embeddings.shape[1]) for part in stage.scorer.parts())
    if said := much(stage.scorer.name, size):
        _LOG.warning(said)
    with store.put(stage) as (folder, facts):
        torch_state.seed_all(step_seed(stage.seed, 0, "fit"))
        given = replace(outputs, held_out=held_out, known_ood=known_ood).declared_by(stage.scorer)
        with memory.exhaustion_explained(f"fitting scorer '{stage.name}': fit it to fewer images, see 'fit_images'"):
            score = check_fitted(stage.name, stage.scorer, stage.scorer.fit(given))
        save_score(folder, score)
        facts["fitted"] = plain_values(score)
    observer.progress(1, 1)


def _refuse_missing(stage: FitStage, outputs: Outputs) -> None:
    needs = stage.scorer.all_needs()
    if needs & {"logits", "head"} and not outputs.logits.shape[1]:
        raise OODError(
            f"scorer '{stage.scorer.name}' needs logits, and the backbone has no classifier with {outputs.classes} "
            "outputs, one for each ID class; add a pretext that trains one, such as classification"
        )
    if "head" in needs and outputs.head is None:
        raise OODError(
            f"scorer '{stage.scorer.name}' needs the linear layer that makes the logits of the embeddings, and the "
            "backbone's logits are made otherwise; scorers of logits or of embeddings alone can be fitted"
        )

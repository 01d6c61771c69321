"""Fits a scorer to the outputs of the ID training images."""

from __future__ import annotations

import logging
from dataclasses import replace

from ood_core.data.loaders import step_seed
from ood_core.interfaces.checks import fit_scorer
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
    held_out = None if stage.held_out is None else load_outputs(stage.held_out, store)
    known_ood = load_together(stage.known_ood, store) if stage.known_ood else None
    size = sum(part.memory(outputs.classes, outputs.embeddings.shape[1]) for part in stage.scorer.parts())
    if said := much(stage.scorer.name, size):
        _LOG.warning(said)
    with store.put(stage) as (folder, facts):
        torch_state.seed_all(step_seed(stage.seed, 0, "fit"))
        train = replace(outputs, held_out=held_out, known_ood=known_ood)
        with memory.exhaustion_explained(f"fitting scorer '{stage.name}': fit it to fewer images, see 'fit_images'"):
            score = fit_scorer(stage.name, stage.scorer, train)
        save_score(folder, score)
        facts["fitted"] = plain_values(score)
    observer.progress(1, 1)

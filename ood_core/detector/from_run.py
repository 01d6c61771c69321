"""The detector of a finished run: only the embeddings of the reference images are computed again."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ood_core.detector.bundle import restored_task
from ood_core.detector.forward import compute_outputs
from ood_core.detector.image_inputs import preprocess
from ood_core.detector.state import DetectorState, Examples, FittedScorer, Origin, Preprocessing, TrainedTask, head_of
from ood_core.errors import OODError, suggest
from ood_core.evaluation import TPR, metrics
from ood_core.evaluation.calibration import Calibration, highest_tpr
from ood_core.interfaces import PretextTask
from ood_core.pipeline import networks
from ood_core.pipeline.extract import ROWS
from ood_core.pipeline.score import SCORES
from ood_core.records.plan import Plan, Row
from ood_core.records.stages import Extraction, MeasureStage, TrainStage
from ood_core.runtime import torch_state
from ood_core.store.artifacts import SCORE, load_outputs, load_score
from ood_core.store.files import load_array, load_tensors
from ood_core.store.store import Store

EXAMPLES = 1000  # maximum number of ID training images in a detector
THUMBNAIL = 96  # pixels of their longer side
REFERENCE_IMAGES = 2  # images with their embeddings in a detector, to notice a changed network


@dataclass(frozen=True)
class NetworkChoice:
    """One of the networks of a run; default: the first seed, the only variant and case."""

    variant: str | None = None
    case: str | None = None
    seed: int | None = None


@torch_state.computing()
def build_detector(plan: Plan, store: Store, choice: NetworkChoice = NetworkChoice()) -> DetectorState:
    """Return the detector of a run whose stages are in the store; one of several networks has to be chosen.

    Where its calibration images are too few for `TPR`, it accepts the highest rate that they guarantee by default.
    """
    done = [row for row in _chosen_rows(plan, choice) if store.facts(row.measure) is not None]
    if not done:
        raise OODError(
            f"{plan.name}: its stages are not in the store {store.root}: another store has them, or another version "
            "ran the recipe; run it again"
        )
    first = done[0]
    base, train = first.measure.id_scores.outputs.base, first.measure.fit.train
    network, opened = networks.extracted(base, store), train.base.images.opened
    read = load_outputs(Extraction(train.base), store)
    recipe = plan.resolved.get(f"{first.variant}, seed {first.seed}", {})
    measures = {row.scorer: row.measure for row in reversed(done)}
    scorers = tuple(_scorer(name, measures[name], store) for name in dict.fromkeys(row.scorer for row in done))
    preprocessing = Preprocessing(base.image_size, base.view)
    rows = np.random.default_rng(0).permutation(len(opened))[:REFERENCE_IMAGES]
    reference = torch.stack([preprocess(opened.readable(int(row)).pixels, preprocessing) for row in rows])
    return DetectorState(
        network=network,
        backbone=base.backbone,
        classifier=read.logits.shape[1] > 0,
        head=head_of(network) if read.head is not None else None,
        classes=opened.classes,
        preprocessing=preprocessing,
        scorers=scorers,
        holdout=opened.holdout,
        id_accuracy=_id_accuracy(first.measure, store),
        tpr=min(TPR, *(highest_tpr(len(of.calibration)) for of in scorers)),
        independent=not any(measure.fit.held_out is not None for measure in measures.values()),
        origin=Origin(plan.name, recipe, first.variant, first.case, first.seed),
        reference_images=reference,
        reference_embeddings=compute_outputs(network, reference)[0].embeddings,
        examples=_examples(train, store),
        trained_task=_trained_task(base.weights, store),
    )


def has_one_network(plan: Plan) -> bool:
    """Return whether a run has one network, apart from seeds and draws, so that no choice is needed."""
    return len({(row.variant, row.case) for row in plan.rows}) == 1


def _chosen_rows(plan: Plan, choice: NetworkChoice) -> list[Row]:
    """Return the rows of one network; default: the first draw of the first seed."""
    rows = list(plan.rows)
    for field in ("variant", "case", "seed"):
        names = list(dict.fromkeys(str(getattr(row, field)) for row in rows))
        wanted = getattr(choice, field)
        if wanted is None and field != "seed" and len(names) > 1:
            more = f", or one of {len(names) - 8} more" if len(names) > 8 else ""
            shown = ", ".join(f"'{name}'" for name in names[:8]) + more
            raise OODError(f"{plan.name} has {len(names)} {field}s; choose one: --{field} {shown}")
        chosen = names[0] if wanted is None else str(wanted)
        if chosen not in names:
            raise OODError(f"{plan.name} has no {field} '{chosen}'.{suggest(chosen, names)}")
        rows = [row for row in rows if str(getattr(row, field)) == chosen]
    return [row for row in rows if row.draw == rows[0].draw]


def _scorer(name: str, measure: MeasureStage, store: Store) -> FittedScorer:
    if measure.held_scores is None:
        raise OODError("no ID images were held out to set a threshold by; give 'data' a 'holdout', such as 0.2")
    held = load_outputs(Extraction(measure.held_scores.outputs.base), store)
    predicted = held.logits.argmax(1).numpy() if held.logits.shape[1] else None
    scores: NDArray[np.float64] = load_array(store.file(measure.held_scores, SCORES)).numpy()
    score = load_score(store.file(measure.fit, SCORE), measure.fit.scorer)
    return FittedScorer(name, measure.fit.scorer, score, Calibration.of(scores, predicted))


def _id_accuracy(measure: MeasureStage, store: Store) -> float | None:
    if measure.held_scores is None:
        return None
    held = load_outputs(Extraction(measure.held_scores.outputs.base), store)
    return metrics.accuracy(held.logits, held.labels) if held.logits.shape[1] and held.classes > 1 else None


def _examples(train: Extraction, store: Store) -> Examples:
    read, opened = load_outputs(Extraction(train.base), store), train.base.images.opened
    rows = choose_examples(read.labels.numpy())
    pictures = tuple(thumbnail(opened.pixels(int(row))) for row in load_array(store.file(train.base, ROWS))[rows])
    return Examples(read.embeddings[rows].clone(), read.labels[rows].clone(), pictures)


def choose_examples(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return at most `EXAMPLES` rows, ascending, drawn at random from each class in turn."""
    order = np.random.default_rng(0).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # of an image within its class
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        rank[rows] = np.arange(len(rows))
    return np.sort(np.lexsort((labels, rank))[:EXAMPLES])


def thumbnail(pixels: Tensor) -> bytes:
    """Encode a picture, uint8 [3, H, W], as WebP of at most `THUMBNAIL` pixels a side."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    small = max(image.size) <= THUMBNAIL // 2  # below that lossy compression shows
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    encoded = BytesIO()
    image.save(encoded, "WEBP", lossless=small, quality=80)
    return encoded.getvalue()


def _trained_task(stage: TrainStage | None, store: Store) -> TrainedTask | None:
    """Return the last training task that is used after the training."""
    while stage is not None:
        if networks.TASK in store.names(stage) and isinstance(stage.task, PretextTask):
            network, state = networks.trained(stage, store), load_tensors(store.file(stage, networks.TASK))
            return restored_task(stage.task, network, state, stage.image_size, networks.device())
        stage = stage.start
    return None

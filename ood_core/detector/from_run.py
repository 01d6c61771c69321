"""From a run that is done to its detector: nothing is computed again but the embeddings of a few witnesses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ood_core.detector.forward import compute_outputs
from ood_core.detector.image_inputs import preprocess
from ood_core.detector.loading import restored_task
from ood_core.detector.state import DetectorState, Examples, FittedScorer, Origin, Preprocessing, TrainedTask, head_of
from ood_core.errors import OODError, suggest
from ood_core.evaluation import metrics
from ood_core.evaluation.calibration import Calibration
from ood_core.interfaces import PretextTask
from ood_core.pipeline import networks
from ood_core.pipeline.extract import ROWS
from ood_core.pipeline.score import SCORES
from ood_core.records.stages import Extraction, MeasureStage, Plan, Row, TrainStage
from ood_core.runtime import torch_state
from ood_core.store.artifacts import SCORE, load_outputs, load_score
from ood_core.store.store import Store, load_array, load_tensors

EXAMPLES = 1000
"""ID training images that a detector keeps, at most."""

THUMBNAIL = 96
"""Pixels of their longer side."""

WITNESSES = 2
"""Images kept with a detector by which a changed network is noticed."""


@dataclass(frozen=True)
class NetworkChoice:
    """Which of the networks of a run; None takes the first seed, or the only variant and case."""

    variant: str | None = None
    case: str | None = None
    seed: int | None = None


@torch_state.computing()
def build_detector(plan: Plan, store: Store, choice: NetworkChoice = NetworkChoice()) -> DetectorState:
    """Return the detector of a run whose stages are in the store.

    Raises:
        OODError: The run has several networks and none is chosen, no ID images were held out, or stages are missing.
    """
    rows = _chosen(plan, choice)
    done = [row for row in rows if store.facts(row.measure) is not None]
    if not done:
        raise OODError(
            f"{plan.name}: its stages are not in the store {store.root}: another store has them, or another version "
            "ran the recipe; run it again"
        )
    first = done[0]
    base, train = first.measure.id_scores.outputs.base, first.measure.fit.train
    network = networks.extracted(base, store)
    read = load_outputs(Extraction(train.base), store)
    classifier = read.logits.shape[1] > 0
    head = head_of(network) if read.head is not None else None
    preprocessing = Preprocessing(base.image_size, base.view)
    measures = {row.scorer: row.measure for row in reversed(done)}
    scorers = tuple(_scorer(name, measures[name], store) for name in dict.fromkeys(row.scorer for row in done))
    reference_images = _views(train, preprocessing, WITNESSES)
    return DetectorState(
        network=network,
        backbone=base.backbone,
        classifier=classifier,
        head=head,
        classes=train.base.images.opened.classes,
        preprocessing=preprocessing,
        scorers=scorers,
        holdout=first.measure.fit.train.base.images.opened.holdout,
        id_accuracy=_id_accuracy(first.measure, store),
        independent=not any(measure.fit.held_out is not None for measure in measures.values()),
        origin=Origin(
            name=plan.name,
            recipe=plan.resolved.get(f"{first.variant}, seed {first.seed}", {}),
            variant=first.variant,
            case=first.case,
            seed=first.seed,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        reference_images=reference_images,
        reference_embeddings=compute_outputs(network, reference_images)[0].embeddings,
        examples=_examples(train, store),
        trained_task=_trained_task(base.weights, store),
    )


def has_one_network(plan: Plan) -> bool:
    """Return whether a run has one network, but for seeds and draws, so that nobody has to choose."""
    return len({(row.variant, row.case) for row in plan.rows}) == 1


def _chosen(plan: Plan, choice: NetworkChoice) -> list[Row]:
    """Return the rows of one network, the first draw of the first seed unless one is chosen."""
    rows = list(plan.rows)
    for field in ("variant", "case", "seed"):
        known = list(dict.fromkeys(str(getattr(row, field)) for row in rows))
        wanted = getattr(choice, field)
        if wanted is None and field != "seed" and len(known) > 1:
            raise OODError(f"{plan.name} has {len(known)} {field}s; choose one: --{field} {_listed(known)}")
        chosen = known[0] if wanted is None else str(wanted)
        if chosen not in known:
            raise OODError(f"{plan.name} has no {field} '{chosen}'.{suggest(chosen, known)}")
        rows = [row for row in rows if str(getattr(row, field)) == chosen]
    return [row for row in rows if row.draw == rows[0].draw]


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f", or one of {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


def _scorer(name: str, measure: MeasureStage, store: Store) -> FittedScorer:
    if measure.held_scores is None:
        raise OODError("no ID images were held out to set a threshold by; give 'data' a 'holdout', such as 0.2")
    held = load_outputs(Extraction(measure.held_scores.outputs.base), store)
    predicted = held.logits.argmax(1).numpy() if held.logits.shape[1] else None
    scores: NDArray[np.float64] = load_array(store.file(measure.held_scores, SCORES)).numpy()
    return FittedScorer(
        name=name,
        scorer=measure.fit.scorer,
        score=load_score(store.file(measure.fit, SCORE), measure.fit.scorer),
        calibration=Calibration.of(scores, predicted),
    )


def _id_accuracy(measure: MeasureStage, store: Store) -> float | None:
    """Return the accuracy on the held-out images; None where nothing tells classes apart."""
    if measure.held_scores is None:
        return None
    held = load_outputs(Extraction(measure.held_scores.outputs.base), store)
    if not held.logits.shape[1] or held.classes < 2:
        return None
    return metrics.accuracy(held.logits, held.labels)


# ---------------------------------------------------------------------------------------------------- for explanations


def _views(train: Extraction, preprocessing: Preprocessing, count: int) -> Tensor:
    """Return some training images as the network is shown them, uint8 [n, 3, S, S]."""
    opened = train.base.images.opened
    places = np.random.default_rng(0).permutation(len(opened))[:count]
    return torch.stack([preprocess(opened.readable(int(place)).pixels, preprocessing) for place in places])


def _examples(train: Extraction, store: Store) -> Examples:
    """Return training images, the same number of each class as far as there are so many."""
    read, opened = load_outputs(Extraction(train.base), store), train.base.images.opened
    places = np.array(sorted(spread(read.labels.numpy(), EXAMPLES)))
    rows = load_array(store.file(train.base, ROWS))[places]
    pictures = tuple(thumbnail(opened.pixels(int(row))) for row in rows)
    return Examples(read.embeddings[places].clone(), read.labels[places].clone(), pictures)


def spread(labels: NDArray[np.int64], most: int) -> list[int]:
    """Return at most so many places, of each class in turn, drawn at random."""
    order = np.random.default_rng(0).permutation(len(labels))
    of_class = [iter(order[labels[order] == label]) for label in np.unique(labels)]
    found: list[int] = []
    while of_class and len(found) < most:
        of_class = [rest for rest in of_class if _took(rest, found)]
    return found[:most]


def _took(places: Iterator[np.int64], found: list[int]) -> bool:
    place = next(places, None)
    if place is not None:
        found.append(int(place))
    return place is not None


def thumbnail(pixels: Tensor) -> bytes:
    """Return a picture, uint8 [3, H, W], as WebP of at most `THUMBNAIL` pixels a side."""
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
            network = networks.trained(stage, store)
            weights, state = dict(network.state_dict()), load_tensors(store.file(stage, networks.TASK))
            return restored_task(stage.task, network, weights, state, stage.image_size, networks.device())
        stage = stage.start
    return None

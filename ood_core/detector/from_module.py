"""Fits a detector to a network and images, without any recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.data.selection import MUCH, cut_away, to_unit
from ood_core.detector import accuracy
from ood_core.detector.forward import OutputSpec, compute_outputs, concatenate_outputs, score_images
from ood_core.detector.from_run import REFERENCE_IMAGES, choose_examples, thumbnail
from ood_core.detector.image_inputs import ImageRef, iter_batches
from ood_core.detector.image_progress import image_progress
from ood_core.detector.labelled_data import LabelledImages
from ood_core.detector.predictions import ScoredBatch, concatenate
from ood_core.detector.state import (
    DetectorOptions,
    DetectorState,
    Examples,
    FittedScorer,
    Origin,
    Preprocessing,
    device_of,
    head_of,
)
from ood_core.detector.wrapped_module import ModuleNetwork
from ood_core.errors import OODError, listed, warn
from ood_core.evaluation import metrics
from ood_core.evaluation.calibration import Calibration, highest_tpr, least_images
from ood_core.interfaces import Backbone, Head, Network, Outputs, Scorer
from ood_core.interfaces.checks import EXPLAINED, check_alone, fit_scorer, is_explained, require_finite, unmet_needs
from ood_core.pipeline import networks
from ood_core.plugins import Plugins
from ood_core.recipe.build import RecipeReader, label
from ood_core.recipe.yaml import LocatedValue
from ood_core.runtime import memory, torch_state

BATCH = 64
COMPARED = 8  # images on which a module's embeddings and logits are found


@torch_state.computing()
def fit_detector(
    module: Any,
    data: tuple[LabelledImages, LabelledImages],
    scorers: Sequence[tuple[str, Scorer]],
    options: DetectorOptions,
    progress: bool | None = None,
) -> DetectorState:
    """Fit scorers to the outputs of a module or backbone for ID images, and calibrate them on others.

    `data` are both; `progress` is that of `Detector.fit`.
    """
    (train, held_out), preprocessing = data, options.preprocessing
    classes = len(train.classes)
    _warn_of_few(len(held_out), options.tpr)
    images, names = _first_images(train, preprocessing)
    network = _network(module, images, train, names, options)
    has_logits, head = _has_logits(network, classes), _checked_head(network, images, classes)
    _require_needs(scorers, network, head, train)
    probes = tuple(dict.fromkeys(probe for _, scorer in scorers for probe in scorer.probes()))
    spec = OutputSpec(classes, has_logits, head, probes)
    read, held = (_read_outputs(network, part, preprocessing, spec, progress) for part in data)
    has_accuracy = has_logits and held_out.has_labels
    reference = (images[:REFERENCE_IMAGES] * 255).round().to(torch.uint8)
    uncalibrated = DetectorState(
        network=network,
        backbone=module if isinstance(module, Backbone) else None,
        classifier=has_logits,
        head=head,
        classes=train.classes,
        preprocessing=preprocessing,
        scorers=tuple(_fit_scorer(name, scorer, read, held, options.seed) for name, scorer in scorers),
        independent=not any("held_out" in scorer.all_needs() for _, scorer in scorers),
        id_accuracy=_checked_accuracy(network, held, held_out, preprocessing) if has_accuracy else None,
        holdout=options.holdout,
        tpr=options.tpr,
        per_class=options.per_class,
        origin=Origin(options.name, seed=options.seed),
        reference_images=reference,
        reference_embeddings=compute_outputs(network, reference)[0].embeddings,
        examples=_examples(train, read) if options.examples else None,
    )
    found = _score_all(uncalibrated, held_out, progress)
    calibrations = [Calibration.of(found.scores[of.name], found.predicted) for of in uncalibrated.scorers]
    fitted = [replace(of, calibration=by) for of, by in zip(uncalibrated.scorers, calibrations, strict=True)]
    return replace(uncalibrated, scorers=tuple(fitted))


def _warn_of_few(images: int, tpr: float) -> None:
    """Warn if calibration images cannot vouch for the TPR."""
    if images < least_images(tpr):
        warn(
            f"{images} calibration images can vouch for a TPR of {highest_tpr(images):g} at most, not {tpr:g}, "
            f"which needs {least_images(tpr)}: hold out more, or give Detector a lower tpr"
        )


def split_holdout(images: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Split off a share of each class, drawn at random, to calibrate on; raise OODError if one side is empty."""
    generator, train, held = np.random.default_rng(seed), [], []
    for one in np.unique(images.labels):
        rows = generator.permutation(np.flatnonzero(images.labels == one))
        count = round(len(rows) * share)
        held.append(rows[:count])
        train.append(rows[count:])
    inside, outside = np.sort(np.concatenate(train)), np.sort(np.concatenate(held))
    if not len(outside) and 1 < len(images) == len(np.unique(images.labels)):
        raise OODError(
            f"every one of {len(images)} images has a class of its own; is the second entry of each the label?"
        )
    if not len(inside) or not len(outside):
        raise OODError(f"a holdout of {share:g} of {len(images)} images leaves none to fit to, or none to calibrate by")
    return images[inside], images[outside]


def _first_images(train: LabelledImages, preprocessing: Preprocessing) -> tuple[Tensor, Sequence[str]]:
    """Return some network inputs, rounded to 8 bits, in [0, 1], and their names; warn if much of them is cut off."""
    sizes: list[tuple[int, int]] = []

    def pixels_with_size(image: ImageRef) -> Tensor:
        pixels = image.pixels()
        sizes.append((pixels.shape[1], pixels.shape[2]))
        return pixels

    rows = np.random.default_rng(0).permutation(len(train))[:COMPARED]
    images = [ImageRef(image.name, partial(pixels_with_size, image)) for image in train[rows].images]
    batch = next(iter_batches(images, preprocessing, COMPARED))
    batch.require_readable()
    if (share := cut_away(sizes, preprocessing.view)) > MUCH:
        warn(
            f"the central square leaves out {share:.0%} of the area of the images, which are not square; "
            "Detector(squash=True) resizes them whole"
        )
    return to_unit((to_unit(batch.images) * 255).round().to(torch.uint8)), batch.names


def _network(
    module: Any, images: Tensor, train: LabelledImages, names: Sequence[str], options: DetectorOptions
) -> Network:
    if not isinstance(module, Backbone):
        if not callable(module):
            raise OODError(f"a {type(module).__name__} is no backbone; give a torch module, a function, or a plugin's")
        wrapped = ModuleNetwork(module, options.mean, options.std)
        wrapped.find_sources(images, names, len(train.classes), options.embeddings, options.logits)
        return wrapped
    if options.embeddings is not None or options.logits is not None:
        raise OODError(f"backbone '{module.name}' has its own embeddings and logits; leave these options out")
    torch.manual_seed(0)  # as in an extraction: random parts of a backbone must not depend on what ran before
    network = networks.build(module, options.preprocessing.image_size, None)
    return network.to(networks.device()).eval().requires_grad_(False)


def _has_logits(network: Network, classes: int) -> bool:
    """Return whether the network has an output for each class, whatever makes it."""
    if isinstance(network, ModuleNetwork):
        return network.outputs == classes
    head = head_of(network)
    return head is not None and len(head.bias) == classes


@torch.inference_mode()
def _checked_head(network: Network, images: Tensor, classes: int) -> Head | None:
    """Return the linear layer that makes the logits of the ID classes; raise if outputs depend on other images."""
    images = images.to(device_of(network))
    features = network.forward_features(images)
    check_alone("the module gives", network, images, features, torch.arange(len(images), device=images.device))
    head = head_of(network)
    if head is None or len(head.bias) != classes:
        return None
    embeddings, logits = (network.forward_head(features, pre_logits=before).cpu() for before in (True, False))
    return head if is_explained(head, embeddings, logits) else None


def _read_outputs(
    network: Network, data: LabelledImages, preprocessing: Preprocessing, spec: OutputSpec, progress: bool | None
) -> Outputs:
    parts = []
    with image_progress("computing outputs", len(data), progress) as advance:
        for batch in iter_batches(data.images, preprocessing, BATCH, device_of(network)):
            batch.require_readable()
            found = compute_outputs(network, batch.images, spec)[0]
            read = {"embeddings": found.embeddings, "logits": found.logits, **found.layers}
            require_finite("the module gives", read, batch.names)
            parts.append(found)
            advance(len(batch.names))
    return replace(concatenate_outputs(parts), labels=torch.from_numpy(data.labels))


def _score_all(state: DetectorState, held_out: LabelledImages, progress: bool | None) -> ScoredBatch:
    """Return the scores of the held-out images, computed as for new images."""
    parts = []
    with image_progress("scoring", len(held_out), progress) as advance:
        for batch in iter_batches(held_out.images, state.preprocessing, BATCH, state.device):
            parts.append(score_images(state, batch.images))
            advance(len(batch.names))
    return concatenate(parts)


def _checked_accuracy(network: Network, held: Outputs, held_out: LabelledImages, preprocessing: Preprocessing) -> float:
    """Return the accuracy on the held-out images; warn if it is suspicious."""

    def load_rows(rows: NDArray[np.int64]) -> Tensor:
        return next(iter_batches(held_out[rows].images, preprocessing, len(rows))).images

    if doubt := accuracy.explain(network, held, held_out.classes, load_rows):
        warn(doubt)
    return metrics.accuracy(held.logits, held.labels)


def _fit_scorer(name: str, scorer: Scorer, train: Outputs, held_out: Outputs, seed: int) -> FittedScorer:
    """Fit a scorer, not calibrated yet; warn before a fit that takes much memory."""
    width = train.embeddings.shape[1]
    if warning := memory.much(name, sum(part.memory(train.classes, width) for part in scorer.parts())):
        warn(f"{warning}; embeddings have {width} dimensions, of which it takes the square")
    torch_state.seed_all(seed)
    with memory.exhaustion_explained(f"fitting scorer '{name}': give fewer images"):
        score = fit_scorer(name, scorer, replace(train, held_out=held_out))
    return FittedScorer(name, scorer, score, Calibration(np.zeros(0)))


def _require_needs(
    scorers: Sequence[tuple[str, Scorer]], network: Network, head: Head | None, train: LabelledImages
) -> None:
    classes, missing = len(train.classes), dict[str, str]()
    if not _has_logits(network, classes):
        missing["logits"] = f" of the {classes} ID classes; {_logits_text(network, train)}"
    elif head is None:
        missing["head"] = ", and the module has none"
        if isinstance(network, ModuleNetwork):
            missing["head"] += f": {network.describe()}"
            if network.classifier is not None:
                missing["head"] = (
                    f", and what '{network.classifier}' makes of the embeddings differs from them by more than "
                    f"{EXPLAINED:.1%}: the module computes or returns them in less than float32 (autocast, half(), "
                    "bfloat16()); give one in float32"
                )
    missing["known_ood"] = "; it can be fitted by a recipe alone"
    for name, scorer in scorers:
        if unmet := unmet_needs(scorer, missing):
            raise OODError(f"scorer '{name}' needs {unmet[0]}")


def _logits_text(network: Network, train: LabelledImages) -> str:
    """Return what the module gives instead of logits for each class, and how to go on."""
    classes = len(train.classes)
    if not isinstance(network, ModuleNetwork):
        return "the backbone has no classifier with as many outputs"
    if not network.outputs:
        return f"the module gives none ({network.describe()}); Detector(logits=...) names what has them"
    start = f"the module's are {network.outputs} (logits: {network.sources.logits})"
    if classes == 1:
        return f"{start}: give each image its label, as images without labels are of one class"
    if network.outputs > classes:
        return f"{start}: keep the rows of your classes in its last layer, or use scorers that need embeddings alone"
    present = set(train.labels.tolist())
    if network.outputs == len(present):
        empty = [f"'{name}'" for index, name in enumerate(train.classes) if index not in present]
        without = f"{start}: {len(empty)} of the classes have no images, {listed(empty)}"
        return f"{without}; fit(..., classes=[...]) with the names of the others leaves them out"
    return f"{start}: give a module with an output for each class, or use scorers that need embeddings alone"


def _examples(train: LabelledImages, read: Outputs) -> Examples:
    rows = choose_examples(train.labels)
    pictures = ((to_unit(train.images[row].pixels()) * 255).round().to(torch.uint8) for row in rows)
    return Examples(read.embeddings[rows].clone(), read.labels[rows].clone(), tuple(map(thumbnail, pictures)))


def named_scorers(scorers: Any, plugins: Plugins) -> list[tuple[str, Scorer]]:
    """Return scorers with their names: from names or mappings as in a recipe, or from scorers."""
    reader = RecipeReader(plugins)
    found: list[tuple[str, Scorer]] = []
    for given in [scorers] if isinstance(scorers, (str, Scorer, dict)) else scorers:
        scorer = given if isinstance(given, Scorer) else reader.plugin("scorer", _node(given))
        if not isinstance(scorer, Scorer):
            raise reader.errors[0]
        name = given["name"] if isinstance(given, dict) and "name" in given else label(scorer)
        if name in [other for other, _ in found]:
            raise OODError(f"two scorers are called '{name}'; tell them apart by 'name'")
        found.append((name, scorer))
    if not found:
        raise OODError("name at least one scorer")
    return found


def _node(value: Any) -> LocatedValue:
    if isinstance(value, dict):
        value = {key: _node(inner) for key, inner in value.items() if key != "name"}
    elif isinstance(value, (list, tuple)):
        value = [_node(inner) for inner in value]
    return LocatedValue(value, "scorers")

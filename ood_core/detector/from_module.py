"""Fits a detector to a network and images, without any recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ood_core.data.selection import MUCH, cut_away, to_unit
from ood_core.detector import accuracy
from ood_core.detector.forward import OutputSpec, compute_outputs, score_images
from ood_core.detector.from_run import EXAMPLES, WITNESSES, spread, thumbnail
from ood_core.detector.image_inputs import ImageRef, iter_batches
from ood_core.detector.labelled_data import LabelledImages, split_holdout
from ood_core.detector.module_outputs import Key
from ood_core.detector.state import DetectorState, Examples, FittedScorer, Origin, Preprocessing, device_of, head_of
from ood_core.detector.wrapped_module import ModuleNetwork, Normalisation
from ood_core.errors import OODError, listed, warn
from ood_core.evaluation import metrics
from ood_core.evaluation.calibration import TPR, Calibration
from ood_core.interfaces import Backbone, EvaluationView, Head, Network, Outputs, Scorer
from ood_core.interfaces.checks import EXPLAINED, check_alone, fit_scorer, is_explained, require_finite, unmet_needs
from ood_core.pipeline import networks
from ood_core.plugins import Plugins
from ood_core.recipe.build import RecipeReader, label
from ood_core.recipe.yaml import LocatedValue
from ood_core.runtime import memory, torch_state

Module: TypeAlias = "Backbone | nn.Module | Callable[[Tensor], Any]"

BATCH = 64

COMPARED = 8
"""Images by which a module's embeddings and logits are found."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a detector is fitted.

    Attributes:
        image_size: S, in pixels.
        view: How an image becomes a square of this size.
        normalisation: What the module wants of images in [0, 1].
        embeddings: Layer, or key or position of what the module returns, that has the embeddings; None to find it.
        logits: Likewise; False to read none.
        holdout: Share of each class's images that calibrate and are not fitted to, where none are given for that.
        tpr: Share of ID images to accept.
        per_class: Whether each predicted class gets a threshold of its own.
        examples: Whether images are kept to show what is nearest to a new one.
        seed: Of the hold-out, and of scorers that draw.
        name: What the detector is called.
    """

    image_size: int
    view: EvaluationView = field(default_factory=EvaluationView)
    normalisation: Normalisation = field(default_factory=Normalisation)
    embeddings: Key | None = None
    logits: Key | bool | None = None
    holdout: float = 0.2
    tpr: float = TPR
    per_class: bool = False
    examples: bool = True
    seed: int = 0
    name: str = "detector"


# ------------------------------------------------------------------------------------------------------------ fitting


@torch_state.computing()
def fit(
    module: Any,
    train: LabelledImages,
    scorers: Sequence[tuple[str, Scorer]],
    held_out: LabelledImages | None,
    options: Options,
) -> DetectorState:
    """Return the detector.

    Args:
        module: A backbone, or a module of the user's.
        train: ID images.
        scorers: With the names that results call them by.
        held_out: ID images that calibrate; a share of the others without.
        options: All else.

    Raises:
        OODError: The module gives no embeddings, a scorer needs what is not there, or a picture is broken.
    """
    if held_out is None:
        train, held_out = split_holdout(train, options.holdout, options.seed)
    preprocessing = Preprocessing(options.image_size, options.view)
    reference_images, names = _witnesses(train, preprocessing)
    network = _network(module, reference_images, train, names, options)
    head, logits = _head(network, len(train.classes)), _has_logits(network, len(train.classes))
    head = _checked_head(network, to_unit(reference_images).to(device_of(network)), head)
    missing = _missing(network, head, train)
    for name, scorer in scorers:
        if unmet := unmet_needs(scorer, missing):
            raise OODError(f"scorer '{name}' needs {unmet[0]}")
    probes = tuple(dict.fromkeys(probe for _, scorer in scorers for probe in scorer.probes()))
    wanted = OutputSpec(len(train.classes), logits, head, probes)
    read = _outputs(network, train, preprocessing, wanted)
    fits_held = any("held_out" in scorer.all_needs() for _, scorer in scorers)
    held = _outputs(network, held_out, preprocessing, wanted)
    found = _checked_accuracy(network, held, held_out, preprocessing) if logits and held_out.has_labels else None
    scores = []
    for name, scorer in scorers:
        _note_memory(name, scorer, read)
        torch_state.seed_all(options.seed)
        with memory.exhaustion_explained(f"fitting scorer '{name}': give fewer images"):
            scores.append((name, scorer, fit_scorer(name, scorer, replace(read, held_out=held))))
    plain = DetectorState(
        network=network,
        backbone=module if isinstance(module, Backbone) else None,
        classifier=logits,
        head=head,
        classes=train.classes,
        preprocessing=preprocessing,
        scorers=tuple(FittedScorer(name, scorer, score, Calibration(np.zeros(0))) for name, scorer, score in scores),
        independent=not fits_held,
        id_accuracy=found,
        holdout=options.holdout,
        tpr=options.tpr,
        per_class=options.per_class,
        origin=Origin(options.name, seed=options.seed, created=datetime.now(UTC).isoformat(timespec="seconds")),
        reference_images=reference_images[:WITNESSES],
        reference_embeddings=compute_outputs(network, reference_images[:WITNESSES])[0].embeddings,
        examples=_examples(train, read) if options.examples else None,
    )
    return replace(plain, scorers=_calibrated(plain, held_out))


def _witnesses(train: LabelledImages, preprocessing: Preprocessing) -> tuple[Tensor, Sequence[str]]:
    """Return some images as the network is shown them, uint8, and their names; warn where much of them is cut."""
    sizes: list[tuple[int, int]] = []

    def sized(item: ImageRef) -> Tensor:
        pixels = item.pixels()
        sizes.append((pixels.shape[1], pixels.shape[2]))
        return pixels

    drawn = [ImageRef(item.name, partial(sized, item)) for item in train[_drawn(len(train), COMPARED)].items]
    seen = next(iter_batches(drawn, preprocessing, COMPARED))
    if seen.errors:
        raise OODError(next(iter(seen.errors.values())))
    if (share := cut_away(sizes, preprocessing.view)) > MUCH:
        warn(
            f"the central square leaves out {share:.0%} of the area of the images, which are not square; "
            "Detector(squash=True) resizes them whole"
        )
    return _bytes(seen.images), seen.names


def _network(
    module: Any, reference_images: Tensor, train: LabelledImages, names: Sequence[str], options: Options
) -> Network:
    if not isinstance(module, Backbone):
        if not callable(module):
            raise OODError(f"a {type(module).__name__} is no backbone; give a torch module, a function, or a plugin's")
        found = ModuleNetwork(module, options.normalisation)
        found.find(to_unit(reference_images), names, len(train.classes), options.embeddings, options.logits)
        return found
    if options.embeddings is not None or options.logits is not None:
        raise OODError(f"backbone '{module.name}' has its own embeddings and logits; leave these options out")
    torch.manual_seed(0)  # as extractions have it: what a backbone leaves random must not depend on what ran before
    network = networks.build(module, options.image_size, None)
    return network.to(networks.device()).eval().requires_grad_(False)


def _head(network: Network, classes: int) -> Head | None:
    """Return the classifier if it has an output for each class."""
    head = head_of(network)
    return head if head is not None and len(head.bias) == classes else None


@torch.inference_mode()
def _checked_head(network: Network, images: Tensor, head: Head | None) -> Head | None:
    """Return the classifier if it makes the logits, after a look at whether outputs are those of the images alone."""
    features = network.forward_features(images)
    check_alone("the module gives", network, images, features, torch.arange(len(images), device=images.device))
    if head is None:
        return None
    embeddings, logits = (network.forward_head(features, pre_logits=before).cpu() for before in (True, False))
    return head if is_explained(head, embeddings, logits) else None


def _has_logits(network: Network, classes: int) -> bool:
    """Return whether the network has an output for each class, whatever makes it."""
    return network.outputs == classes if isinstance(network, ModuleNetwork) else _head(network, classes) is not None


def _outputs(network: Network, images: LabelledImages, preprocessing: Preprocessing, wanted: OutputSpec) -> Outputs:
    """Return the outputs of all images, in memory."""
    parts = []
    for shown in iter_batches(images.items, preprocessing, BATCH, device_of(network)):
        if shown.errors:
            raise OODError(next(iter(shown.errors.values())))
        found = compute_outputs(network, shown.images, wanted)[0]
        read = {"embeddings": found.embeddings, "logits": found.logits, **found.layers}
        require_finite("the module gives", read, shown.names)
        parts.append(found)
    return Outputs(
        torch.cat([part.embeddings for part in parts]),
        torch.cat([part.logits for part in parts]),
        torch.from_numpy(images.labels),
        len(images.classes),
        wanted.head,
        {name: torch.cat([part.layers[name] for part in parts]) for name in parts[0].layers},
    )


def _checked_accuracy(network: Network, held: Outputs, held_out: LabelledImages, preprocessing: Preprocessing) -> float:
    """Return the accuracy on the held-out images; warn where it is not what a trained network has."""

    def show(rows: NDArray[np.int64]) -> Tensor:
        return next(iter_batches(held_out[rows].items, preprocessing, len(rows))).images

    if doubt := accuracy.explain(network, held, held_out.classes, show):
        warn(doubt)
    return metrics.accuracy(held.logits, held.labels)


def _note_memory(name: str, scorer: Scorer, train: Outputs) -> None:
    """Warn before a fit that takes much memory."""
    size = sum(part.memory(train.classes, train.embeddings.shape[1]) for part in scorer.parts())
    if said := memory.much(name, size):
        warn(f"{said}; embeddings have {train.embeddings.shape[1]} dimensions, of which it takes the square")


def _missing(network: Network, head: Head | None, train: LabelledImages) -> dict[str, str]:
    """Return the needs of scorers that the module cannot meet, each with the reason and how to go on."""
    classes, missing = len(train.classes), {}
    if not _has_logits(network, classes):
        missing["logits"] = f" of the {classes} ID classes; {_logits_text(network, train)}"
    elif head is None:
        missing["head"] = f", {_head_text(network)}"
    return missing | {"known_ood": "; it can be state by a recipe alone"}


def _head_text(network: Network) -> str:
    """Return what the module has instead of a linear layer that makes the logits."""
    if not isinstance(network, ModuleNetwork):
        return "and the module has none"
    if network.classifier is None:
        return f"and the module has none: {network.describe()}"
    return (
        f"and what '{network.classifier}' makes of the embeddings differs from them by more than {EXPLAINED:.1%}: the "
        "module computes or returns them in less than float32 (autocast, half(), bfloat16()); give one in float32"
    )


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
        empty = [f"'{name}'" for label, name in enumerate(train.classes) if label not in present]
        without = f"{start}: {len(empty)} of the classes have no images, {listed(empty)}"
        return f"{without}; fit(..., classes=[...]) with the names of the others leaves them out"
    return f"{start}: give a module with an output for each class, or use scorers that need embeddings alone"


def _calibrated(plain: DetectorState, held_out: LabelledImages) -> tuple[FittedScorer, ...]:
    """Return the scorers with the scores of the held-out images, as new images would be scored."""
    parts = [
        score_images(plain, shown.images)
        for shown in iter_batches(held_out.items, plain.preprocessing, BATCH, plain.device)
    ]
    found = []
    for of in plain.scorers:
        predicted = [part.predicted for part in parts if part.predicted is not None]
        values = np.concatenate([part.scores[of.name] for part in parts])
        calibration = Calibration.of(values, np.concatenate(predicted) if predicted else None)
        found.append(replace(of, calibration=calibration))
    return tuple(found)


def _bytes(images: Tensor) -> Tensor:
    """Return images as uint8, floats rounded."""
    return (to_unit(images) * 255).round().to(torch.uint8)


def _drawn(count: int, most: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(count)[:most]


def _examples(train: LabelledImages, read: Outputs) -> Examples:
    places = np.array(sorted(spread(train.labels, EXAMPLES)))
    pictures = tuple(
        thumbnail((to_unit(train.items[place].pixels()) * 255).round().to(torch.uint8)) for place in places
    )
    return Examples(read.embeddings[places].clone(), read.labels[places].clone(), pictures)


# ------------------------------------------------------------------------------------------------------------ scorers


def named(scorers: Sequence[Any], plugins: Plugins) -> list[tuple[str, Scorer]]:
    """Return scorers by what may stand in a recipe, a name or a mapping with options, or by the objects themselves.

    Raises:
        OODError: There is none of this name, or two go by one.
    """
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
        return LocatedValue({key: _node(inner) for key, inner in value.items() if key != "name"}, "scorers")
    if isinstance(value, (list, tuple)):
        return LocatedValue([_node(inner) for inner in value], "scorers")
    return LocatedValue(value, "scorers")

"""Checks of the values that networks, scorers and tasks return, with one line that names their origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces import Head, ImageSet, Network, Outputs, Score, Scorer, Task
from ood_core.runtime.log_names import fit_named

PASSED_AGAIN = 2  # images that go through a network two more times, to see whether its outputs are theirs alone

# How far outputs may differ, as a share of the largest
REPEATED = 1e-5  # of the same images in the same order
BESIDE_OTHERS = 1e-3  # of the same images in another batch
HALF_BESIDE_OTHERS = 2e-2  # the same for weights of 16 bits, whose sums in another order differ by percents
EXPLAINED = 1e-3  # between logits and those that the linear classifier makes of the embeddings

_NEEDED = {
    "logits": "logits",
    "head": "the linear layer that makes the logits",
    "held_out": "held-out ID images",
    "known_ood": "known OOD images",
}


def check_images(name: str, images: Any) -> ImageSet:
    """Return the images that a data source has opened; OODError for anything else, and labels without a class."""
    if not isinstance(images, ImageSet):
        raise OODError(f"data source '{name}' opens {_kind(images)}, not an ImageSet")
    for called in images.classes:
        if not isinstance(called, str) or called.encode("utf-8", "ignore").decode() != called:
            raise OODError(f"data source '{name}' has a class called {called!r}, which is no text in UTF-8")
    labels, classes = np.asarray(images.labels), len(images.classes)
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise OODError(f"data source '{name}' has labels of type {labels.dtype} {list(labels.shape)}, not integers [N]")
    if len(strays := np.flatnonzero((labels < 0) | (labels >= classes))):
        where = f"image {strays[0]} has label {labels[strays[0]]}"
        raise OODError(f"data source '{name}': {where}, and there are {classes} classes")
    return images


def check_picture(name: str, row: int, picture: Any) -> Image:
    """Return one picture of a data source; OODError if it is no Pillow picture, or has no pixels or range of values."""
    where = f"data source '{name}': image {row}"
    if not isinstance(picture, Image):
        raise OODError(f"{where} is {_kind(picture)}, not a Pillow picture")
    if not all(picture.size):
        raise OODError(f"{where} has no pixels: {picture.width} x {picture.height}")
    if picture.mode == "F":
        raise OODError(f"{where} has floats, whose range is not known; make it one of 8 bits")
    return picture


def check_loss(name: str, metrics: Any) -> Mapping[str, Tensor]:
    """Return the metrics of a task; OODError unless they are scalar tensors, with a "loss" that has a gradient."""
    if not isinstance(metrics, Mapping) or "loss" not in metrics:
        given = f"a dict of {sorted(metrics)}" if isinstance(metrics, Mapping) else _kind(metrics)
        raise OODError(f"the task of '{name}' gives {given}, not a dict with the scalar 'loss'")
    for key, value in metrics.items():
        if not isinstance(value, Tensor):
            raise OODError(f"the task of '{name}' gives '{key}' as {_kind(value)}, not as a tensor")
        if value.numel() != 1 or value.ndim:
            raise OODError(f"the task of '{name}' gives '{key}' {_shape(value)}, not a scalar; take its mean")
    if not metrics["loss"].requires_grad:
        raise OODError(f"the task of '{name}' gives a loss without a gradient; no parameter has a part in it")
    return metrics


def check_task(what: str, task: Any) -> Task:
    """Return the task that the options of a training build; OODError for anything else."""
    if not isinstance(task, Task):
        raise OODError(f"{what} builds {_kind(task)}, which is no Task")
    return task


def check_arrays(what: str, arrays: Any) -> dict[str, Tensor]:
    """Return the arrays that a probe reads, by name; OODError unless they are a mapping."""
    if not isinstance(arrays, Mapping):
        raise OODError(f"{what} {_kind(arrays)}, not tensors by name")
    return dict(arrays)


def check_views(views: Any) -> tuple[Tensor, ...]:
    """Return the views that an augmentation makes of one image; OODError unless they are a tuple of tensors."""
    if not isinstance(views, tuple) or not views or not all(isinstance(view, Tensor) for view in views):
        found = f"a tuple of {', '.join(map(_kind, views)) or 'nothing'}" if isinstance(views, tuple) else _kind(views)
        raise OODError(f"the augmentation gives {found} for an image, not a tuple of tensors, one for each view")
    return views


def stack_views(views: Sequence[Tensor]) -> Tensor:
    """Return one view of several images as one tensor; OODError if their shapes or types differ."""
    kinds = list(dict.fromkeys(map(_shape, views)))
    if len(kinds) > 1:
        raise OODError(f"the augmentation gives {kinds[0]} for one image and {kinds[1]} for another, in the same view")
    return torch.stack(tuple(views))


def unmet_needs(scorer: Scorer, missing: Mapping[str, str]) -> list[str]:
    """Return the needs of a scorer and of those among its options that cannot be met, in words.

    `missing` are the unavailable ones of `NEEDS`, each with the end of the sentence "scorer 'energy' needs logits".
    """
    needs = scorer.all_needs()
    needs |= {"logits"} if "head" in needs else set()  # which it makes
    return [_NEEDED[need] + why for need, why in missing.items() if need in needs]


def check_needs(name: str, scorer: Scorer, train: Outputs) -> None:
    """Raise OODError with the first need of a scorer and those among its options that is not met for the fit."""
    missing = {need: "" for need in ("held_out", "known_ood") if not getattr(train, need)}
    if not train.logits.shape[1]:
        absent = f"no classifier with {train.classes} outputs, one for each ID class"
        advice = "add a pretext that trains one, such as classification"
        missing = {"logits": f", and the backbone has {absent}; {advice}"} | missing
    elif train.head is None:
        advice = "scorers of logits or of embeddings alone can be fitted"
        missing = {"head": f", and the backbone's logits are made otherwise; {advice}"} | missing
    if unmet := unmet_needs(scorer, missing):
        raise OODError(f"scorer '{name}' needs {unmet[0]}")


def fit_scorer(name: str, scorer: Scorer, train: Outputs) -> Score:
    """Return the score that a scorer fits to the outputs of ID training images, of which it sees what it needs.

    OODError if a need is not met, or `fit` returns no object of the class that the scorer declares as `scores`.
    """
    check_needs(name, scorer, train)
    with fit_named(name):
        score: Any = scorer.fit(train.declared_by(scorer))
    if type(score) is not scorer.scores:  # a subclass could be saved, and not be loaded
        declared = scorer.scores.__name__
        raise OODError(f"scorer '{name}' fitted {_kind(score)}, not the {declared} that 'scores' declares")
    return score


def check_scores(name: str, scores: Any, count: int) -> Tensor:
    """Return the scores of some rows on the CPU, finite or not; OODError if they are not float64 [N]."""
    if not isinstance(scores, Tensor):
        raise OODError(f"scorer '{name}' gave {_kind(scores)}, not a tensor, float64 [{count}]")
    if scores.shape != (count,) or scores.dtype != torch.float64:
        raise OODError(f"scorer '{name}' gave {_shape(scores)}, not float64 [{count}]")
    return scores.detach().cpu()


def check_rows(what: str, rows: Any, count: int, width: int | None = None) -> Tensor:
    """Return what a network gives for `count` images, or a probe reads, finite or not; OODError unless floats [B, D].

    The message begins with `what`, such as "the network gives embeddings".
    """
    wanted = f"[{count}, {'D' if width is None else width}]"
    if not isinstance(rows, Tensor):
        raise OODError(f"{what} as {_kind(rows)}, not as a tensor {wanted}")
    if rows.ndim != 2 or len(rows) != count or (width is not None and rows.shape[1] != width):
        pool = "; pool them to one vector for each image" if rows.ndim > 2 and len(rows) == count else ""
        raise OODError(f"{what} {list(rows.shape)} for {count} images, not {wanted}{pool}")
    if not rows.is_floating_point():
        raise OODError(f"{what} in {_dtype(rows)}, not in float32")
    return rows


def check_float32(what: str, rows: Tensor) -> Tensor:
    """Return rows as float32; OODError if they were computed with fewer bits."""
    if rows.dtype not in (torch.float32, torch.float64):
        raise OODError(f"{what} in {_dtype(rows)}, not in float32; is something cast in the network, or autocast?")
    return rows.float()


def check_alone(what: str, network: Network, images: Tensor, features: Tensor, rows: Tensor) -> None:
    """Pass a few images of a batch again: an output belongs to its image, whatever is passed with it, and when.

    `features` are those of the images [B, 3, S, S]; outputs of `rows`, int64 [b], are finite. OODError if outputs are
    no floats [B, D], are random, or depend on the images beside; its message begins with `what`.
    """
    rows = rows[:PASSED_AGAIN].flip(0)
    if not len(rows):
        return
    beside = {name: values[rows] for name, values in _outputs(what, network, features, len(images)).items()}
    once, again = (_outputs(what, network, network.forward_features(images[rows]), len(rows)) for _ in range(2))
    half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in network.parameters())
    for name in beside:
        if (gap := _gap(again[name], once[name])) > REPEATED:
            twice = f"for the same images when they are passed twice, by {gap:.2g} of the largest"
            reason = "something in the network is random, such as dropout that is on"
            raise OODError(f"{what} other {name} {twice}; {reason}")
        if (gap := _gap(once[name], beside[name])) > (HALF_BESIDE_OTHERS if half else BESIDE_OTHERS):
            beside_others = f"for an image where other images are passed with it, by {gap:.2g} of the largest"
            reason = "something in the network reads the whole batch, such as batch normalisation in training mode"
            raise OODError(f"{what} other {name} {beside_others}; {reason}")


def has_classifier(network: Network) -> bool:
    """Return whether a network makes logits, by a linear layer or otherwise."""
    return not isinstance(network.get_classifier(), (nn.Identity, NoneType))


def is_explained(head: Head, embeddings: Tensor, logits: Tensor) -> bool:
    """Return whether the linear classifier makes these logits of these embeddings."""
    if embeddings.shape[1] != head.weight.shape[1]:
        return False
    made = embeddings.double() @ head.weight.double().T + head.bias.double()
    finite = logits.isfinite().all(1)  # those of broken pictures, which are left out, need not be
    return made.shape == logits.shape and _gap(made[finite], logits[finite]) <= EXPLAINED


def _outputs(what: str, network: Network, features: Tensor, count: int) -> dict[str, Tensor]:
    embeddings = network.forward_head(features, pre_logits=True)
    found = {"embeddings": check_rows(f"{what} embeddings", embeddings, count, network.num_features)}
    if has_classifier(network):
        found["logits"] = check_rows(f"{what} logits", network.forward_head(features), count)
    return found


def _gap(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest expected value."""
    if not expected.numel():
        return 0.0
    return (found - expected).abs().max().item() / max(expected.abs().max().item(), torch.finfo(torch.float32).tiny)


def first_not_finite(rows: Tensor) -> int | None:
    """Return the first of the rows [N, ...] that holds a NaN or an infinite value, None if there is none."""
    broken = ~rows.isfinite().flatten(1).all(1) if rows.ndim > 1 else ~rows.isfinite()
    return int(broken.nonzero()[0]) if broken.any() else None


def require_finite(what: str, outputs: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Raise OODError with the name of the first image whose outputs, [B, ...], hold a NaN or an infinite value."""
    for part, rows in outputs.items():
        if (row := first_not_finite(rows)) is not None:
            raise OODError(f"{what} {part} that are not finite for {names[row]}")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _shape(values: Tensor) -> str:
    return f"{_dtype(values)} {list(values.shape)}"


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")

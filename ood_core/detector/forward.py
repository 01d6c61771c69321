"""Images through the network and the scorers; the other images of a batch change a score by rounding at most.

Libraries choose the order of a float32 sum by the shape of the batch, so a network's outputs for an image differ in
their last bits between batch sizes (docs/detector.md). Scorers run in float64 on blocks of `BLOCK` rows, the last block
padded, or on one image at a time if they need the network: equal outputs give scores equal within a relative 1e-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.data.selection import to_unit
from ood_core.detector.predictions import ScoredBatch
from ood_core.detector.state import DetectorState, FittedScorer, device_of
from ood_core.interfaces import Head, Network, Outputs, Probe
from ood_core.interfaces.checks import check_arrays, check_rows, check_scores
from ood_core.pipeline.networks import capture_layers
from ood_core.runtime import memory, torch_state

BLOCK = 32  # rows for one call of a scorer


@dataclass(frozen=True)
class OutputSpec:
    """Outputs to read besides the embeddings."""

    classes: int = 0  # number of ID classes
    logits: bool = False  # whether logits distinguish them
    head: Head | None = None  # the linear layer that makes the logits, if there is one
    probes: tuple[Probe, ...] = ()  # further outputs


@torch_state.computing()
def compute_outputs(network: Network, images: Tensor, spec: OutputSpec = OutputSpec()) -> tuple[Outputs, Tensor]:
    """Return the outputs for images [B, 3, S, S], uint8 or float in [0, 1], on the CPU; and the images in [0, 1]."""
    found = memory.Halving()(partial(_forward, network, spec=spec), images)
    if len(found) == 1:
        return found[0]
    return concatenate_outputs([part for part, _ in found]), torch.cat([shown for _, shown in found])


def concatenate_outputs(parts: Sequence[Outputs]) -> Outputs:
    """Return the outputs of consecutive batches, at least one, as one."""
    layers = {name: torch.cat([part.layers[name] for part in parts]) for name in parts[0].layers}
    embeddings, logits = torch.cat([part.embeddings for part in parts]), torch.cat([part.logits for part in parts])
    labels = torch.cat([part.labels for part in parts])
    return replace(parts[0], embeddings=embeddings, logits=logits, labels=labels, layers=layers)


def _forward(network: Network, images: Tensor, spec: OutputSpec) -> tuple[Outputs, Tensor]:
    count, probes = len(images), spec.probes
    shown = to_unit(images.to(device_of(network)))

    def checked(what: str, rows: Tensor, width: int | None = None) -> Tensor:
        # a clone: tensors made in inference mode may not take part in the gradients that some scorers need
        return check_rows(what, rows, count, width).float().cpu().clone()

    names = [name for of in probes for name in of.layers(network)]
    with torch.inference_mode(), capture_layers(network, names) as maps:
        features = network.forward_features(shown)
        embeddings = network.forward_head(features, pre_logits=True)
        logits = network.forward_head(features) if spec.logits else None
        read = {
            of: check_arrays(f"probe '{type(of).__name__}' reads", of.read(network, features, maps)) for of in probes
        }
    embeddings = checked("the network gives embeddings", embeddings, network.num_features)
    return Outputs(
        embeddings,
        embeddings.new_empty((count, 0)) if logits is None else checked("the network gives logits", logits),
        torch.full((count,), -1),
        spec.classes,
        spec.head,
        {
            name: checked(f"probe '{type(of).__name__}' reads {name}", rows)
            for of in probes
            for name, rows in read[of].items()
        },
    ), shown


@torch_state.computing()
def score_images(state: DetectorState, images: Tensor, only: str | None = None) -> ScoredBatch:
    """Return the scores of a batch [B, 3, S, S], uint8 or float in [0, 1], by all scorers or the one named `only`."""
    scorers = [of for of in state.scorers if only in (None, of.name)]
    probes = tuple(dict.fromkeys(probe for of in scorers for probe in of.scorer.probes()))
    spec = OutputSpec(len(state.classes), state.classifier, state.head, probes)
    found, shown = compute_outputs(state.network, images, spec)
    with memory.exhaustion_explained("scoring images one at a time: take a smaller network, or free some memory"):
        scores = {of.name: _compute_scores(of, state.network, found, shown) for of in scorers}
    predicted = found.logits.argmax(1).numpy() if state.classifier else None
    return ScoredBatch(scores, predicted, found.embeddings)


def _compute_scores(of: FittedScorer, network: Network, found: Outputs, shown: Tensor) -> NDArray[np.float64]:
    given = found.declared_by(of.scorer).without_labels()
    parts = []
    if "network" in of.scorer.all_needs():
        for row in range(len(given)):
            image = replace(given[row : row + 1], network=network, images=shown[row : row + 1].clone())
            parts.append(check_scores(of.name, of.score(image), 1))
    else:
        for block in given.chunks(BLOCK):
            padded = block[torch.arange(BLOCK).clamp_max(len(block) - 1)]  # the last row repeated
            parts.append(check_scores(of.name, of.score(padded), BLOCK)[: len(block)])
    return np.asarray(torch.cat(parts))

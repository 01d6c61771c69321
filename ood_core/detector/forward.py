"""Images through the network and the scorers; the other images of a batch change a score by rounding at most.

Libraries choose the order of a float32 sum by the shape of the batch, so a network's outputs for an image differ in
their last bits between batch sizes (docs/detector.md). Scorers run in float64 on blocks of `BLOCK` rows, the last block
padded, or on one image at a time if they need the network: equal outputs give scores equal within a relative 1e-9.
"""

from __future__ import annotations

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
from ood_core.interfaces.checks import check_rows, check_scores
from ood_core.pipeline.extract import capture_layers
from ood_core.runtime import memory, torch_state

BLOCK = 32
"""Rows that scorers are asked of at once."""


@dataclass(frozen=True)
class OutputSpec:
    """What is read of a batch.

    Attributes:
        classes: Number of ID classes.
        logits: Whether logits mean anything.
        head: The linear layer that makes them, None where there is none.
        probes: What else is read.
    """

    classes: int = 0
    logits: bool = False
    head: Head | None = None
    probes: tuple[Probe, ...] = ()


EMBEDDINGS = OutputSpec()
"""These alone."""


@torch_state.computing()
def compute_outputs(network: Network, images: Tensor, wanted: OutputSpec = EMBEDDINGS) -> tuple[Outputs, Tensor]:
    """Pass a batch; return what scorers see of it, on the CPU, and the images as the network was given them.

    Args:
        network: In evaluation mode.
        images: [B, 3, S, S], uint8 or float in [0, 1].
        wanted: What is read.
    """
    found = memory.Halving()(partial(_passed, network, wanted=wanted), images)
    if len(found) == 1:
        return found[0]
    read = [part for part, _ in found]
    layers = {name: torch.cat([part.layers[name] for part in read]) for name in read[0].layers}
    joined = replace(
        read[0],
        embeddings=torch.cat([part.embeddings for part in read]),
        logits=torch.cat([part.logits for part in read]),
        labels=torch.cat([part.labels for part in read]),
        layers=layers,
    )
    return joined, torch.cat([shown for _, shown in found])


def _passed(network: Network, images: Tensor, wanted: OutputSpec) -> tuple[Outputs, Tensor]:
    probes = wanted.probes
    shown = to_unit(images.to(device_of(network)))
    with (
        torch.inference_mode(),
        capture_layers(network, [name for of in probes for name in of.layers(network)]) as maps,
    ):
        features = network.forward_features(shown)
        found = network.forward_head(features, pre_logits=True)
        embeddings = check_rows("the network gives embeddings", found, len(images), network.num_features).float().cpu()
        logits = embeddings.new_empty((len(images), 0))
        if wanted.logits:
            found = network.forward_head(features)
            logits = check_rows("the network gives logits", found, len(images)).float().cpu()
        layers: dict[str, Tensor] = {}
        for probe in probes:
            what = f"probe '{type(probe).__name__}' reads"
            for name, rows in probe.read(network, features, maps).items():
                layers[name] = check_rows(f"{what} {name}", rows, len(images)).float().cpu()
    labels = torch.full((len(images),), -1)
    # clones: what was made in inference mode may not take part in the gradients that some scorers need
    read = {name: rows.clone() for name, rows in layers.items()}
    return Outputs(embeddings.clone(), logits.clone(), labels, wanted.classes, wanted.head, read), shown


@torch_state.computing()
def score_images(state: DetectorState, images: Tensor, only: str | None = None) -> ScoredBatch:
    """Return what all scorers say of a batch [B, 3, S, S], uint8 or float in [0, 1].

    Args:
        state: The detector's.
        images: At least one.
        only: Name of the one scorer to ask; all are asked without.
    """
    asked = [of for of in state.scorers if only in (None, of.name)]
    probes = tuple(dict.fromkeys(probe for of in asked for probe in of.scorer.probes()))
    wanted = OutputSpec(len(state.classes), state.classifier, state.head, probes)
    found, shown = compute_outputs(state.network, images, wanted)
    with memory.exhaustion_explained("scoring images one at a time: take a smaller network, or free some memory"):
        scores = {of.name: _scores(of, state.network, found, shown) for of in asked}
    predicted = None if not state.classifier else found.logits.argmax(1).numpy()
    return ScoredBatch(scores, predicted, found.embeddings)


def _scores(of: FittedScorer, network: Network, found: Outputs, shown: Tensor) -> NDArray[np.float64]:
    given = found.declared_by(of.scorer).without_labels()
    if "network" in of.scorer.all_needs():
        rows = [
            _checked(of, replace(given[row : row + 1], network=network, images=shown[row : row + 1].clone()))
            for row in range(len(given))
        ]
    else:
        rows = [_checked(of, _filled(block))[: len(block)] for block in given.chunks(BLOCK)]
    values: NDArray[np.float64] = torch.cat(rows).numpy()
    return values


def _checked(of: FittedScorer, block: Outputs) -> Tensor:
    return check_scores(of.name, of.score(block), len(block))


def _filled(block: Outputs) -> Outputs:
    """Return the rows, the last one repeated until there are `BLOCK`."""
    return block[torch.arange(BLOCK).clamp_max(len(block) - 1)]

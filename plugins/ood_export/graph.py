"""A detector as a torch module from images to scores and decisions, in plain tensor code; its description."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ood_core.detector import manifest
from ood_core.detector.predictions import DecisionRule, decision_rule
from ood_core.detector.state import DetectorState
from ood_core.evaluation.calibration import Calibration
from ood_core.interfaces import Outputs
from ood_core.pipeline.networks import capture_layers
from ood_core.recipe.build import describe

IMAGES = "images"
IS_OOD, P_VALUE, PREDICTED = "is_ood", "p_value", "predicted"
FORMAT = 1  # of the description; increased when an entry changes its meaning


@dataclass(frozen=True)
class SingleChunk(Outputs):
    """Outputs of a number of rows that is not known while tracing."""

    def chunks(self, rows: int = 8192) -> Iterator[Outputs]:
        """Yield all rows at once."""
        yield self


class Graph(nn.Module):
    """From images [N, 3, S, S] in [0, 1] to named outputs, by a copy of the network and the plugins' own scores."""

    thresholds: Tensor

    def __init__(self, state: DetectorState, rule: DecisionRule) -> None:
        super().__init__()
        self.state, self.rule = state, rule
        self.network = copy.deepcopy(state.network).cpu()
        self.probes = tuple(dict.fromkeys(probe for of in state.scorers for probe in of.scorer.probes()))
        self.register_buffer("thresholds", torch.from_numpy(rule.thresholds), persistent=False)

    @property
    def names(self) -> list[str]:
        """Names of the outputs, in their order."""
        decisions = [IS_OOD, P_VALUE, PREDICTED] if self.state.classifier else [IS_OOD, P_VALUE]
        return [of.name for of in self.state.scorers] + decisions

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name: float64 [N] of each scorer, and the decisions."""
        read = self.read(images)
        found = {of.name: of.score(read).double() for of in self.state.scorers}
        return found | self._decisions(found[self.rule.scorer], read)

    def example_images(self) -> Tensor:
        """Return images to trace with; torch would specialise on a single one."""
        return torch.zeros(3, 3, *[self.state.preprocessing.image_size] * 2)

    def read(self, images: Tensor) -> Outputs:
        """Return the input of the scorers."""
        state, network = self.state, self.network
        with capture_layers(network, [name for probe in self.probes for name in probe.layers(network)]) as maps:
            features = network.forward_features(images)
            embeddings = network.forward_head(features, pre_logits=True).float()
            without = embeddings.new_empty((images.shape[0], 0))
            logits = network.forward_head(features).float() if state.classifier else without
            layers: dict[str, Tensor] = {}
            for probe in self.probes:
                layers |= {name: rows.float() for name, rows in probe.read(network, features, maps).items()}
        labels = torch.full((images.shape[0],), -1)
        return SingleChunk(embeddings, logits, labels, len(state.classes), state.head, layers)

    def _decisions(self, score: Tensor, read: Outputs) -> dict[str, Tensor]:
        calibration = self.state.scorer(self.rule.scorer).calibration
        predicted = read.logits.argmax(1) if self.state.classifier else None
        by_class = predicted if self.rule.per_class else None
        threshold = self.thresholds if by_class is None else self.thresholds[by_class]
        decisions = {IS_OOD: score > threshold, P_VALUE: _p_values(score, calibration, by_class)}
        return decisions if predicted is None else decisions | {PREDICTED: predicted}


def _p_values(score: Tensor, calibration: Calibration, predicted: Tensor | None) -> Tensor:
    """Return `Calibration.p_values` by comparing each score with all M held-out ones: N M bytes."""
    at_least = torch.from_numpy(calibration.upper) >= score[:, None]
    if predicted is None:
        return (1 + at_least.sum(1)).double() / (len(calibration) + 1)
    of_class = torch.from_numpy(calibration.predicted) == predicted[:, None]
    return (1 + (at_least & of_class).sum(1)).double() / (1 + of_class.sum(1)).double()


def describe_graph(state: DetectorState, rule: DecisionRule, digest: str) -> dict[str, Any]:
    """Return the description for the file; `digest` is that of the detector's manifest, "" if it is not saved."""
    origin, size, view = state.origin, state.preprocessing.image_size, state.preprocessing.view
    return {
        "format": FORMAT,
        "detector": {"name": origin.name, "created": origin.created, "seed": origin.seed, "digest": digest},
        "preprocessing": {  # in this order; normalisation is inside the graph
            "channels": "RGB",
            "resize": math.floor(size / view.crop_fraction),
            "resized_side": "both" if view.squash else "shorter",
            "interpolation": view.interpolation,
            "antialias": True,
            "centre_crop": size,
            "divide_by": 255,
            "layout": "NCHW",
            "dtype": "float32",
        },
        "classes": list(state.classes),
        "scorers": [
            {
                "name": of.name,
                "plugin": describe(of.scorer),
                "threshold": decision_rule(state, of.name, rule.tpr, per_class=False).thresholds.item(),
            }
            for of in state.scorers
        ],
        "decides": rule.scorer,
        "tpr": rule.tpr,
        "per_class": rule.per_class,
        "thresholds": rule.thresholds.tolist(),
        "calibration": {"images": len(state.scorers[0].calibration), "independent": state.independent},
        "versions": manifest.versions(),
    }

"""A detector as a torch module: images in, scores and decisions out; plain tensor code throughout."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ood_core.detector.predictions import DecisionRule
from ood_core.detector.state import DetectorState
from ood_core.evaluation.calibration import Calibration
from ood_core.interfaces import Outputs
from ood_core.pipeline.extract import capture_layers

IMAGES = "images"
IS_OOD, P_VALUE, PREDICTED = "is_ood", "p_value", "predicted"


@dataclass(frozen=True)
class Whole(Outputs):
    """Outputs of as many rows as a graph will be given, which are not known yet: there is one chunk of them."""

    def chunks(self, rows: int = 8192) -> Iterator[Outputs]:
        """Yield all rows at once."""
        yield self


class Graph(nn.Module):
    """From images [N, 3, S, S] in [0, 1] to named outputs.

    The scores are those of the plugins' own `Score` objects, traced; nothing is written a second time.
    """

    thresholds: Tensor

    def __init__(self, state: DetectorState, by: DecisionRule) -> None:
        """Copy the network to the CPU.

        Args:
            state: With the scorers that the graph is to have.
            by: How it decides.
        """
        super().__init__()
        self.state, self.by = state, by
        self.network = copy.deepcopy(state.network).cpu()
        self.probes = tuple(dict.fromkeys(probe for of in state.scorers for probe in of.scorer.probes()))
        self.register_buffer("thresholds", torch.from_numpy(by.thresholds), persistent=False)

    @property
    def names(self) -> list[str]:
        """Names of the outputs, in their order."""
        decided = [IS_OOD, P_VALUE] if not self.state.classifier else [IS_OOD, P_VALUE, PREDICTED]
        return [of.name for of in self.state.scorers] + decided

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name: float64 [N] of each scorer, and the decisions."""
        read = self.read(images)
        found = {of.name: of.score(read).double() for of in self.state.scorers}
        return found | self._decisions(found[self.by.scorer], read)

    def read(self, images: Tensor) -> Outputs:
        """Return what scorers see of images."""
        state, network = self.state, self.network
        with capture_layers(network, [name for probe in self.probes for name in probe.layers(network)]) as maps:
            features = network.forward_features(images)
            embeddings = network.forward_head(features, pre_logits=True).float()
            logits = embeddings.new_empty((images.shape[0], 0))
            if state.classifier:
                logits = network.forward_head(features).float()
            layers: dict[str, Tensor] = {}
            for probe in self.probes:
                layers |= {name: rows.float() for name, rows in probe.read(network, features, maps).items()}
        labels = torch.full((images.shape[0],), -1)
        return Whole(embeddings, logits, labels, len(state.classes), state.head, layers)

    def _decisions(self, score: Tensor, read: Outputs) -> dict[str, Tensor]:
        calibration = self.state.scorer(self.by.scorer).calibration
        if not self.state.classifier:
            return {IS_OOD: score > self.thresholds, P_VALUE: _p_values(score, calibration, None)}
        predicted = read.logits.argmax(1)
        apart = predicted if self.by.per_class else None
        threshold = self.thresholds if apart is None else self.thresholds[apart]
        return {IS_OOD: score > threshold, P_VALUE: _p_values(score, calibration, apart), PREDICTED: predicted}


def _p_values(score: Tensor, calibration: Calibration, predicted: Tensor | None) -> Tensor:
    """Return what `Calibration.p_values` does, by comparing each score with all of the M held-out ones: N M bytes."""
    at_least = torch.from_numpy(calibration.upper) >= score[:, None]
    if predicted is None:
        return (1 + at_least.sum(1)).double() / (len(calibration) + 1)
    of_class = torch.from_numpy(calibration.predicted) == predicted[:, None]
    return (1 + (at_least & of_class).sum(1)).double() / (1 + of_class.sum(1)).double()

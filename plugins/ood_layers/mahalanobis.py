"""Mahalanobis distances in several layers together (Lee et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score, Scorer, ScorerInfo
from ood_core.neighbors import nearest
from ood_core.statistics import Whitening, moments
from ood_layers.maps import LayerMeans


@dataclass(frozen=True)
class LayerDistance:
    """The squared distance to the nearest class mean in one layer, over its number of directions.

    Attributes:
        array: Name of the layer's array.
        whitening: Of the covariance that all classes share.
        means: [K, rank], whitened.
    """

    array: str
    whitening: Whitening
    means: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return float64 [N]; about 1 for training images."""
        return nearest(self.whitening(outputs.layers[self.array]), self.means)[0] / self.whitening.rank


def fit_layers(train: Outputs, probe: LayerMeans) -> tuple[LayerDistance, ...]:
    """Return the distances of all layers that the probe has read."""
    return tuple(_fit_layer(train, name) for name in probe.arrays(train))


def _fit_layer(train: Outputs, array: str) -> LayerDistance:
    found = moments(((part.layers[array], part.labels) for part in train.chunks()), train.classes)
    whitening = Whitening.of(found.mean, found.tied_covariance)
    return LayerDistance(array, whitening, whitening(found.means[found.counts > 0]))


@dataclass(frozen=True)
class SummedDistances(Score):
    """The sum of the layers' distances."""

    layers: tuple[LayerDistance, ...]

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return torch.stack([layer(outputs) for layer in self.layers]).sum(0)


@dataclass(frozen=True, kw_only=True)
class LayerMahalanobis(Scorer):
    """Mahalanobis distances of several layers, summed with equal weights (after Lee et al., 2018).

    score = sum over layers l of min_c d2_c(f_l) / rank_l: f_l the mean over positions, d2 under the tied covariance.
    The authors weigh the layers by a regression on known OOD images; `mahalanobis-ensemble` does.

    Attributes:
        layers: Names of submodules with maps [B, C, H, W] or tokens [B, L, C]; empty takes the network's own list.
    """

    name = "mahalanobis-layers"
    needs = frozenset({"layers", "labels"})
    scores = SummedDistances
    info = ScorerInfo(
        paper="after Lee et al., 2018, A simple unified framework for detecting out-of-distribution samples",
        formula="Σ_l min_c (f_l − μ_lc)ᵀ Σ_l⁻¹ (f_l − μ_lc) / rank_l",
        fit="N D² a layer",
        score="D² + C D a layer",
    )

    layers: tuple[str, ...] = ()

    def probe(self) -> LayerMeans:
        """Return what averages over positions."""
        return LayerMeans(wanted=self.layers)

    def fit(self, train: Outputs) -> SummedDistances:
        """Return the distances.

        Raises:
            OODError: Labels or layers are unusable.
        """
        return SummedDistances(fit_layers(train, self.probe()))


@dataclass(frozen=True)
class WeighedDistances(Score):
    """The log-odds of being OOD, by a logistic regression on the distances.

    Attributes:
        layers: The distances.
        weights: float64 [layers].
        bias: Added to their weighted sum.
    """

    layers: tuple[LayerDistance, ...]
    weights: Tensor
    bias: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return features(self.layers, outputs) @ self.weights + self.bias


def features(layers: tuple[LayerDistance, ...], outputs: Outputs) -> Tensor:
    """Return what the regression sees, the logarithms of the distances, float64 [N, layers]."""
    return torch.stack([layer(outputs).log1p() for layer in layers], 1)


@dataclass(frozen=True, kw_only=True)
class MahalanobisEnsemble(Scorer):
    """Mahalanobis distances of several layers, weighed by a logistic regression on known OOD images (Lee et al., 2018).

    score = a0 + sum over layers l of a_l log(1 + min_c d2_c(f_l) / rank_l), the a from held-out ID images against the
    known OOD images of the recipe, both with the same weight. The logarithm, which the authors' code does without,
    keeps images that are far away in one layer from deciding the regression. Input perturbation is left to
    `mahalanobis-perturbed`.

    Attributes:
        layers: Names of submodules with maps [B, C, H, W] or tokens [B, L, C]; empty takes the network's own list.
    """

    name = "mahalanobis-ensemble"
    needs = frozenset({"layers", "labels", "held_out", "known_ood"})
    scores = WeighedDistances
    info = ScorerInfo(
        paper="Lee et al., 2018, A simple unified framework for detecting out-of-distribution samples",
        formula="a₀ + Σ_l a_l log(1 + min_c d²_c(f_l)/rank_l),  a by logistic regression",
        fit="N D² a layer",
        score="D² + C D a layer",
        notes=(
            "layers weighted by logistic regression as in the authors' code, which also perturbs the images; OpenOOD's "
            "`mds_ensemble` takes the first layer alone, with images perturbed by 0.0014"
        ),
    )

    layers: tuple[str, ...] = ()

    def probe(self) -> LayerMeans:
        """Return what averages over positions."""
        return LayerMeans(wanted=self.layers)

    def fit(self, train: Outputs) -> WeighedDistances:
        """Return the weighed distances.

        Raises:
            OODError: There are no held-out or no known OOD images, or labels or layers are unusable.
        """
        from sklearn.linear_model import LogisticRegression

        if train.held_out is None or train.known_ood is None:
            raise OODError(f"scorer '{self.name}' needs held-out ID images and known OOD images")
        layers = fit_layers(train, self.probe())
        inside, outside = features(layers, train.held_out), features(layers, train.known_ood)
        is_ood = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))]).numpy()
        found = LogisticRegression(class_weight="balanced").fit(torch.cat([inside, outside]).numpy(), is_ood)
        return WeighedDistances(layers, torch.from_numpy(found.coef_[0]).double(), float(found.intercept_[0]))

"""Mahalanobis distances in several layers together (Lee et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.interfaces import Outputs, Score, Scorer, ScorerInfo
from ood_core.neighbors import nearest
from ood_core.statistics import Whitening, moments
from ood_layers.maps import LayerMeans


@dataclass(frozen=True)
class LayerDistance:
    """The squared distance to the nearest class mean in one layer, over the rank; about 1 for training images."""

    array: str  # name of the layer's array
    whitening: Whitening  # of the tied covariance
    means: Tensor  # [K, rank], whitened

    @classmethod
    def fit(cls, train: Outputs, array: str) -> LayerDistance:
        """Take the statistics of one layer."""
        found = moments(((chunk.layers[array], chunk.labels) for chunk in train.chunks()), train.classes)
        whitening = Whitening.of(found.mean, found.tied_covariance)
        return cls(array, whitening, whitening(found.means[found.counts > 0]))

    def __call__(self, outputs: Outputs) -> Tensor:
        return nearest(self.whitening(outputs.layers[self.array]), self.means)[0] / self.whitening.rank


@dataclass(frozen=True)
class SummedDistances(Score):
    """The sum of the layers' distances."""

    layers: tuple[LayerDistance, ...]

    def __call__(self, outputs: Outputs) -> Tensor:
        return torch.stack([layer(outputs) for layer in self.layers]).sum(0)


@dataclass(frozen=True, kw_only=True)
class LayerMahalanobis(Scorer):
    """Mahalanobis distances of several layers, summed with equal weights (after Lee et al., 2018).

    f_l is the mean over positions, Σ_l the tied covariance. The authors weigh the layers by a regression on known OOD
    images, as `mahalanobis-ensemble` does.

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
        return LayerMeans(wanted=self.layers)

    def fit(self, train: Outputs) -> SummedDistances:
        return SummedDistances(tuple(LayerDistance.fit(train, name) for name in self.probe().array_names(train)))


@dataclass(frozen=True)
class WeighedDistances(Score):
    """The log-odds of being OOD, by a logistic regression on the logarithms of the distances."""

    layers: tuple[LayerDistance, ...]
    weights: Tensor  # float64 [layers]
    bias: float

    def __call__(self, outputs: Outputs) -> Tensor:
        return log_distances(self.layers, outputs) @ self.weights + self.bias


def log_distances(layers: tuple[LayerDistance, ...], outputs: Outputs) -> Tensor:
    """Return log(1 + distance), float64 [N, layers]."""
    return torch.stack([layer(outputs).log1p() for layer in layers], 1)


@dataclass(frozen=True, kw_only=True)
class MahalanobisEnsemble(Scorer):
    """Mahalanobis distances of several layers, weighed by a logistic regression on known OOD images (Lee et al., 2018).

    The regression balances held-out ID images and the known OOD images of the recipe. The logarithm, which is not in
    the authors' code, keeps images that are far away in one layer from deciding it. `mahalanobis-perturbed` perturbs
    inputs.

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
        notes="layers weighted by logistic regression as in the authors' code, which also perturbs the images; "
        "OpenOOD's `mds_ensemble` takes the first layer alone, with images perturbed by 0.0014",
    )

    layers: tuple[str, ...] = ()

    def probe(self) -> LayerMeans:
        return LayerMeans(wanted=self.layers)

    def fit(self, train: Outputs) -> WeighedDistances:
        from sklearn.linear_model import LogisticRegression

        assert train.held_out is not None and train.known_ood is not None, "both are in `needs`"
        layers = tuple(LayerDistance.fit(train, name) for name in self.probe().array_names(train))
        inside, outside = log_distances(layers, train.held_out), log_distances(layers, train.known_ood)
        is_ood = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))]).numpy()
        model = LogisticRegression(class_weight="balanced").fit(torch.cat([inside, outside]).numpy(), is_ood)
        return WeighedDistances(layers, torch.from_numpy(model.coef_[0]).double(), float(model.intercept_[0]))

"""Gaussian mixture, fitted by expectation maximisation in scikit-learn."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeInt, Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_density.sample import sample_embeddings

_LOG = logging.getLogger(__name__)

Covariance: TypeAlias = Literal["full", "tied", "diag", "spherical"]


@dataclass(frozen=True)
class Full:
    """Gaussians with a covariance each."""

    means: Tensor  # [K, D]
    factors: Tensor  # [K, D, D], triangular; the product with the transpose is the inverse covariance


@dataclass(frozen=True)
class Tied:
    """Gaussians that share one covariance."""

    means: Tensor  # [K, D]
    factor: Tensor  # [D, D], as in `Full`


@dataclass(frozen=True)
class Diagonal:
    """Gaussians with a variance in each dimension."""

    means: Tensor  # [K, D]
    factors: Tensor  # [K, D], inverse standard deviations


@dataclass(frozen=True)
class MixtureSurprise(Score):
    """Minus the log-density, in nats."""

    components: Full | Tied | Diagonal  # of embeddings that are centred and divided by `spread`
    log_weights: Tensor  # [K]
    centre: Tensor  # [D]
    spread: float  # standard deviation over all dimensions

    def __call__(self, outputs: Outputs) -> Tensor:
        embeddings = (outputs.embeddings.double() - self.centre) / self.spread
        match self.components:
            case Full(means, factors):
                gaps = ((embeddings - mean) @ factor for mean, factor in zip(means, factors, strict=True))
                log_determinants = factors.diagonal(dim1=1, dim2=2).log().sum(1)
            case Tied(means, factor):
                whitened = embeddings @ factor
                gaps = (whitened - mean for mean in means @ factor)
                log_determinants = factor.diagonal().log().sum()[None]
            case Diagonal(means, factors):
                gaps = ((embeddings - mean) * factor for mean, factor in zip(means, factors, strict=True))
                log_determinants = factors.log().sum(1)
        squares = torch.stack([gap.square().sum(1) for gap in gaps], 1)
        constant = embeddings.shape[1] * (math.log(2 * math.pi) / 2 + math.log(self.spread))
        return constant - (self.log_weights + log_determinants - squares / 2).logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class Mixture(Scorer):
    """Negative log-likelihood under a Gaussian mixture of the training embeddings, as in OpenOOD's "gmm".

    With one component it ranks like `mahalanobis-global`. Embeddings are first centred and divided by their overall
    standard deviation, so that the 1e-6 that scikit-learn adds to variances is a share of them.

    Attributes:
        components: Number of Gaussians.
        covariance: "tied" is one for all components, as in OpenOOD; "full" one for each, which then needs many more
            training images than dimensions; "diag" and "spherical" ignore correlations.
        sample: Maximum number of training images, drawn at random.
        seed: Draws the sample and the start.
    """

    name = "gmm"
    scores = MixtureSurprise
    info = ScorerInfo(
        paper="Dempster, Laird and Rubin, 1977, Maximum likelihood from incomplete data via the EM algorithm",
        formula="-log Σ_k π_k N(f; m_k, Σ_k)",
        fit="rounds K N D² of at most 10 000 rows",
        score="D² + K D",
        notes="components is a choice made here; OpenOOD has 50, of the third layer after PCA to 50 dimensions",
    )

    components: PositiveInt = 10
    covariance: Covariance = "tied"
    sample: PositiveInt = 10_000
    seed: NonNegativeInt = 0

    def memory(self, classes: int, dimensions: int) -> int:
        return 8 * self.components * dimensions**2 if self.covariance == "full" else 0

    def fit(self, train: Outputs) -> MixtureSurprise:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        rows = sample_embeddings(train, self.sample, self.seed, self.name).double()
        if len(rows) < self.components:
            raise OODError(
                f"scorer '{self.name}': {self.components} components need at least as many training images, "
                f"there are {len(rows)}"
            )
        centre = rows.mean(0)
        rows = rows - centre
        spread = rows.square().mean().sqrt().item() or 1.0
        model = GaussianMixture(self.components, covariance_type=self.covariance, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # logged below
            model.fit((rows / spread).numpy())
        if not model.converged_:
            _LOG.warning("gmm: not converged after %d rounds", model.n_iter_)
        means, factors, weights = map(torch.from_numpy, (model.means_, model.precisions_cholesky_, model.weights_))
        if self.covariance == "spherical":
            factors = factors[:, None].repeat(1, rows.shape[1])
        kinds: dict[str, type[Full | Tied | Diagonal]] = {"full": Full, "tied": Tied}
        components = kinds.get(self.covariance, Diagonal)(means, factors)
        return MixtureSurprise(components, weights.log(), centre, spread)

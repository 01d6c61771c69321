"""A mixture of Gaussians, fitted by expectation maximisation in scikit-learn and evaluated here."""

from __future__ import annotations

import logging
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeInt, Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_density.sample import draw

_LOG = logging.getLogger(__name__)

Covariance: TypeAlias = Literal["full", "tied", "diag", "spherical"]


class Components(ABC):
    """The Gaussians of a mixture."""

    @abstractmethod
    def squares(self, embeddings: Tensor) -> Tensor:
        """Return squared Mahalanobis distances [N, K] of float64 [N, D]."""

    @abstractmethod
    def log_scales(self) -> Tensor:
        """Return the log of the factors' determinants, [K] or [1]."""


@dataclass(frozen=True)
class Full(Components):
    """Each with its own covariance.

    Attributes:
        means: [K, D].
        factors: [K, D, D], triangular; the product with the transpose is the inverse covariance.
    """

    means: Tensor
    factors: Tensor

    def squares(self, embeddings: Tensor) -> Tensor:
        """Return squared Mahalanobis distances [N, K]."""
        pairs = zip(self.means, self.factors, strict=True)
        return torch.stack([((embeddings - mean) @ factor).square().sum(1) for mean, factor in pairs], 1)

    def log_scales(self) -> Tensor:
        """Return the log-determinants [K]."""
        return self.factors.diagonal(dim1=1, dim2=2).log().sum(1)


@dataclass(frozen=True)
class Tied(Components):
    """All with the same covariance.

    Attributes:
        means: [K, D].
        factor: [D, D], as above.
    """

    means: Tensor
    factor: Tensor

    def squares(self, embeddings: Tensor) -> Tensor:
        """Return squared Mahalanobis distances [N, K]."""
        whitened = embeddings @ self.factor
        return torch.stack([(whitened - mean).square_().sum(1) for mean in self.means @ self.factor], 1)

    def log_scales(self) -> Tensor:
        """Return the log-determinant [1]."""
        return self.factor.diagonal().log().sum()[None]


@dataclass(frozen=True)
class Diagonal(Components):
    """Each with its own variance in every dimension.

    Attributes:
        means: [K, D].
        factors: [K, D], one over the standard deviations.
    """

    means: Tensor
    factors: Tensor

    def squares(self, embeddings: Tensor) -> Tensor:
        """Return squared Mahalanobis distances [N, K]."""
        pairs = zip(self.means, self.factors, strict=True)
        return torch.stack([((embeddings - mean) * factor).square_().sum(1) for mean, factor in pairs], 1)

    def log_scales(self) -> Tensor:
        """Return the log-determinants [K]."""
        return self.factors.log().sum(1)


@dataclass(frozen=True)
class MixtureSurprise(Score):
    """Minus the log-density, in nats.

    Attributes:
        components: The Gaussians, of embeddings that are centred and of unit variance on the whole.
        log_weights: [K].
        centre: [D].
        spread: The standard deviation over all dimensions.
    """

    components: Full | Tied | Diagonal
    log_weights: Tensor
    centre: Tensor
    spread: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        embeddings = (outputs.embeddings.double() - self.centre) / self.spread
        constant = embeddings.shape[1] * (math.log(2 * math.pi) / 2 + math.log(self.spread))
        exponents = self.log_weights + self.components.log_scales() - self.components.squares(embeddings) / 2
        return constant - exponents.logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class Mixture(Scorer):
    """Negative log-likelihood under a Gaussian mixture of the training embeddings, as in OpenOOD's "gmm".

    -log sum_k π_k N(f; m_k, Σ_k). It knows no labels; with one component it ranks like `mahalanobis-global`. Before the
    fit, embeddings are centred and divided by their overall standard deviation, so that the 1e-6 that scikit-learn adds
    to variances is a share of them.

    Attributes:
        components: How many Gaussians.
        covariance: Of the components: "tied" is one for all, as in OpenOOD; "full" one for each, which should have many
            more training images than dimensions then; "diag" and "spherical" ignore correlations.
        sample: At most so many training images are fitted to, drawn at random.
        seed: Draws the sample and the start.
    """

    name = "gmm"
    needs = frozenset({"embeddings"})
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
        """Return the size of the covariances."""
        return 8 * self.components * dimensions**2 if self.covariance == "full" else 0

    def fit(self, train: Outputs) -> MixtureSurprise:
        """Return the score.

        Raises:
            OODError: There are fewer training images than components, or embeddings are unusable.
        """
        rows = draw(train, self.sample, self.seed, self.name).double()
        if len(rows) < self.components:
            raise OODError(
                f"scorer '{self.name}': {self.components} components need at least as many training images, "
                f"there are {len(rows)}"
            )
        centre = rows.mean(0)
        rows = rows - centre
        spread = rows.square().mean().sqrt().item() or 1.0
        found = self._estimate(rows / spread)
        weights = torch.from_numpy(found.weights_).log()
        return MixtureSurprise(_components(found, rows.shape[1]), weights, centre, spread)

    def _estimate(self, rows: Tensor) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        model = GaussianMixture(self.components, covariance_type=self.covariance, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # logged below
            model.fit(rows.numpy())
        if not model.converged_:
            _LOG.warning("gmm: not converged after %d rounds", model.n_iter_)
        return model


def _components(found: Any, dimension: int) -> Full | Tied | Diagonal:
    means, factors = torch.from_numpy(found.means_), torch.from_numpy(found.precisions_cholesky_)
    match found.covariance_type:
        case "full":
            return Full(means, factors)
        case "tied":
            return Tied(means, factors)
        case "diag":
            return Diagonal(means, factors)
    return Diagonal(means, factors[:, None].repeat(1, dimension))

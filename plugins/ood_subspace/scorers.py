"""How far an embedding sticks out of the principal subspace of the training embeddings (Wang et al., 2022).

Embeddings are seen from the origin u = -W⁺ b, where the logits are as close to 0 as the head lets them be. The
principal subspace is spanned by the eigenvectors with the largest eigenvalues of mean (f - u)(f - u)ᵀ, and the residual
is what is left of f - u without its part in that subspace.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Head, Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_core.statistics import moments

_LOG = logging.getLogger(__name__)
_NOTHING = 1e-6  # a residual of at most this share of |f - u| is rounding in float32 embeddings
_PAPER = "Wang, Li, Feng and Zhang, 2022, ViM: Out-of-distribution with virtual-logit matching"


@dataclass(frozen=True)
class ResidualNorm(Score):
    """Length of the residual.

    Attributes:
        origin: u, [D].
        complement: [D, D - directions], an orthonormal basis of all that lies outside of the principal subspace.
        directions: Of the principal subspace.
    """

    origin: Tensor
    complement: Tensor
    directions: int

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return _lengths((outputs.embeddings.double() - self.origin) @ self.complement)


@dataclass(frozen=True, kw_only=True)
class Residual(Scorer):
    """Length of the part of an embedding outside of the principal subspace (Wang et al., 2022).

    |Rᵀ (f - u)|, where the columns of R span what the principal subspace does not.

    Attributes:
        directions: Dimension of the principal subspace; None takes the paper's, 1000 for embeddings wider than 1500
            and 512 for others; those narrower than 768 get half their width, as in the authors' code.
    """

    name = "residual"
    needs = frozenset({"embeddings", "head"})
    scores = ResidualNorm
    info = ScorerInfo(
        paper=_PAPER,
        formula="‖Rᵀ (f - u)‖, u = -W⁺ b",
        fit="N D² + D³",
        score="D²",
        notes=(
            "directions is the paper's by the width, below 768 that of the authors' code; OpenOOD has 512, and fits to "
            "ID validation images"
        ),
    )

    directions: PositiveInt | None = None

    def fit(self, train: Outputs) -> ResidualNorm:
        """Return the score.

        Raises:
            OODError: There is no classifier, embeddings are unusable, or no direction is left outside.
        """
        return _residual(train, _head(train, self.name), self.directions, self.name)


@dataclass(frozen=True)
class VirtualLogit(Score):
    """Alpha times the length of the residual, minus log sum exp(z).

    Attributes:
        residual: Gives the length.
        alpha: What makes lengths as large as the largest logits.
    """

    residual: ResidualNorm
    alpha: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return self.alpha * self.residual(outputs) - outputs.logits.double().logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class ViM(Scorer):
    """The residual as a further logit, against the logits of the classes (Wang et al., 2022).

    α |Rᵀ (f - u)| - log sum exp(z), where α is the mean largest logit of training images over their mean residual. It
    orders like the probability that softmax gives to the further logit.

    Attributes:
        directions: Dimension of the principal subspace; None takes the paper's, 1000 for embeddings wider than 1500
            and 512 for others; those narrower than 768 get half their width, as in the authors' code.
    """

    name = "vim"
    needs = frozenset({"embeddings", "logits", "head"})
    scores = VirtualLogit
    info = ScorerInfo(
        paper=_PAPER,
        formula="α ‖Rᵀ (f - u)‖ - log Σ exp z, u = -W⁺ b",
        fit="N D² + D³",
        score="D² + C",
        notes=(
            "directions is the paper's by the width, below 768 that of the authors' code; OpenOOD has 256, then the "
            "better of 256 and 1000 on validation OOD images"
        ),
    )

    directions: PositiveInt | None = None

    def fit(self, train: Outputs) -> VirtualLogit:
        """Return the score.

        Raises:
            OODError: There is no classifier, embeddings are unusable, or no direction is left outside.
        """
        residual = _residual(train, _head(train, self.name), self.directions, self.name)
        return VirtualLogit(residual, _alpha(train, residual))


def _alpha(train: Outputs, residual: ResidualNorm) -> float:
    """Return mean largest logit over mean residual, in one pass; always a finite number that is not negative."""
    logit, left, length = 0.0, 0.0, 0.0
    for part in train.chunks():
        logit += part.logits.double().amax(1).sum().item()
        left += residual(part).sum().item()
        length += _lengths(part.embeddings.double() - residual.origin).sum().item()
    if logit <= 0:
        _LOG.warning("the largest logits of training images are negative on average; ViM takes their size as scale")
    if left <= _NOTHING * length:
        _LOG.warning(
            "training embeddings lie in the %d principal directions; ViM takes their length as scale",
            residual.directions,
        )
        left = length
    return abs(logit) / left if left else 0.0


def _residual(train: Outputs, head: Head, directions: int | None, scorer: str) -> ResidualNorm:
    width = head.weight.shape[1]
    kept = _directions(width) if directions is None else directions
    if kept >= width:
        raise OODError(f"scorer '{scorer}' needs fewer directions than embeddings have, {width}, not {kept}")
    origin = _origin(head)
    found = moments(((part.embeddings, torch.zeros_like(part.labels)) for part in train.chunks()), classes=1)
    offset = found.mean - origin
    second_moment = found.covariance + offset.outer(offset)
    vectors = torch.linalg.eigh(second_moment)[1]  # in ascending order of their eigenvalues
    return ResidualNorm(origin, vectors[:, : width - kept].contiguous(), kept)


def _origin(head: Head) -> Tensor:
    """Return -W⁺ b, the shortest of the embeddings whose logits are nearest to 0, [D]."""
    # Softmax leaves the sum of the weights of all classes near 0. What it is exactly is rounding, and to be ignored.
    rounding = max(head.weight.shape) * torch.finfo(torch.float32).eps
    weight, bias = head.weight.double(), head.bias.double()
    # W⁺ is Wᵀ (W Wᵀ)⁺ and (Wᵀ W)⁺ Wᵀ; the smaller of the two takes a fraction of the time of singular values
    wide = len(weight) <= weight.shape[1]
    gram = weight @ weight.T if wide else weight.T @ weight
    inverse: Tensor = torch.linalg.pinv(gram, rtol=rounding**2, hermitian=True)
    return -(weight.T @ (inverse @ bias)) if wide else -(inverse @ (weight.T @ bias))


def _lengths(rows: Tensor) -> Tensor:
    return rows.square().sum(1).sqrt()


def _directions(width: int) -> int:
    if width > 1500:
        return 1000
    return 512 if width >= 768 else width // 2


def _head(train: Outputs, scorer: str) -> Head:
    if train.head is None:
        raise OODError(f"scorer '{scorer}' needs logits, and no training stage gives the network a classifier")
    return train.head

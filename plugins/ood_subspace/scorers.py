"""Distance of an embedding from the principal subspace of the training embeddings (Wang et al., 2022).

Embeddings are taken relative to the origin u = -W⁺ b, where the logits are as close to 0 as the head allows. The
principal subspace is spanned by the eigenvectors with the largest eigenvalues of mean (f - u)(f - u)ᵀ; the residual is
the part of f - u outside of it.
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
_NO_RESIDUAL = 1e-6  # at most this share of |f - u| is rounding in float32 embeddings
_PAPER = "Wang, Li, Feng and Zhang, 2022, ViM: Out-of-distribution with virtual-logit matching"


@dataclass(frozen=True)
class ResidualNorm(Score):
    """Length of the residual."""

    origin: Tensor  # u, [D]
    complement: Tensor  # R, [D, D - directions], an orthonormal basis of the rest
    directions: int  # dimension of the principal subspace

    def __call__(self, outputs: Outputs) -> Tensor:
        return ((outputs.embeddings.double() - self.origin) @ self.complement).square().sum(1).sqrt()


@dataclass(frozen=True, kw_only=True)
class Residual(Scorer):
    """Length of the part of an embedding outside of the principal subspace (Wang et al., 2022).

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
        notes="directions is the paper's by the width, below 768 that of the authors' code; OpenOOD has 512, and "
        "fits to ID validation images",
    )

    directions: PositiveInt | None = None

    def fit(self, train: Outputs) -> ResidualNorm:
        assert train.head is not None, "the head is in `needs`"
        width = train.head.weight.shape[1]
        directions = self.directions or default_directions(width)
        if directions >= width:
            raise OODError(f"'directions' must be below the dimension of the embeddings, {width}, not {directions}")
        origin = find_origin(train.head)
        found = moments(((chunk.embeddings, torch.zeros_like(chunk.labels)) for chunk in train.chunks()), classes=1)
        offset = found.mean - origin
        second_moment = found.covariance + offset.outer(offset)
        vectors = torch.linalg.eigh(second_moment)[1]  # in ascending order of their eigenvalues
        return ResidualNorm(origin, vectors[:, : width - directions].contiguous(), directions)


def default_directions(width: int) -> int:
    """Return the dimension of the principal subspace in the paper, or in the authors' code for narrow embeddings."""
    if width > 1500:
        return 1000
    return 512 if width >= 768 else width // 2


def find_origin(head: Head) -> Tensor:
    """Return -W⁺ b, the shortest of the embeddings whose logits are nearest to 0, [D]."""
    # After training with softmax the weights of all classes sum to about 0; the exact sum is rounding, to be ignored.
    rounding = max(head.weight.shape) * torch.finfo(torch.float32).eps
    weight, bias = head.weight.double(), head.bias.double()
    # W⁺ is Wᵀ (W Wᵀ)⁺ and (Wᵀ W)⁺ Wᵀ; the smaller of the two takes a fraction of the time of singular values
    wide = len(weight) <= weight.shape[1]
    gram = weight @ weight.T if wide else weight.T @ weight
    inverse: Tensor = torch.linalg.pinv(gram, rtol=rounding**2, hermitian=True)
    return -(weight.T @ (inverse @ bias)) if wide else -(inverse @ (weight.T @ bias))


@dataclass(frozen=True)
class VirtualLogit(Score):
    """Alpha times the length of the residual, minus log sum exp(z)."""

    residual: ResidualNorm
    alpha: float  # scales lengths to the size of the largest logits

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.alpha * self.residual(outputs) - outputs.logits.double().logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class ViM(Scorer):
    """The residual as a virtual logit, against the logits of the classes (Wang et al., 2022).

    α is the mean largest logit of training images over their mean residual. It ranks like the softmax probability of
    the virtual logit.

    Attributes:
        directions: Dimension of the principal subspace; None takes that of `residual`.
    """

    name = "vim"
    needs = frozenset({"embeddings", "logits", "head"})
    scores = VirtualLogit
    info = ScorerInfo(
        paper=_PAPER,
        formula="α ‖Rᵀ (f - u)‖ - log Σ exp z, u = -W⁺ b",
        fit="N D² + D³",
        score="D² + C",
        notes="directions is the paper's by the width, below 768 that of the authors' code; OpenOOD has 256, then "
        "the better of 256 and 1000 on validation OOD images",
    )

    directions: PositiveInt | None = None

    def fit(self, train: Outputs) -> VirtualLogit:
        """Fit the residual, then α in a second pass: always finite and not negative."""
        residual = Residual(directions=self.directions).fit(train)
        logit, left, length = 0.0, 0.0, 0.0
        for chunk in train.chunks():
            logit += chunk.logits.double().amax(1).sum().item()
            left += residual(chunk).sum().item()
            length += (chunk.embeddings.double() - residual.origin).square().sum(1).sqrt().sum().item()
        if logit <= 0:
            _LOG.warning("the largest logits of training images are negative on average; ViM takes their size as scale")
        if left <= _NO_RESIDUAL * length:
            _LOG.warning(
                "training embeddings lie in the %d principal directions; ViM takes their length as scale",
                residual.directions,
            )
            left = length
        return VirtualLogit(residual, abs(logit) / left if left else 0.0)

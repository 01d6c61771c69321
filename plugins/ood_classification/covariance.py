"""How far the embeddings of an epoch spread, to see them collapse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ood_core.runtime import distributed


class EmbeddingCovariance(nn.Module):
    """Sums over the embeddings of an epoch, of all processes, from which their covariance follows.

    The sums are buffers: an epoch that was interrupted goes on with them. Embeddings are counted from the mean of the
    first batch, since the difference of two large sums would have few digits.
    """

    count: Tensor
    origin: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("origin", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("first", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(width, width, dtype=torch.float64))

    @torch.no_grad()
    def add(self, embeddings: Tensor) -> None:
        """Count the embeddings [B, D] of this step."""
        # gathered, so that the sums are the same in every process: a checkpoint keeps those of the first
        rows = distributed.all_gather(embeddings).double()
        self.origin.copy_(torch.where(self.count == 0, rows.mean(0), self.origin))  # no `if`: a GPU would be waited for
        rows = rows - self.origin
        self.count += len(rows)
        self.first += rows.sum(0)
        self.second += rows.T @ rows

    def close(self) -> dict[str, float]:
        """Return effective rank and trace of the covariance, and begin a new epoch."""
        mean = self.first / self.count
        covariance = self.second / self.count - mean.outer(mean)
        for sums in (self.count, self.first, self.second):
            sums.zero_()
        return {"effective_rank": effective_rank(covariance), "feature_trace": covariance.trace().item()}


def effective_rank(covariance: Tensor) -> float:
    """Return exp of the entropy of the eigenvalues' shares (Roy & Vetterli, 2007): 1 to D, and 0 for no variance."""
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=0)
    total = eigenvalues.sum()
    return torch.special.entr(eigenvalues / total).sum().exp().item() if total > 0 else 0.0

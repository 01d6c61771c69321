"""Batch normalisation over the joined batch of all processes, on any device.

torch's own SyncBatchNorm does this on GPUs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ood_core.runtime import distributed


class JoinedBatchNorm(nn.BatchNorm1d):
    """What `nn.BatchNorm1d` gives for the batches of all processes after each other; each has the same size."""

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(rows)
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        count = len(rows) * distributed.world_size()
        mean = distributed.differentiable_all_reduce(wide.sum(0)) / count
        variance = distributed.differentiable_all_reduce((wide - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None, "it is made with running statistics"
            assert self.num_batches_tracked is not None and self.momentum is not None, "and with a momentum"
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normal = (wide - mean) * (variance + self.eps).rsqrt()
        return (normal if self.weight is None else normal * self.weight + self.bias).to(rows.dtype)

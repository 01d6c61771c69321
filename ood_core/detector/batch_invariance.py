"""Reduces how far the outputs of a network for an image depend on the other images of its batch.

A matrix product sums in an order that the library chooses by the shape. MKL, behind torch's products on a CPU, chooses
another one below 16 rows, and among several threads another one where more than some 800 numbers are summed. So
products of fewer rows are filled up to 16, and longer sums are cut into parts that are added one after another. On
processors with AVX-512 that makes vision transformers and mixers independent of the batch; on others MKL has further
rules, and nothing helps for convolutions. What came of it is measured when a detector is made (`passage.is_exact`).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from ood_core.interfaces import Network

ROWS = 16
"""Below as many rows a product is filled up."""

LENGTH = 768
"""Numbers that are summed at once."""


class ExactLinear(nn.Linear):
    """A linear layer without products of few rows or long sums."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs [..., O] of inputs [..., I]."""
        width = input.shape[-1]
        count = input.numel() // width
        if count >= ROWS and width <= LENGTH:
            return linear(input, self.weight, self.bias)
        rows = input.reshape(count, width)
        if count < ROWS:
            rows = pad(rows, (0, 0, 0, ROWS - count))
        return self._in_parts(rows)[:count].reshape(*input.shape[:-1], self.out_features)

    def _in_parts(self, rows: Tensor) -> Tensor:
        width = rows.shape[1]
        size = -(-width // -(-width // LENGTH))
        total = linear(rows[:, :size], self.weight[:, :size], self.bias)
        for start in range(size, width, size):
            part = slice(start, start + size)
            total = torch.addmm(total, rows[:, part], self.weight[:, part].t())
        return total


def exact(network: Network) -> Network:
    """Return a copy of the network with such linear layers; its weights are shared with the original.

    A copy, because the network may be the user's, who may want to export or train it.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    copied = copy.deepcopy(network, shared)  # the memo keeps the tensors themselves
    for module in copied.modules():
        if type(module) is nn.Linear:
            module.__class__ = ExactLinear
    return copied

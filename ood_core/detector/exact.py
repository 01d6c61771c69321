"""Has a network give an image the same bits whatever other images it is passed with.

A matrix product sums in an order that the library chooses by the shape. MKL, behind torch's products on a CPU, chooses
another one below 16 rows, and among several threads another one where more than some 800 numbers are summed. So
products of fewer rows are filled up to 16, and longer sums are cut into parts that are added one after another. That
costs little, and makes vision transformers and mixers exact; for convolutions, among which the library chooses by the
shape as well, there is no such cure. What came of it is measured when a detector is made (`passage.is_exact`).
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
    """A linear layer whose rows do not depend on each other, to the last bit."""

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

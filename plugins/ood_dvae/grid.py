"""Token maps of autoencoders: one cell of the code for each patch."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Tokenizer, TokenMap


class CellTokens(TokenMap):
    """Gives every cell the code that an encoder finds most likely."""

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return logits of the codes, [B, V, h, w]."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        # not under autocast, whose rounding would change tokens
        with torch.autocast(images.device.type, enabled=False):
            return self.logits(images.float()).argmax(1).flatten(1)


def cells(tokens: Tensor) -> Tensor:
    """Return tokens [B, L] as [B, h, w], h = w."""
    side = math.isqrt(tokens.shape[1])
    return tokens.view(-1, side, side)


def patches_a_side(tokenizer: Tokenizer, grid: tuple[int, int]) -> int:
    """Return the number of rows of a grid; raise OODError if it is not square, as the views are."""
    rows, columns = grid
    if rows != columns:
        raise OODError(f"tokenizer '{tokenizer.name}' needs as many rows of patches as columns, not {rows} x {columns}")
    return rows

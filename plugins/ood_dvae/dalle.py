"""Encoder and decoder of DALL-E's published autoencoder (Ramesh et al., 2021), under the names of its weights."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding

VOCABULARY = 8192
WIDTH = 256
"""Channels at the full size of the image; they double with every halving of it."""

STRIDE = 8
_MARGIN = 0.1  # the decoder's distribution lives on the open interval (0, 1): pixels keep away from its ends
_GROUPS = 4
_BLOCKS = 2  # of each group
_START = 128  # channels that a code is turned into


class Convolution(nn.Module):
    """A convolution that keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5)
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        return conv2d(maps, self.w, self.b, padding=self.w.shape[2] // 2)


class Block(nn.Module):
    """Adds a branch of four convolutions, each behind a ReLU; they are narrow between the first and the last."""

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.id_path = nn.Identity() if inputs == outputs else Convolution(inputs, outputs, 1)
        hidden = outputs // 4
        widths = (inputs, hidden, hidden, hidden, outputs)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, kernel in enumerate(kernels, 1):
            layers[f"relu_{number}"] = nn.ReLU()
            layers[f"conv_{number}"] = Convolution(widths[number - 1], widths[number], kernel)
        self.res_path = nn.Sequential(layers)

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = self.id_path(maps) + self.res_path(maps) / (_GROUPS * _BLOCKS) ** 2
        return added


def _groups(start: int, widths: tuple[int, ...], kernels: tuple[int, int, int, int], between: nn.Module) -> nn.Module:
    """Return four groups of two blocks of these widths, with what changes the size after each but the last."""
    groups: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in enumerate(widths, 1):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for block in range(1, _BLOCKS + 1):
            layers[f"block_{block}"] = Block(start if block == 1 else width, width, kernels)
        if number < _GROUPS:
            layers["size"] = between
        groups[f"group_{number}"] = nn.Sequential(layers)
        start = width
    return nn.Sequential(groups)


def _blocks(first: Convolution, groups: nn.Module, last: Convolution) -> nn.Sequential:
    output = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=last))
    return nn.Sequential(OrderedDict(input=first, **dict(groups.named_children()), output=output))


class Encoder(nn.Module):
    """Pixels to logits of codes."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = WIDTH) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        groups = _groups(width, (width, 2 * width, 4 * width, 8 * width), (3, 3, 3, 1), nn.MaxPool2d(2))
        self.blocks = _blocks(Convolution(3, width, 7), groups, Convolution(8 * width, vocabulary, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, V, h, w] of images [B, 3, 8 h, 8 w] in [0, 1]."""
        logits: Tensor = self.blocks((1 - 2 * _MARGIN) * images + _MARGIN)
        return logits


class Decoder(nn.Module):
    """Codes to pixels."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = WIDTH) -> None:
        super().__init__()
        groups = _groups(_START, (8 * width, 4 * width, 2 * width, width), (1, 3, 3, 3), nn.Upsample(scale_factor=2))
        # of each colour the place and the scale of a distribution, of which only the place is wanted
        self.blocks = _blocks(Convolution(vocabulary, _START, 1), groups, Convolution(width, 6, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return images [B, 3, 8 h, 8 w] in [0, 1] of tokens [B, h, w]."""
        first, *others = self.blocks
        assert isinstance(first, Convolution), "the layer that takes one-hot codes, here by their numbers"
        maps = (embedding(tokens, first.w.flatten(1).T) + first.b).permute(0, 3, 1, 2)
        for layer in others:
            maps = layer(maps)
        return ((maps[:, :3].sigmoid() - _MARGIN) / (1 - 2 * _MARGIN)).clamp(0, 1)

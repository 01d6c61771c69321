"""The discrete autoencoder: an image to codes and back (BEiT's "customized" dVAE, after Ramesh et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, einsum, nn


class Residual(nn.Module):
    """Adds a branch of two 3 x 3 convolutions and a 1 x 1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = maps + self.branch(maps)
        return added


class Autoencoder(nn.Module):
    """Encoder, codebook and decoder; fully convolutional, 2 ** layers pixels to a cell of h x w."""

    def __init__(self, vocabulary: int, code_width: int, hidden_width: int, layers: int, blocks: int) -> None:
        super().__init__()
        down, up = [], []
        for layer in range(layers):
            down += [nn.Conv2d(hidden_width if layer else 3, hidden_width, 4, 2, 1), nn.ReLU()]
            up += [nn.ConvTranspose2d(hidden_width if layer else code_width, hidden_width, 4, 2, 1), nn.ReLU()]
            for stage in (down, up):
                stage += [Residual(hidden_width) for _ in range(blocks)]
        self.encoder = nn.Sequential(*down)
        self.classifier = nn.Conv2d(hidden_width, vocabulary, 1)
        self.codes = nn.Parameter(torch.randn(vocabulary, code_width))
        self.decoder = nn.Sequential(*up, nn.Conv2d(hidden_width, 3, 1))
        # keeps the scale of activations; torch's own start lets them fade until logits drown in the Gumbel noise
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None, "every convolution here has one"
                nn.init.zeros_(module.bias)

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 [B, V, h, w] for images in [0, 1]."""
        logits: Tensor = self.classifier(self.encoder(2 * images - 1))
        return logits.float()

    def mixed(self, shares: Tensor) -> Tensor:
        """Return pixels, about in [-1, 1], of mixtures of codes: shares [B, V, h, w]."""
        pixels: Tensor = self.decoder(einsum("bvhw,vd->bdhw", shares, self.codes))
        return pixels.float()

    def decoded(self, tokens: Tensor) -> Tensor:
        """Return images in [0, 1] of one code a cell: tokens [B, h, w]."""
        pixels: Tensor = self.decoder(self.codes[tokens].permute(0, 3, 1, 2))
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

"""The tokenizer `dalle`: published weights from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ood_core.interfaces import Tokenizer, TrainingData
from ood_dvae.dalle import STRIDE, Decoder, Encoder
from ood_dvae.grid import CellTokens, cells, patches_a_side
from ood_dvae.weights import load


class DalleMap(CellTokens):
    """The published codes, of cells of 8 x 8 pixels."""

    def __init__(self, encoder: Encoder, decoder: Decoder | None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.decoder = None if decoder is None else decoder.requires_grad_(False)
        self.vocabulary = encoder.vocabulary

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.encoder(images)
        return logits

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor | None:
        return None if self.decoder is None else self.decoder(cells(tokens))


@dataclass(frozen=True, kw_only=True)
class DalleTokenizer(Tokenizer):
    """Tokens are the 8192 codes of DALL-E's published autoencoder (Ramesh et al., 2021), as in BEiT.

    The files are state dicts, in safetensors or torch's format. OpenAI's encoder.pkl and decoder.pkl are pickled
    programs, which are not read; save what `state_dict()` of each gives, where the package dall_e is installed.

    Attributes:
        weights: Of the encoder.
        decoder: Weights of the decoder, for pictures of what tokens keep; none makes none.
    """

    name = "dalle"

    weights: Path
    decoder: Path | None = None

    def check(self) -> None:
        self._load()

    def view_size(self, image_size: int, grid: tuple[int, int]) -> int:
        return patches_a_side(self, grid) * STRIDE

    def fit(self, data: TrainingData, grid: tuple[int, int]) -> DalleMap:
        return self._load()

    def build_empty(self, grid: tuple[int, int], image_size: int) -> DalleMap:
        """Return the map without a decoder, which would more than double what is saved."""
        return DalleMap(Encoder(), None)

    def _load(self) -> DalleMap:
        return DalleMap(load(Encoder, self.weights), load(Decoder, self.decoder) if self.decoder is not None else None)

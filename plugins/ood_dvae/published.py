"""The tokenizer `dalle`: published weights from files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding

from ood_core.errors import OODError
from ood_core.interfaces import Tokenizer, TrainingData
from ood_core.interfaces.building_blocks import state_differences
from ood_dvae.grid import CellTokens, cells, patches_a_side

VOCABULARY = 8192
WIDTH = 256  # channels at the full size of the image; they double with every halving of it

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


M = TypeVar("M", bound=nn.Module)


def load(build: Callable[[], M], path: Path) -> M:
    """Return the module that `build` makes in float32 with the weights of a file; raise OODError if they do not fit."""
    with torch.device("meta"):  # what is replaced at once need not be drawn
        module = build()
    found, wanted = read(path), module.state_dict()
    if wrong := state_differences(found, wanted):
        raise OODError(f"'{path}' has not the weights of DALL-E's {type(module).__name__.lower()}: {wrong}")
    module.load_state_dict({name: tensor.float() for name, tensor in found.items()}, assign=True)
    return module


def read(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file or of a state dict that torch has saved."""
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch says it in many ways, depending on where its reader stumbles
        if "Unsupported global" in str(error):  # what OpenAI published
            raise OODError(
                f"'{path}' is a pickled module, which could run any code; where dall_e is installed, convert it: "
                f"torch.save(torch.load('{path.name}', weights_only=False).state_dict(), '{path.stem}.pt')"
            ) from error
        raise OODError(f"'{path}' is no file of weights, or a damaged one; .safetensors and .pt are read") from error
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise OODError(f"'{path}' holds no state dict, which has a tensor for every name")
    return found


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

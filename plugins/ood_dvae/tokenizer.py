"""The tokenizer `dvae`, trained in a stage of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn.functional import mse_loss, smooth_l1_loss

from ood_core.data.transforms import Compose, MultiView, random_crop, random_flip
from ood_core.errors import OODError
from ood_core.interfaces import Tokenizer, TokenizerTraining, TrainingData, Views
from ood_core.interfaces.plugin import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ood_dvae.autoencoder import Autoencoder
from ood_dvae.grid import CellTokens, cells, patches_a_side
from ood_dvae.task import Cosine, DiscreteVAETask, Distance

_DISTANCES: dict[str, Distance] = {"mse": mse_loss, "smooth-l1": smooth_l1_loss}


class CodeMap(CellTokens):
    """The codes of an autoencoder that was trained here."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.vocabulary = len(autoencoder.codes)

    def logits(self, images: Tensor) -> Tensor:
        return self.autoencoder.logits(images)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        return self.autoencoder.decoded(cells(tokens))


@dataclass(frozen=True, kw_only=True)
class DiscreteVAETraining(TokenizerTraining):
    """Train the autoencoder on crops.

    Attributes:
        tokenizer: What is trained, and how.
        weight_decay: 1e-4 in DALL-E.
    """

    name = "dvae"
    tokenizer: DiscreteVAE
    weight_decay: NonNegativeFloat = 1e-4

    picture_legends: ClassVar[dict[str, str]] = {
        "reconstructions": "from top to bottom: images; the decoder's pixels for their tokens"
    }

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        crop = random_crop(image_size, self.tokenizer.crop_scale)
        return MultiView((Compose((crop, random_flip) if self.tokenizer.flip else (crop,)),))

    def build(self, data: TrainingData) -> DiscreteVAETask:
        options, size = self.tokenizer, data.image_size
        if size % options.stride:
            raise OODError(
                f"tokenizer '{self.name}' with {options.layers} layers makes cells of {options.stride} pixels, "
                f"image_size must be a multiple of it, such as {-(-size // options.stride) * options.stride}, "
                f"it is {size}"
            )
        return DiscreteVAETask(
            options.autoencoder(),
            _DISTANCES[options.reconstruction],
            Cosine(options.start_temperature, options.end_temperature, options.temperature_fall),
            Cosine(0.0, options.kl_weight, options.kl_warmup),
        )


@dataclass(frozen=True, kw_only=True)
class DiscreteVAE(Tokenizer):
    """Tokens are the codes of a discrete variational autoencoder, trained on the same images before the network.

    The architecture is that of BEiT's own; "in the paper" is DALL-E (Ramesh et al., 2021), whose tokenizer BEiT took.

    Attributes:
        vocabulary: Number of codes; 8192 in the paper.
        code_width: Numbers of which a code is made; 512 in BEiT's.
        hidden_width: Channels between the layers; 64 in BEiT's.
        layers: How often encoder and decoder halve and double the size; 3 in the paper, so cells of 8 x 8 pixels.
        blocks: Residual blocks behind each of them; 1 in BEiT's.
        reconstruction: Distance of pixels; "mse" is the default of BEiT's, too.
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: Peak of the schedule; 1e-4 in the paper.
        kl_weight: Of the divergence per cell from equal use of all codes, beside the mean over pixels in [-1, 1]; the
            paper's 6.6 is 0.034 in these units, with another distance.
        kl_warmup: Share of the training over which the weight rises from 0.
        start_temperature: Of the Gumbel-softmax; 1 in the paper.
        end_temperature: Where it falls to; 1/16 in the paper.
        temperature_fall: Share of the training that the fall takes.
        crop_scale: Smallest share of an image's area that a random crop keeps; 1 crops nothing.
        flip: Whether half of the images are mirrored.
    """

    name: ClassVar[str] = "dvae"
    vocabulary: Annotated[int, Ge(2)] = 512
    code_width: PositiveInt = 64
    hidden_width: PositiveInt = 128
    layers: PositiveInt = 2
    blocks: NonNegativeInt = 1
    reconstruction: Literal["mse", "smooth-l1"] = "mse"
    epochs: PositiveInt = 30
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    kl_weight: NonNegativeFloat = 1e-2
    kl_warmup: Annotated[float, Ge(0), Le(1)] = 0.1
    start_temperature: PositiveFloat = 1.0
    end_temperature: PositiveFloat = 0.0625
    temperature_fall: Annotated[float, Ge(0), Le(1)] = 0.6
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    flip: bool = True

    @property
    def stride(self) -> int:
        """Pixels along each side of a cell."""
        return int(2**self.layers)

    def autoencoder(self) -> Autoencoder:
        """Return the autoencoder, random under torch's seed."""
        return Autoencoder(self.vocabulary, self.code_width, self.hidden_width, self.layers, self.blocks)

    def training(self) -> DiscreteVAETraining:
        return DiscreteVAETraining(
            tokenizer=self, epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate
        )

    def view_size(self, image_size: int, grid: tuple[int, int]) -> int:
        """Return the size at which each patch is one cell."""
        return patches_a_side(self, grid) * self.stride

    def fit(self, data: TrainingData, grid: tuple[int, int]) -> CodeMap:
        autoencoder = self.autoencoder()
        autoencoder.load_state_dict(data.tokenizer_weights(self))
        return CodeMap(autoencoder)

    def build_empty(self, grid: tuple[int, int], image_size: int) -> CodeMap:
        return CodeMap(self.autoencoder())

"""The training of a discrete variational autoencoder by the Gumbel-softmax relaxation (DALL-E, Ramesh et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ood_core.interfaces import Batch, Task
from ood_core.interfaces.building_blocks import tiled
from ood_core.runtime import distributed
from ood_dvae.autoencoder import Autoencoder

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_RESTARTS = 0.5  # of the training; a code that is moved later has no time left to find its place
_NOISE = 0.1  # of the deviation of all codes: a copied code is to differ from the one it was copied from


@dataclass(frozen=True)
class Cosine:
    """Goes from one value to another along half a cosine."""

    start: float  # value at the start of the training
    end: float  # value from the share on
    share: float  # of the training that it takes; at 0 it is over before it begins

    def at(self, progress: float) -> float:
        """Return the value at this share of the training."""
        if progress >= self.share:
            return self.end
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress / self.share)) / 2


def mixture(logits: Tensor, temperature: Tensor, seeds: Tensor | None = None) -> Tensor:
    """Return shares of the codes of a cell [B, V, h, w], a Gumbel-softmax sample by a seed for each image [B]."""
    exponential = torch.empty_like(logits)
    if seeds is None:
        exponential.exponential_()
    else:
        generator = torch.Generator(logits.device)
        for row, seed in zip(exponential, seeds.tolist(), strict=True):
            row.exponential_(generator=generator.manual_seed(seed))
    return ((logits - exponential.log()) / temperature).softmax(1)


def divergence(logits: Tensor) -> Tensor:
    """Return the mean over cells of KL(q || uniform), q being the softmax of logits [B, V, h, w]."""
    logs = log_softmax(logits, 1)
    return (logs.exp() * logs).sum(1).mean() + math.log(logits.shape[1])


class DiscreteVAETask(Task):
    """Reconstruction from mixtures of codes that become single ones, and a pull of the encoder to use them all."""

    counts: Tensor
    progress: Tensor
    temperature: Tensor
    kl_weight: Tensor

    def __init__(self, autoencoder: Autoencoder, distance: Distance, temperature: Cosine, kl_weight: Cosine) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.distance = distance
        self.schedules = {"temperature": temperature, "kl_weight": kl_weight}
        self.register_buffer("counts", torch.zeros(len(autoencoder.codes), dtype=torch.int64))
        self.register_buffer("progress", torch.zeros(()))
        for name, schedule in self.schedules.items():
            self.register_buffer(name, torch.tensor(schedule.at(0)))

    def product(self) -> nn.Module:
        return self.autoencoder

    def before_step(self, progress: float) -> None:
        self.progress.fill_(progress)
        for name, schedule in self.schedules.items():
            getattr(self, name).fill_(schedule.at(progress))

    def draw(self, images: int) -> Tensor:
        """Return a seed for the noise of each image, int64 [B]; the noise itself would be too large to draw for all."""
        return torch.randint(2**62, (images,))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and its two parts; pixels are compared in [-1, 1]."""
        (images,) = batch.views
        logits = self.autoencoder.logits(images)
        tokens = logits.argmax(1).flatten()
        used = torch.zeros_like(self.counts).index_add_(0, tokens, torch.ones_like(tokens))
        self.counts += distributed.all_reduce_sum(used)
        shares = mixture(logits, self.temperature, batch.drawn)
        reconstruction = self.distance(self.autoencoder.mixed(shares), 2 * images - 1)
        kl = divergence(logits)
        loss = reconstruction + self.kl_weight * kl
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl, "temperature": self.temperature.clone()}

    def after_epoch(self) -> dict[str, float]:
        """Return how evenly and how many codes were used in the epoch; move unused ones to where many cells are."""
        shares = self.counts.double() / self.counts.sum()
        dead = self.counts == 0
        perplexity = torch.special.entr(shares).sum().exp().item()
        metrics = {"perplexity": perplexity, "dead_codes": float(dead.sum())}
        if dead.any() and self.progress < _RESTARTS:
            self._restart(dead.nonzero()[:, 0])
        self.counts.zero_()
        return metrics

    @torch.no_grad()
    def _restart(self, dead: Tensor) -> None:
        """Make each unused code nearly a copy of a used one: encoder and decoder take it for that one."""
        counts = self.counts.double().cpu()
        # a generator of its own, which is in the same state in all processes
        generator = torch.Generator().manual_seed(int(counts @ torch.arange(len(counts)).double()))
        donors = counts.multinomial(len(dead), replacement=True, generator=generator)  # the more cells, the more copies
        classifier = self.autoencoder.classifier
        assert classifier.bias is not None, "each code has a logit of its own"
        for parameter in (self.autoencoder.codes, classifier.weight, classifier.bias):
            rows = distributed.full_tensor(parameter.detach()).clone()
            noise = torch.randn(rows[dead].shape, generator=generator).to(rows)
            rows[dead] = rows[donors] + _NOISE * rows.std() * noise
            parameter.copy_(distributed.shard_like(rows, parameter))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        (images,) = batch.views
        tokens = self.autoencoder.logits(images).argmax(1)
        return {"reconstructions": tiled([images, self.autoencoder.decoded(tokens)])}

"""Passes of images through the network, with a gradient at the pixels where one is wanted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Network, Outputs

_NO_RIVAL = -1e30  # where there is one class alone: finite, so that its score and its gradient are


def network_of(outputs: Outputs) -> tuple[Network, Tensor]:
    """Return the network and the images to be scored."""
    if outputs.network is None or outputs.images is None:
        raise OODError("this score passes images through the network, and the outputs hold no images or no network")
    return outputs.network, outputs.images


def pixel_gradient(images: Tensor, output: Callable[[Tensor], Tensor], weights: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient at the pixels, [N, 3, S, S], of a function of each row of a network's output [N, D].

    The network keeps no trace of it, and callers may be under `no_grad` or `inference_mode`. `weights` is the gradient
    of the function at the output, [N, D].
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.clone().requires_grad_()
        found = output(pixels)
        with torch.no_grad():
            outer = weights(found.double()).to(found.dtype)
        (gradient,) = torch.autograd.grad(found, pixels, outer)
    return gradient


def error_log_odds(logits: Tensor) -> Tensor:
    """Return the log-odds of all other classes together against the most probable one, [N]; free of cancellation."""
    top, index = logits.max(1, keepdim=True)
    return logits.scatter(1, index, _NO_RIVAL).logsumexp(1) - top[:, 0]


def error_log_odds_gradient(logits: Tensor) -> Tensor:
    """Return the gradient of `error_log_odds`, [N, C]: -1 for the top class, shares of 1 for the others."""
    index = logits.argmax(1, keepdim=True)
    shares = logits.scatter(1, index, _NO_RIVAL).softmax(1)
    return shares.scatter(1, index, -1.0)

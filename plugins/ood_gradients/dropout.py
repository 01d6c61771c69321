"""What predictions do when dropout stays on (Gal and Ghahramani, 2016).

Each pass drops the same entries of every image, from a generator of its own: so a score depends neither on the other
images of the batch nor on the global random state, and images are compared under the same networks. For one image
the masks are distributed as in the paper.

Dropout is whatever calls the dropout functions of `torch.nn.functional`, by a module or not, with a share above 0. The
dropout inside of fused attention and the dropping of whole residual paths do not, and stay off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ood_core.errors import OODError
from ood_core.interfaces import FormulaScorer, Outputs, PositiveInt, ScorerInfo
from ood_gradients.passes import network_of

MOST_PASSES = 10_000
_WHOLE_CHANNELS = (functional.dropout1d, functional.dropout2d, functional.dropout3d)


@dataclass(frozen=True, kw_only=True)
class MCDropout(FormulaScorer):
    """Entropy of the softmax, averaged over passes with dropout on (Gal and Ghahramani, 2016).

    Where dropout is in the head alone, the rest is run once.

    Attributes:
        passes: P, 10 000 at most; 100 in the classification experiment of the paper.
    """

    name = "mc-dropout"
    needs = frozenset({"logits", "network"})
    info = ScorerInfo(
        paper="Gal and Ghahramani, 2016, Dropout as a Bayesian approximation",
        formula="H(mean_p softmax(z_p)),  z_p of pass p with dropout",
        score="100 forward passes; 1 where only the head has dropout",
        notes="passes is that of the paper's experiment with MNIST, its regression has 1000; OpenOOD has 5, and the "
        "largest softmax of the mean logits in place of the entropy",
    )

    passes: PositiveInt = 100

    def __post_init__(self) -> None:
        if self.passes > MOST_PASSES:  # also in a saved detector, which could otherwise take years
            raise ValueError(f"passes is {MOST_PASSES} at most")

    def score(self, outputs: Outputs) -> Tensor:
        passes = (logits.double().log_softmax(1) for logits in _passes(outputs, self.passes))
        log_probabilities = reduce(torch.logaddexp, passes).log_softmax(1)
        top = log_probabilities.argmax(1, keepdim=True)
        others = log_probabilities.exp().scatter(1, top, 0.0)
        rest = others.sum(1)
        # the top class by the probability of the others, because its logarithm rounds to 0 first
        entropy: Tensor = torch.special.entr(others).sum(1) - (1 - rest) * torch.log1p(-rest)
        return entropy


@torch.no_grad()
def _passes(outputs: Outputs, passes: int) -> Iterator[Tensor]:
    """Yield the logits of each pass; features that no dropout has touched are computed once."""
    network, images = network_of(outputs)
    features: Tensor | None = None
    for index in range(passes):
        with _Dropping(index) as dropping:
            if features is None:
                found = network.forward_features(images)
                features = None if dropping.calls else found
            else:
                found = features
            logits: Tensor = network.forward_head(found)
        if not dropping.calls:
            raise OODError("scorer 'mc-dropout' needs dropout, and the network has none with a share above 0")
        yield logits


class _Dropping(TorchFunctionMode):
    """While active, dropout happens in evaluation mode too, with one mask for all rows; `calls` counts it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.calls = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Stand in for the dropout functions, and leave all others alone."""
        options = dict(kwargs or {})
        if func is functional.dropout or func in _WHOLE_CHANNELS:
            share = args[1] if len(args) > 1 else options.get("p", 0.5)
            if share > 0:
                return self._drop(args[0] if args else options["input"], share, func in _WHOLE_CHANNELS)
        return func(*args, **options)

    def _drop(self, values: Tensor, share: float, whole_channels: bool) -> Tensor:
        self.calls += 1
        shape = values.shape[1:2] + (1,) * (values.ndim - 2) if whole_channels else values.shape[1:]
        kept = torch.rand(1, *shape, generator=self._generator) >= share
        # a share of 1 leaves nothing that could be divided by 0
        return values * (kept / max(1 - share, torch.finfo(torch.float32).eps)).to(values)

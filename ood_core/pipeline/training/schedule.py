"""The learning rate of every step, and the groups of parameters with their factors and decay (BEiT, MOOD sec. B.3)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from ood_core.interfaces import Network, Task, Training


def learning_rate(options: Training, step: int, per_epoch: int) -> float:
    """Return the rate of a step: a line from 0 to the peak over the warm-up, then half a cosine to the least rate."""
    warmup, total = round(options.warmup_epochs * per_epoch), options.epochs * per_epoch
    peak, least = options.learning_rate, options.min_learning_rate
    if step < warmup:
        return peak * step / max(warmup - 1, 1)
    progress = (step - warmup) / max(total - warmup, 1)
    return least + 0.5 * (peak - least) * (1 + math.cos(math.pi * progress))


def parameter_groups(task: Task, options: Training) -> list[dict[str, Any]]:
    """Return the trained parameters by decay and learning-rate factor, the latter as "factor"."""
    factors, undecayed = _factors(task.product(), options.layer_decay), _undecayed(task.product())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in task.parameters():
        if parameter.requires_grad:
            decays = options.decay_all or (parameter.ndim > 1 and parameter not in undecayed)
            key = (options.weight_decay if decays else 0.0, factors.get(parameter, 1.0))
            groups.setdefault(key, []).append(parameter)
    return [{"params": same, "weight_decay": decay, "factor": factor} for (decay, factor), same in groups.items()]


def _factors(product: nn.Module, decay: float) -> Mapping[nn.Parameter, float]:
    """Return the factor of every parameter of a network: decay ** (distance from the deepest layer)."""
    depths = product.parameter_depths() if isinstance(product, Network) and decay < 1 else {}
    deepest = max(depths.values(), default=0)
    return {
        parameter: decay ** (deepest - depths[name]) for name, parameter in product.named_parameters() if name in depths
    }


def _undecayed(product: nn.Module) -> Collection[nn.Parameter]:
    """Return the parameters that a network exempts from weight decay."""
    exempt = product.undecayed() if isinstance(product, Network) else ()
    return {parameter for name, parameter in product.named_parameters() if name in exempt}

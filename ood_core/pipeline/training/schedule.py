"""The learning rate of every step, and the groups of parameters with their factors and decay (BEiT, MOOD sec. B.3)."""

from __future__ import annotations

import math
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
    product, layer_decay = task.product(), options.layer_decay
    depths = product.parameter_depths() if isinstance(product, Network) and layer_decay < 1 else {}
    exempt = product.undecayed() if isinstance(product, Network) else ()
    top, named = max(depths.values(), default=0), dict(product.named_parameters())
    factors = {parameter: layer_decay ** (top - depths[name]) for name, parameter in named.items() if name in depths}
    undecayed = {parameter for name, parameter in named.items() if name in exempt}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in task.parameters():
        if parameter.requires_grad:
            decays = options.decay_all or (parameter.ndim > 1 and parameter not in undecayed)
            key = (options.weight_decay if decays else 0.0, factors.get(parameter, 1.0))
            groups.setdefault(key, []).append(parameter)
    return [{"params": same, "weight_decay": decay, "factor": factor} for (decay, factor), same in groups.items()]

"""The learning rate of every step, and which parameters decay and by which factor they learn."""

import math

import pytest
import torch
from torch import nn

from ood_core.interfaces import Network, PretextTask, Task
from ood_core.pipeline.training.schedule import learning_rate, parameter_groups


class Options(PretextTask):
    name = "options"

    def views(self, image_size, grid):
        return None

    def build(self, network, data):
        return None


def published(options, per_epoch):
    """BEiT's schedule: a list of all rates, the warm-up by linspace, the rest half a cosine to the least rate."""
    warmup = int(options.warmup_epochs * per_epoch)
    rest = options.epochs * per_epoch - warmup
    rise = torch.linspace(0, options.learning_rate, warmup, dtype=torch.float64).tolist()
    span = options.learning_rate - options.min_learning_rate
    return rise + [options.min_learning_rate + 0.5 * span * (1 + math.cos(math.pi * i / rest)) for i in range(rest)]


@pytest.mark.parametrize(("warmup", "least"), [(2, 0.0), (2, 0.1), (0, 0.1), (0.4, 0.0), (10, 0.0)])
def test_the_rates_are_those_of_beit(warmup, least):
    options = Options(epochs=10, learning_rate=2.0, warmup_epochs=warmup, min_learning_rate=least)
    rates = [learning_rate(options, step, per_epoch=5) for step in range(50)]
    assert rates == pytest.approx(published(options, 5))
    assert rates[0] == (0.0 if warmup else 2.0)


def test_a_training_that_is_all_warmup_stays_finite():
    options = Options(epochs=1, warmup_epochs=1)
    assert [learning_rate(options, step, per_epoch=4) for step in range(4)] == pytest.approx(
        [0, 1e-3 / 3, 2e-3 / 3, 1e-3]
    )
    assert learning_rate(options, 0, per_epoch=1) == 0


class Deep(Network):
    num_features = 3

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 3))
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    forward_features = forward_head = get_classifier = reset_classifier = lambda *_: None

    def parameter_depths(self):
        return {"token": 0, **{f"layers.{i}.{kind}": i + 1 for i in (0, 1) for kind in ("weight", "bias")}}

    def undecayed(self):
        return {"token"}


class Around(Task):
    def __init__(self):
        super().__init__()
        self.network = Deep()
        self.head = nn.Linear(3, 2)

    def forward(self, batch):
        return {"loss": torch.zeros(())}


def by_name(**options):
    task = Around()
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    return {
        names[id(parameter)]: (group["weight_decay"], group["factor"])
        for group in parameter_groups(task, Options(epochs=1, weight_decay=0.05, **options))
        for parameter in group["params"]
    }


def test_matrices_decay_biases_and_named_tokens_do_not_and_frozen_ones_are_left_out():
    decay = {name: decay for name, (decay, _) in by_name().items()}
    assert decay == {
        "network.token": 0,
        "network.layers.0.weight": 0.05,
        "network.layers.0.bias": 0,
        "network.layers.1.weight": 0.05,
        "network.layers.1.bias": 0,
        "head.weight": 0.05,
        "head.bias": 0,
    }


def test_all_may_decay():
    assert {decay for decay, _ in by_name(decay_all=True).values()} == {0.05}


def test_each_layer_learns_slower_than_the_one_above_it():
    factors = {name: factor for name, (_, factor) in by_name(layer_decay=0.5).items()}
    assert factors["network.token"] == 0.25
    assert factors["network.layers.0.weight"] == factors["network.layers.0.bias"] == 0.5
    assert factors["network.layers.1.weight"] == 1
    assert factors["head.weight"] == 1
    assert {factor for _, factor in by_name().values()} == {1.0}


class Renamed(Task):
    """A task that keeps its network under a name of its own."""

    def __init__(self):
        super().__init__()
        self.student = Deep()

    def forward(self, batch):
        return {"loss": torch.zeros(())}

    def product(self):
        return self.student


def test_decay_and_factors_are_those_of_the_product_whatever_the_task_calls_it():
    task = Renamed()
    groups = parameter_groups(task, Options(epochs=1, weight_decay=0.05, layer_decay=0.5))
    factor_and_decay = {id(p): (g["factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    network = task.student
    assert factor_and_decay[id(network.token)] == (0.25, 0)
    assert factor_and_decay[id(network.layers[0].weight)] == (0.5, 0.05)
    assert factor_and_decay[id(network.layers[1].weight)] == (1, 0.05)

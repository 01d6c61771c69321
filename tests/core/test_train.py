"""The schedule, the parameter groups, and what a checkpoint holds."""

import math

import pytest
import torch
from torch import nn

from ood_core.interfaces import PretextTask, Task
from ood_core.train import learning_rate, parameter_groups


class Options(PretextTask):
    name = "options"

    def views(self, image_size):
        return None

    def build(self, network, data):
        return None


def test_the_rate_rises_on_a_line_and_falls_on_half_a_cosine():
    task = Options(epochs=10, learning_rate=2.0, warmup_epochs=2)
    rates = [learning_rate(task, step, per_epoch=5) for step in range(50)]
    assert rates[:10] == pytest.approx([2.0 * (step + 1) / 11 for step in range(10)])
    assert rates[10] == 2.0
    for step in range(10, 50):
        assert rates[step] == pytest.approx(1 + math.cos(math.pi * (step - 10) / 40))
    assert 0 < rates[-1] < 0.01


def test_without_warmup_the_first_step_has_the_peak():
    assert learning_rate(Options(epochs=3, learning_rate=0.5, warmup_epochs=0), 0, per_epoch=4) == 0.5


def test_a_training_that_is_all_warmup_stays_finite():
    task = Options(epochs=1, warmup_epochs=1)
    assert all(0 < learning_rate(task, step, per_epoch=4) < 1e-3 for step in range(4))


class Small(Task):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, batch):
        return {"loss": torch.zeros(())}


def test_matrices_decay_biases_and_norms_do_not_and_frozen_ones_are_left_out():
    task = Small()
    matrices, rest = parameter_groups(task, 0.05)
    assert [id(parameter) for parameter in matrices["params"]] == [id(task.linear.weight)]
    assert matrices["weight_decay"] == 0.05
    assert {id(p) for p in rest["params"]} == {id(p) for p in (task.linear.bias, task.norm.weight, task.norm.bias)}
    assert rest["weight_decay"] == 0.0

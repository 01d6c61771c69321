"""Contrast over the joined batch of two processes is that of one process with the whole batch."""

import pytest
import torch
from torch import nn

from ood_core.interfaces import Batch, Network
from ood_mocov3.normalisation import JoinedBatchNorm
from ood_mocov3.task import Contrast, MoCoV3Task
from ood_supcon.task import ContrastTask

from .two_processes import joined

ROWS, WIDTH = 12, 6


class Flat(Network):
    num_features = WIDTH

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, WIDTH)

    def forward_features(self, images):
        return self.body(images.flatten(1))

    def forward_head(self, features, pre_logits=False):
        return features

    def get_classifier(self):
        return nn.Identity()

    def reset_classifier(self, num_classes):
        raise AssertionError("no classifier is asked for")


def batch(rows):
    generator = torch.Generator().manual_seed(1)
    views = [torch.rand(ROWS, 3, 2, 2, generator=generator)[rows] for _ in range(2)]
    return Batch(tuple(views), (torch.arange(ROWS) % 3)[rows])


def gradients(task, rows):
    """Return the loss, the gradients of all that is trained and the buffers after a step."""
    task.train()
    task.before_step(0.3)
    loss = task(batch(rows))["loss"]
    loss.backward()
    found = {name: parameter.grad for name, parameter in task.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach()} | found | {f"buffer {name}": tensor for name, tensor in task.named_buffers()}


def mocov3():
    torch.manual_seed(0)
    return MoCoV3Task(Flat(), Contrast(hidden=8, output=4, temperature=0.2, momentum=0.9), freeze_patches=False)


def supcon():
    torch.manual_seed(0)
    return ContrastTask(Flat(), output=4, temperature=0.5, by_label=True)


def simclr():
    torch.manual_seed(0)
    return ContrastTask(Flat(), output=4, temperature=0.5, by_label=False)


@pytest.mark.slow
@pytest.mark.parametrize("make", [mocov3, supcon, simclr])
def test_two_processes_have_the_loss_and_gradients_of_one_with_the_joined_batch(make, tmp_path):
    first, second = joined(lambda rank: gradients(make(), slice(6 * rank, 6 * rank + 6)), tmp_path)
    whole = gradients(make(), slice(None))
    assert whole.keys() == first.keys()
    for name, expected in whole.items():
        if name.startswith("buffer"):
            torch.testing.assert_close(first[name], expected)
            torch.testing.assert_close(second[name], expected)
        else:
            torch.testing.assert_close((first[name] + second[name]) / 2, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(first["loss"], second["loss"])  # each has its own half


def test_alone_it_is_ordinary_batch_normalisation():
    rows = torch.randn(8, 5)
    joint, ordinary = JoinedBatchNorm(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(joint(rows), ordinary(rows))
    torch.testing.assert_close(joint.running_var, ordinary.running_var)

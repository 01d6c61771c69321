"""Networks: where the head is found, and what is no network."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from ood_core.errors import OODError
from ood_core.interfaces import Backbone, Network, PretextTask, Task
from ood_core.pipeline import networks
from ood_core.run.schedule import run
from ood_core.store import store as stores
from ood_core.store.store import Store


class Fixed(Network):
    num_features = 3

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward_features(self, images):
        return images.mean((2, 3))

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.classifier(features)

    def get_classifier(self):
        return self.classifier

    def reset_classifier(self, num_classes):
        self.classifier = nn.Linear(3, num_classes)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_classifier_is_the_head(bias):
    linear = nn.Linear(3, 5, bias=bias)
    head = networks.head_of(Fixed(linear))
    embeddings = torch.randn(4, 3)
    torch.testing.assert_close(embeddings @ head.weight.T + head.bias, linear(embeddings))
    assert not head.weight.requires_grad


def test_a_1x1_convolution_is_flattened_to_the_head():
    convolution = nn.Conv2d(3, 5, 1)
    head = networks.head_of(Fixed(convolution))
    embeddings = torch.randn(4, 3)
    expected = convolution(embeddings[:, :, None, None]).flatten(1)
    torch.testing.assert_close(embeddings @ head.weight.T + head.bias, expected)


def test_no_classifier_is_no_head():
    assert networks.head_of(Fixed(nn.Identity())) is None


@dataclass(frozen=True, kw_only=True)
class Wrong(Backbone):
    name = "wrong"

    def build(self, image_size, classes):
        return nn.Linear(3, 3)


def test_what_is_no_network_is_refused_by_name():
    with pytest.raises(OODError, match="backbone 'wrong' builds a Linear, which is no Network"):
        networks.build(Wrong(), 8, 2)


@dataclass(frozen=True, kw_only=True)
class Downloaded(Backbone):
    """A small network whose initial weights can be had for one training, and then no more."""

    name = "downloaded"
    built: ClassVar[list[int]] = []

    def build(self, image_size, classes):
        if self.built:
            raise OODError("no connection")
        self.built.append(classes)
        return Fixed(nn.Linear(3, classes))

    def build_empty(self, image_size, classes):
        return Fixed(nn.Linear(3, classes))


@pytest.fixture
def downloaded(make_plan, tiny, monkeypatch):
    """The plan of the tiny recipe on that backbone."""
    monkeypatch.setattr(Downloaded, "built", [])
    made = make_plan(tiny, "scorers=[mahalanobis, gradnorm, odin]", "training.0.epochs=1")
    for stage in made.stages:
        if stage.kind in ("train", "extract"):
            object.__setattr__(stage, "backbone", Downloaded())
    return made


def test_initial_weights_are_read_for_the_training_alone(downloaded, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "cost_key", lambda stage: "alike")  # the plugin is not registered
    store = Store(tmp_path)
    results = run(downloaded, store)
    assert not results.failures
    assert Downloaded.built == [3]
    for stage in downloaded.stages:
        if stage.kind == "extract":
            (store.folder(stage) / "stage.json").unlink()
    assert run(downloaded, store).rows == results.rows


def test_an_empty_network_that_is_another_one_is_named(downloaded, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "cost_key", lambda stage: "alike")
    monkeypatch.setattr(Downloaded, "build_empty", lambda *_: Fixed(nn.Linear(3, 7)))
    with pytest.raises(
        OODError, match=r"backbone 'downloaded': 'build_empty' makes another network than 'build': .*classifie"
    ):
        run(downloaded, Store(tmp_path))


def test_the_network_gives_logits_when_called():
    network = Fixed(nn.Linear(3, 5))
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(network(images), network.classifier(images.mean((2, 3))))


class Around(Task):
    """A task with another module whose name begins as that of the network."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.networks = nn.Linear(2, 2)
        self.register_buffer("counts", torch.arange(3))

    def forward(self, batch):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Surrounding(PretextTask):
    name = "surrounding"

    def views(self, image_size, grid):
        raise NotImplementedError

    def build(self, network, data):
        raise NotImplementedError

    def build_empty(self, network, image_size):
        return Around(network)


def test_the_state_of_a_task_is_without_its_network():
    assert networks.task_state(Around(Fixed(nn.Linear(3, 2)))).keys() == {"counts", "networks.weight", "networks.bias"}


def test_a_restored_task_has_copies_of_the_tensors_in_its_own_precision_around_the_network():
    network, trained = Fixed(nn.Linear(3, 2)), Around(Fixed(nn.Linear(3, 2)))
    state = {name: tensor.double() for name, tensor in networks.task_state(trained).items()}
    task = networks.restored_task(Surrounding(epochs=1), network, 8, state)
    assert task.network is network and not task.training
    assert all(parameter.requires_grad for parameter in task.parameters())
    assert task.networks.weight.dtype == torch.float32 and task.counts.dtype == torch.int64
    assert torch.equal(task.networks.weight, trained.networks.weight)


def test_tensors_that_do_not_fit_a_task_are_named():
    state = networks.task_state(Around(Fixed(nn.Linear(3, 2))))
    state["extra"], state["networks.weight"] = state.pop("counts"), torch.zeros(5, 2)
    message = (
        r"^pretext 'surrounding': the saved tensors are not those of these options: 1 missing: counts; "
        r"1 unexpected: extra; 1 of another shape: networks\.weight is \[5, 2\] instead of \[2, 2\]$"
    )
    with pytest.raises(OODError, match=message):
        networks.restored_task(Surrounding(epochs=1), Fixed(nn.Linear(3, 2)), 8, state)

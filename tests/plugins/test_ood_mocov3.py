"""The loss against loops, the momentum and what it moves, the two views, and learning on real digits."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PatchNetwork, TrainingData
from ood_mocov3.pretext import MoCoV3
from ood_mocov3.task import Contrast, perceptron

SMALL = {"epochs": 1, "hidden": 32, "output": 16}
DATA = TrainingData(
    classes=4, all_classes=4, image_size=8, sample=lambda count: torch.rand(count, 3, 8, 8), trained=lambda _: {}
)


class Patches(PatchNetwork):
    """A perceptron on 2 x 2 patches and their positions; the embedding is the mean token."""

    def __init__(self, width=12):
        super().__init__()
        self.num_features, self.grid = width, (4, 4)
        self.embed = nn.Conv2d(3, width, 2, 2)
        self.position = nn.Parameter(torch.randn(16, width) / 2)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Linear(width, 4)

    def forward_features(self, images):
        return self.mix(self.embed(images).flatten(2).transpose(1, 2) + self.position)

    def forward_head(self, features, pre_logits=False):
        return features.mean(1) if pre_logits else self.head(features.mean(1))

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes):
        self.head = nn.Linear(self.num_features, num_classes)

    def patch_projection(self):
        return self.embed

    def forward_masked(self, images, mask, mask_token):
        raise AssertionError("MoCo hides nothing")


class Plain(Network):
    """A network without patches, with batch normalisation."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())

    def forward_features(self, images):
        return self.body(images)

    def forward_head(self, features, pre_logits=False):
        return features.mean((2, 3))

    def get_classifier(self):
        return nn.Identity()

    def reset_classifier(self, num_classes):
        raise AssertionError("MoCo needs no classifier")


def built(network=None, **options):
    torch.manual_seed(0)
    return MoCoV3(**SMALL | options).build(network or Patches(), DATA)


def batch_of(count=10, dtype=torch.float32):
    torch.manual_seed(1)
    return Batch((torch.rand(count, 3, 8, 8, dtype=dtype), torch.rand(count, 3, 8, 8, dtype=dtype)), torch.zeros(count))


# ------------------------------------------------------------------------------------------------------ loss


def slow_contrast(queries, keys, temperature):
    def unit(row):
        norm = math.sqrt(sum(value * value for value in row))
        return [value / norm for value in row]

    queries, keys = [unit(row) for row in queries.tolist()], [unit(row) for row in keys.tolist()]
    total = 0.0
    for i, query in enumerate(queries):
        exponents = [math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / temperature) for key in keys]
        total -= math.log(exponents[i] / sum(exponents))
    return 2 * temperature * total / len(queries)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_contrast_is_that_of_the_paper(temperature):
    queries, keys = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    found = Contrast(32, 16, temperature, 0.99).loss(queries, keys)
    assert found.item() == pytest.approx(slow_contrast(queries, keys, temperature), rel=1e-12)


def test_the_loss_is_the_sum_of_both_directions():
    task, batch = built(momentum=1.0).double(), batch_of(dtype=torch.float64)
    first, second = batch.views

    def query(view):
        return task.predictor(task.projector(task.network.forward_features(view).mean(1)))

    def key(view):
        return task.averaged_projector(task.averaged_network.forward_features(view).mean(1))

    slow = slow_contrast(query(first), key(second), 0.2) + slow_contrast(query(second), key(first), 0.2)
    assert task(batch)["loss"].item() == pytest.approx(slow, rel=1e-12)


def test_unrelated_queries_cost_twice_the_temperature_times_the_log_of_the_batch():
    contrast = Contrast(32, 16, 0.2, 0.99)
    same = torch.ones(8, 5, dtype=torch.float64)
    assert contrast.loss(same, same).item() == pytest.approx(2 * 0.2 * math.log(8))


# -------------------------------------------------------------------------------------------------- momentum


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0), (0.25, 0.99146446609)])
def test_the_momentum_rises_along_a_cosine(progress, momentum):
    task = built()
    task.before_step(progress)
    assert task.momentum == pytest.approx(momentum, abs=1e-11)


def test_the_averaged_parameters_move_before_the_keys_are_made():
    task = built(momentum=0.9)
    with torch.no_grad():
        for parameter in (*task.network.parameters(), *task.projector.parameters()):
            parameter.add_(torch.randn_like(parameter))
    before = {name: value.clone() for name, value in task.named_parameters()}
    task.before_step(0.0)
    task(batch_of())
    for part in ("network", "projector"):
        for name, current in getattr(task, part).named_parameters():
            expected = 0.9 * before[f"averaged_{part}.{name}"] + 0.1 * current
            torch.testing.assert_close(getattr(task, f"averaged_{part}").get_parameter(name), expected)


def test_no_gradient_reaches_the_keys():
    task = built()
    task(batch_of())["loss"].backward()
    for name, parameter in task.named_parameters():
        if name.startswith("averaged_"):
            assert not parameter.requires_grad and parameter.grad is None


def test_every_other_parameter_but_the_patch_projection_and_the_classifier_gets_a_gradient():
    task = built()
    task(batch_of())["loss"].backward()
    without = {name for name, p in task.named_parameters() if p.grad is None and not name.startswith("averaged_")}
    assert without == {"network.embed.weight", "network.embed.bias", "network.head.weight", "network.head.bias"}


def test_the_patch_projection_trains_where_it_is_not_frozen():
    task = built(freeze_patches=False)
    task(batch_of())["loss"].backward()
    assert task.network.embed.weight.grad.abs().sum() > 0


def test_running_statistics_of_the_average_are_its_own():
    task = built(Plain())
    with torch.no_grad():
        task.network.body[0].weight.mul_(5)
    task(batch_of())
    own, others = task.averaged_network.body[1].running_mean, task.network.body[1].running_mean
    assert own.abs().sum() > 0 and not torch.allclose(own, others)


def test_the_state_holds_every_weight_once():
    state = built().state_dict(keep_vars=True)
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


def test_the_last_normalisation_has_no_affine_part_and_no_layer_a_bias():
    layers = list(perceptron(12, 32, 32, 16))
    names = ["Linear", "JoinedBatchNorm", "ReLU", "Linear", "JoinedBatchNorm", "ReLU", "Linear", "JoinedBatchNorm"]
    assert [type(layer).__name__ for layer in layers] == names
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [32, 32, 16]
    assert all(layer.bias is None for layer in layers if isinstance(layer, nn.Linear))
    assert [layer.affine for layer in layers if isinstance(layer, nn.BatchNorm1d)] == [True, True, False]


def test_a_batch_of_one_image_is_refused():
    MoCoV3(epochs=1, batch_size=2).check()
    with pytest.raises(OODError, match="'mocov3' needs a batch_size of 2 or more"):
        MoCoV3(epochs=1, batch_size=1).check()


# ------------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize(("shape", "size"), [((8, 8), 8), ((32, 32), 32), ((40, 20), 24)])
def test_two_different_views_of_the_asked_size(shape, size):
    torch.manual_seed(0)
    first, second = MoCoV3(epochs=1).views(size, None)(torch.randint(256, (3, *shape), dtype=torch.uint8))
    assert first.shape == second.shape == (3, size, size)
    assert first.dtype == second.dtype == torch.uint8
    assert not torch.equal(first, second)


def share(test, image, **options):
    torch.manual_seed(0)
    off = {"crop_scale": 1.0, "flip": False, "color_jitter": 0.0, "blur": False, "solarize": 0.0}
    views = MoCoV3(epochs=1, **off | options).views(8, None)
    pairs = [views(image) for _ in range(200)]
    return [sum(test(view) for view in column) / 200 for column in zip(*pairs, strict=True)]


def test_only_the_second_view_is_solarized():
    white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    first, second = share(lambda view: view.max() == 0, white, solarize=0.2)
    assert first == 0 and 0.1 < second < 0.3


def test_the_first_view_is_always_blurred_and_the_second_seldom():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    image = (255 * board).to(torch.uint8).repeat(3, 1, 1)
    # a blur mixes neighbours and so narrows the range of a board; a crop alone may do so too, hence the difference
    first, second = share(lambda view: view[:, 2:6, 2:6].float().std() < 120, image, blur=True)
    without = share(lambda view: view[:, 2:6, 2:6].float().std() < 120, image)
    assert first > second + 0.2 and second < without[1] + 0.15


def test_grey_views_come_with_colour_jitter_only():
    red = torch.stack([torch.full((8, 8), value, dtype=torch.uint8) for value in (200, 30, 60)])

    def is_grey(view):
        return bool((view[0] == view[1]).all() and (view[1] == view[2]).all())

    assert share(is_grey, red) == [0, 0]
    assert all(0.1 < part < 0.3 for part in share(is_grey, red, color_jitter=0.4))


def test_some_steps_on_digits_bring_the_loss_below_chance():
    digits = (torch.tensor(load_digits().images[:128]) * 15.9).to(torch.uint8).unsqueeze(1).repeat(1, 3, 1, 1)
    pretext = MoCoV3(**SMALL, crop_scale=0.7, flip=False, color_jitter=0, blur=False, solarize=0)
    torch.manual_seed(0)
    views, task = pretext.views(8, None), pretext.build(Patches(), DATA)
    optimizer = torch.optim.AdamW((p for p in task.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for step in range(30):
        task.before_step(step / 30)
        first, second = zip(*(views(image) for image in digits), strict=True)
        batch = Batch((torch.stack(first) / 255, torch.stack(second) / 255), torch.zeros(128))
        loss = task(batch)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chance = 2 * 2 * 0.2 * math.log(128)
    assert losses[0] > chance
    assert sum(losses[-5:]) / 5 < 0.95 * chance

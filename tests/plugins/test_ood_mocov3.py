"""The loss against loops, the momentum and what it moves, two processes, the two views, and learning on real digits."""

import math
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PatchNetwork, TrainingData
from ood_core.pipeline.training.schedule import parameter_groups
from ood_mocov3.pretext import Contrast, JoinedBatchNorm, MoCoV3

from .small_training import accuracy_of_probe, digits, outputs_of_two_processes

SMALL = {"epochs": 1, "hidden": 32, "output": 16}
DATA = TrainingData(
    classes=4,
    all_classes=4,
    image_size=8,
    sample=lambda count: torch.rand(count, 3, 8, 8),
    tokenizer_weights=lambda _: {},
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

    def fix_positions(self):
        with torch.no_grad():
            self.position.copy_(torch.linspace(-1, 1, 16 * self.num_features).view(16, -1))
        self.position.requires_grad_(False)


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


def stepped(task, batch, progress, optimizer=None):
    optimizer = optimizer or torch.optim.SGD((p for p in task.parameters() if p.requires_grad), lr=0.1)
    task.before_step(progress)
    loss = task(batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


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


def test_all_that_is_not_averaged_gets_a_gradient_but_patch_projection_positions_and_classifier():
    task = built()
    task(batch_of())["loss"].backward()
    without = {name for name, p in task.named_parameters() if p.grad is None and not name.startswith("averaged_")}
    fixed = {"network.embed.weight", "network.embed.bias", "network.position"}
    assert without == fixed | {"network.head.weight", "network.head.bias"}


def test_positions_are_fixed_in_both_encoders():
    task = built()
    for network in (task.network, task.averaged_network):
        assert torch.equal(network.position.flatten(), torch.linspace(-1, 1, 192))


def test_weight_decay_acts_on_all_that_is_trained():
    pretext = MoCoV3(**SMALL, weight_decay=0.1)
    (group,) = parameter_groups(pretext.build(Patches(), DATA), pretext)
    assert group["weight_decay"] == 0.1 and any(parameter.ndim == 1 for parameter in group["params"])


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


def layers_of(perceptron):
    """Return what the layers are: their widths, and whether they have parameters of their own besides weights."""
    return [
        ("linear", layer.in_features, layer.out_features, layer.bias is not None)
        if isinstance(layer, nn.Linear)
        else ("norm", layer.num_features, layer.affine)
        if isinstance(layer, JoinedBatchNorm)
        else ("relu",)
        for layer in perceptron
    ]


def test_projector_and_predictor_of_a_transformer_are_those_of_the_paper():
    task, first = built(), [("linear", 12, 32, False), ("norm", 32, True), ("relu",)]
    middle, last = [("linear", 32, 32, False), *first[1:]], [("linear", 32, 16, False), ("norm", 16, False)]
    assert layers_of(task.projector) == layers_of(task.averaged_projector) == first + middle + last
    assert layers_of(task.predictor) == [("linear", 16, 32, False), *first[1:], *last]


def test_a_network_without_patches_gets_a_shorter_projector_and_a_predictor_that_ends_in_a_linear_layer():
    task, hidden = built(Plain()), [("norm", 32, True), ("relu",)]
    last = ("linear", 32, 16, False)
    assert layers_of(task.projector) == [("linear", 6, 32, False), *hidden, last, ("norm", 16, False)]
    assert layers_of(task.predictor) == [("linear", 16, 32, False), *hidden, last]


def test_a_task_that_takes_up_the_state_of_another_goes_on_alike():
    one, other = built(), MoCoV3(**SMALL).build(Patches(), DATA)
    results = []
    for step in range(3):
        stepped(one, batch_of(), step / 4)
    other.load_state_dict(deepcopy(one.state_dict()))
    for task in (one, other):
        stepped(task, batch_of(), 0.75)
        results.append(task(batch_of())["loss"])
    assert torch.equal(*results)


def test_autocast_rounds_no_similarities():
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 7, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Contrast(32, 16, 0.05, 0.99).loss(queries, keys)
    assert found.item() == pytest.approx(slow_contrast(queries, keys, 0.05), rel=1e-5)


@pytest.mark.parametrize(("accumulation", "least"), [(1, 2), (3, 6)])
def test_comparing_a_single_image_is_refused(accumulation, least):
    MoCoV3(epochs=1, batch_size=least, accumulation=accumulation).check()
    message = f"pretext 'mocov3' needs a batch_size of {least} or more: it compares the images of a batch, or of each"
    with pytest.raises(OODError, match=message):
        MoCoV3(epochs=1, batch_size=least - 1, accumulation=accumulation).check()


# -------------------------------------------------------------------------------------------------- processes


def step_of(begin, end):
    """Return the loss, the gradients and the state after a step with a part of a batch; and a normalisation alone."""
    task = built().double()
    first, second = batch_of(12, torch.float64).views
    task.before_step(0.1)
    loss = task(Batch((first[begin:end], second[begin:end]), torch.zeros(end - begin)))["loss"]
    loss.backward()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    torch.manual_seed(2)
    norm, rows = JoinedBatchNorm(3).double(), torch.randn(12, 3, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    part = rows[begin:end].requires_grad_()
    normal = norm(part)
    normal.pow(3).sum().backward()
    alone = {"output": normal.detach(), "gradient": part.grad}
    return {"loss": loss.detach(), "gradients": gradients, "state": task.state_dict(), "alone": alone}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """What two processes find with half of the batch each."""
    return outputs_of_two_processes(__name__, tmp_path_factory.mktemp("processes"))


def exactly(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_two_processes_with_half_of_the_batch_find_the_loss_of_one(halves):
    exactly((halves[0]["loss"] + halves[1]["loss"]) / 2, step_of(0, 12)["loss"])


def test_the_mean_gradient_of_two_processes_is_that_of_one(halves):
    expected = step_of(0, 12)["gradients"]
    assert halves[0]["gradients"].keys() == halves[1]["gradients"].keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        exactly((halves[0]["gradients"][name] + halves[1]["gradients"][name]) / 2, gradient)


def test_both_processes_keep_the_running_statistics_of_the_whole_batch(halves):
    expected = step_of(0, 12)["state"]
    for half in halves:
        exactly(half["state"], expected)


def test_normalisation_in_two_processes_is_that_of_the_joined_batch_with_its_gradients(halves):
    expected = step_of(0, 12)["alone"]
    exactly({name: torch.cat([half["alone"][name] for half in halves]) for name in expected}, expected)


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


# ------------------------------------------------------------------------------------------------------ digits


def trained(network, images, steps, **options):
    """Return the losses of a short training on 128 images a step."""
    pretext = MoCoV3(**SMALL | options, crop_scale=0.5, flip=False, color_jitter=0, blur=False, solarize=0)
    views, task = pretext.views(8, network.grid), pretext.build(network, DATA)
    optimizer = torch.optim.AdamW((p for p in task.parameters() if p.requires_grad), lr=5e-3)
    losses = []
    for step in range(steps):
        rows = torch.randperm(len(images))[:128].tolist()
        first, second = zip(*(views(images[row]) for row in rows), strict=True)
        batch = Batch((torch.stack(first) / 255, torch.stack(second) / 255), torch.zeros(128))
        losses.append(stepped(task, batch, step / steps, optimizer))
    return losses


@pytest.mark.slow
def test_training_brings_the_loss_below_chance_and_a_linear_probe_tells_digits_better_apart():
    images, labels = digits()
    torch.manual_seed(0)
    network = Patches(32)
    network.fix_positions()
    before = accuracy_of_probe(network, images, labels)
    losses = trained(network, images[: len(images) // 2], 150, hidden=128, output=32)
    chance = 2 * 2 * 0.2 * math.log(128)
    assert losses[0] > chance
    assert sum(losses[-5:]) / 5 < 0.95 * chance, losses
    after = accuracy_of_probe(network, images, labels)
    assert after > before + 0.05, (before, after)


if __name__ == "__main__":  # one of two processes
    target, place = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{target}/meeting", rank=place, world_size=2)
    torch.save(step_of(6 * place, 6 * place + 6), target / f"{place}.pt")
    distributed.destroy_process_group()

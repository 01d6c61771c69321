"""The loss against loops, which turn is which, the view, and learning on real digits."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ood_core.interfaces import Batch, Network, TrainingData
from ood_rotation.pretext import Rotation
from ood_timm.backbone import Timm

from .small_training import accuracy_of_probe, digits

DATA = TrainingData(
    classes=1,
    all_classes=1,
    image_size=8,
    sample=lambda count: torch.rand(count, 3, 8, 8),
    tokenizer_weights=lambda _: {},
)


class Narrow(Network):
    """Convolutions down to one place."""

    def __init__(self, width=16):
        super().__init__()
        self.num_features = width
        widths = pairwise((3, width, width, width))
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GELU()) for a, b in widths))
        self.head = nn.Linear(width, 2)
        self.seen = []

    def forward_features(self, images):
        self.seen.append(images)
        return self.body(images)

    def forward_head(self, features, pre_logits=False):
        embeddings = features.flatten(1)
        return embeddings if pre_logits else self.head(embeddings)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes):
        raise AssertionError("rotation has a head of its own")


def built(network=None, **options):
    torch.manual_seed(0)
    return Rotation(epochs=1, **options).build(network or Narrow(), DATA)


def batch_of(images):
    return Batch((images,), torch.zeros(len(images), dtype=torch.int64))


def by_hand(image, turns):
    """Return an image [3, S, S] turned to the left, pixel by pixel."""
    last = image.shape[1] - 1
    for _ in range(turns):
        turned = torch.empty_like(image)
        for row in range(last + 1):
            for column in range(last + 1):
                turned[:, last - column, row] = image[:, row, column]
        image = turned
    return image


def slow_loss(task, images):
    """The mean over images and turns of -log of the turn's probability, and how often that is the largest."""
    total, right = 0.0, 0
    for image in images:
        for turns in range(4):
            embedding = task.network.forward_head(task.network.forward_features(by_hand(image, turns)[None]), True)
            logits = task.head(embedding)[0].tolist()
            total += math.log(sum(math.exp(logit) for logit in logits)) - logits[turns]
            right += logits[turns] == max(logits)
    return total / (4 * len(images)), right / (4 * len(images))


def test_loss_and_accuracy_are_those_over_all_turns_of_all_images():
    task = built().double()
    nn.init.normal_(task.head.weight)
    images = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    found = task(batch_of(images))
    loss, accuracy = slow_loss(task, images)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-12)
    assert found["accuracy"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_a_turn_is_a_quarter_to_the_left_as_pillow_turns():
    pixels = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    task = built()
    task(batch_of(pixels[None].float()))
    for turned, degrees in zip(task.network.seen[0], (0, 90, 180, 270), strict=True):
        expected = np.array(Image.fromarray(pixels.permute(1, 2, 0).numpy()).rotate(degrees))
        assert np.array_equal(turned.permute(1, 2, 0).numpy(), expected)


def test_an_untrained_guess_costs_the_log_of_four():
    task = built()
    nn.init.zeros_(task.head.weight)
    nn.init.zeros_(task.head.bias)
    assert task(batch_of(torch.rand(3, 3, 8, 8)))["loss"].item() == pytest.approx(math.log(4))


def test_all_but_the_classifier_gets_a_gradient():
    task = built()
    task(batch_of(torch.rand(3, 3, 8, 8)))["loss"].backward()
    without = {name for name, parameter in task.named_parameters() if parameter.grad is None}
    assert without == {"network.head.weight", "network.head.bias"}


def test_the_picture_shows_the_four_turns_below_each_other():
    image = torch.zeros(1, 3, 8, 8)
    image[..., :4, :] = 1  # bright above, then left, below, right
    picture = built().pictures(batch_of(image))["turns"]
    means = [quarter[0].mean(0 if side else 1) for quarter, side in zip(picture.chunk(4, 1), (0, 1) * 2, strict=True)]
    first_half_brighter = [bool(mean.chunk(2)[0].mean() > mean.chunk(2)[1].mean()) for mean in means]
    assert first_half_brighter == [True, True, False, False]


# ------------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize(("shape", "size"), [((8, 8), 8), ((40, 20), 24)])
def test_one_view_of_the_asked_size_drawn_anew_each_time(shape, size):
    torch.manual_seed(0)
    image = torch.randint(256, (3, *shape), dtype=torch.uint8)
    (first,), (second,) = (Rotation(epochs=1, color_jitter=0.4).views(size, None)(image) for _ in range(2))
    assert first.shape == second.shape == (3, size, size)
    assert first.dtype == torch.uint8
    assert not torch.equal(first, second)


def test_views_are_flipped_half_of_the_time_or_never():
    torch.manual_seed(0)
    image = torch.arange(8, dtype=torch.uint8).repeat(3, 8, 1)
    for flip, least, most in ((True, 0.4, 0.6), (False, 0, 0)):
        views = Rotation(epochs=1, crop_scale=1.0, flip=flip).views(8, None)
        shown = [views(image)[0] for _ in range(300)]
        assert all(torch.equal(view, image) or torch.equal(view, image.flip(2)) for view in shown)
        assert least <= sum(bool(view[0, 0, 0]) for view in shown) / 300 <= most


def test_colours_change_only_where_it_is_asked_for():
    torch.manual_seed(0)
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    assert torch.equal(Rotation(epochs=1, crop_scale=1.0).views(8, None)(image)[0], image)
    assert not torch.equal(Rotation(epochs=1, crop_scale=1.0, color_jitter=0.4).views(8, None)(image)[0], image)


# ------------------------------------------------------------------------------------------------------ digits


def trained(network, images, steps, rate=5e-3):
    """Return what each step of a short training found on 64 images."""
    pretext = Rotation(epochs=1, flip=False)
    views, task = pretext.views(8, None), pretext.build(network, DATA)
    optimizer = torch.optim.AdamW(task.parameters(), lr=rate)
    found = []
    for _ in range(steps):
        rows = torch.randperm(len(images))[:64].tolist()
        metrics = task(batch_of(torch.stack([views(images[row])[0] for row in rows]) / 255))
        found.append({name: value.item() for name, value in metrics.items()})
        optimizer.zero_grad()
        metrics["loss"].backward()
        optimizer.step()
    return found


@pytest.mark.slow
def test_training_lowers_the_loss_and_a_linear_probe_tells_digits_better_apart():
    images, labels = digits()
    torch.manual_seed(0)
    options = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 4}
    network = Timm(model="vit_tiny_patch16_224", options=options).build(8, 10)
    before = accuracy_of_probe(network, images, labels)
    found = trained(network, images[: len(images) // 2], 200, rate=2e-3)
    first, last = (
        {name: np.mean([step[name] for step in part]) for name in found[0]} for part in (found[:5], found[-5:])
    )
    assert last["loss"] < 0.6 * first["loss"], found
    assert last["accuracy"] > first["accuracy"] + 0.3, found
    after = accuracy_of_probe(network, images, labels)
    assert after > before + 0.1, (before, after)

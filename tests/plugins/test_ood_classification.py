"""Label smoothing against the formula, the augmentation by what it may do to pixels, and learning on real digits."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from ood_classification.pretext import Classification
from ood_core.interfaces import Batch, Network, TrainingData


class Linear(Network):
    """Pixels are the embeddings."""

    def __init__(self, size=8, classes=1):
        super().__init__()
        self.num_features = 3 * size * size
        self.reset_classifier(classes)

    def forward_features(self, images):
        return images.flatten(1)

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.head(features)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes):
        self.head = nn.Linear(self.num_features, num_classes)


def data_of(classes, size=8):
    return TrainingData(classes, size, lambda count: torch.rand(count, 3, size, size))


def slow_loss(logits, labels, smoothing):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        for j, z in enumerate(row):
            target = (1 - smoothing) * (j == label) + smoothing / len(row)
            total -= target * (z - log_sum)
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_the_cross_entropy_with_smoothed_targets(smoothing):
    torch.manual_seed(0)
    task = Classification(epochs=1, label_smoothing=smoothing).build(Linear(), data_of(6)).double()
    images, labels = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 5, 2, 2, 1])
    found = task(Batch((images,), labels))
    logits = task.network(images)
    assert found["loss"].item() == pytest.approx(slow_loss(logits, labels, smoothing), rel=1e-12)
    assert found["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_floor_of_the_loss_is_the_entropy_of_the_smoothed_label():
    task = Classification(epochs=1).build(Linear(), data_of(30)).double()
    targets = torch.full((30,), 0.1 / 30, dtype=torch.float64)
    targets[4] += 0.9
    with torch.no_grad():
        task.network.head.weight.zero_()
        task.network.head.bias.copy_(targets.log())
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    loss = task(Batch((images,), torch.tensor([4, 4])))["loss"]
    assert loss.item() == pytest.approx(0.643, abs=5e-4)
    loss.backward()
    assert task.network.head.bias.grad.abs().max() < 1e-15


def test_the_classifier_is_made_fresh_with_an_output_for_every_class():
    network = Linear(classes=3)
    before = network.head.weight
    Classification(epochs=1).build(network, data_of(3))
    assert network.head.weight is not before and len(network.head.weight) == 3


# ---------------------------------------------------------------------------------------------- augmentation

IMAGE = torch.arange(1, 65, dtype=torch.uint8).view(1, 8, 8).repeat(3, 1, 1)


def views_of(image=IMAGE, size=8, count=200, **options):
    torch.manual_seed(0)
    views = Classification(epochs=1, **options).views(size)
    return [view for _ in range(count) for view in views(image)]


def test_with_everything_off_the_view_is_the_image():
    assert all(torch.equal(view, IMAGE) for view in views_of(crop_scale=1.0, flip=False))


def test_padding_shifts_by_at_most_so_many_pixels_and_never_mirrors():
    shifts = {
        (top, left): nn.functional.pad(IMAGE, [1] * 4)[:, top : top + 8, left : left + 8]
        for top in range(3)
        for left in range(3)
    }
    seen = [
        next(shift for shift, expected in shifts.items() if torch.equal(view, expected))
        for view in views_of(crop_scale=1.0, crop_padding=1, flip=False)
    ]
    assert set(seen) == set(shifts)


def test_flip_mirrors_about_half_of_the_images():
    mirrored = [torch.equal(view, IMAGE.flip(-1)) for view in views_of(crop_scale=1.0)]
    assert 60 < sum(mirrored) < 140


@pytest.mark.parametrize("shape", [(8, 8), (20, 12), (5, 40)])
@pytest.mark.parametrize("scale", [0.08, 1.0])
def test_views_of_any_image_are_square_and_of_the_asked_size(shape, scale):
    image = torch.randint(256, (3, *shape), dtype=torch.uint8)
    for view in views_of(image, 16, 5, crop_scale=scale, crop_padding=2):
        assert view.shape == (3, 16, 16) and view.dtype == torch.uint8


def test_the_crop_keeps_at_least_the_asked_share_of_the_area():
    slope = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(3, 64, 64)
    ranges = [int(view.max()) - int(view.min()) for view in views_of(slope, 64, 100, crop_scale=0.64, flip=False)]
    assert min(ranges) > 0.6 * 255  # a side is at least the root of 0.64 * 3 / 4
    assert min(ranges) < 0.9 * 255


def test_equal_seeds_give_equal_views():
    first, second = views_of(count=5), views_of(count=5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_some_steps_on_digits_lower_the_loss_and_raise_the_accuracy():
    digits = load_digits()
    images = torch.tensor(digits.images[:500] / 16, dtype=torch.float32).unsqueeze(1).repeat(1, 3, 1, 1)
    batch = Batch((images,), torch.tensor(digits.target[:500]))
    torch.manual_seed(0)
    task = Classification(epochs=1).build(Linear(), data_of(10))
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.01)
    found = []
    for _ in range(30):
        found.append(task(batch))
        optimizer.zero_grad()
        found[-1]["loss"].backward()
        optimizer.step()
    assert found[-1]["loss"] < 0.6 * found[0]["loss"]
    assert found[-1]["accuracy"] > 0.9

"""Both losses against loops, two processes, the views, and learning on real digits."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, TrainingData
from ood_supcon.pretext import SimCLR, SupervisedContrast

from .small_training import accuracy_of_probe, digits, outputs_of_two_processes

BOTH = pytest.mark.parametrize("pretext", [SupervisedContrast, SimCLR])
DATA = TrainingData(
    classes=3,
    all_classes=3,
    image_size=8,
    sample=lambda count: torch.rand(count, 3, 8, 8),
    tokenizer_weights=lambda _: {},
)


class Narrow(Network):
    """Two convolutions; the embedding is the mean over places."""

    def __init__(self, width=16):
        super().__init__()
        self.num_features = width
        widths = pairwise((3, width, width))
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GELU()) for a, b in widths))
        self.head = nn.Linear(width, 3)

    def forward_features(self, images):
        return self.body(images)

    def forward_head(self, features, pre_logits=False):
        embeddings = features.mean((2, 3))
        return embeddings if pre_logits else self.head(embeddings)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes):
        raise AssertionError("contrast needs no classifier")


def built(pretext, **options):
    torch.manual_seed(0)
    return pretext(epochs=1, output=5, **options).build(Narrow(), DATA).double()


def batch_of(count=8):
    torch.manual_seed(1)
    views = torch.rand(2, count, 3, 8, 8, dtype=torch.float64)
    return Batch(tuple(views), torch.tensor([0, 2, 1, 1, 0, 1, 1, 0, 2, 2])[:count])


# ----------------------------------------------------------------------------------------------------- losses


def anchors_of(task, batch):
    """Return the projections of both views, one after the other, of unit length and as lists."""
    rows = []
    for view in batch.views:
        rows += task.projector(task.network.forward_head(task.network.forward_features(view), True)).tolist()
    return [[value / math.sqrt(sum(other * other for other in row)) for value in row] for row in rows]


def similarity(one, other, temperature):
    return math.exp(sum(a * b for a, b in zip(one, other, strict=True)) / temperature)


def slow_supcon(anchors, labels, temperature):
    """The sum over anchors of eq. 2 of Khosla et al., divided by their number."""
    total = 0.0
    for i, anchor in enumerate(anchors):
        others = [a for a in range(len(anchors)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        for p in positives:
            denominator = sum(similarity(anchor, anchors[a], temperature) for a in others)
            total -= math.log(similarity(anchor, anchors[p], temperature) / denominator) / len(positives)
    return total / len(anchors)


def slow_ntxent(first, second, temperature):
    """Algorithm 1 of Chen et al., with the views of image k in rows 2 k and 2 k + 1."""
    rows = [row for pair in zip(first, second, strict=True) for row in pair]

    def loss(i, j):
        others = sum(similarity(rows[i], rows[k], temperature) for k in range(len(rows)) if k != i)
        return -math.log(similarity(rows[i], rows[j], temperature) / others)

    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(len(first))) / len(rows)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("count", [3, 8])
def test_the_loss_with_classes_is_that_of_the_paper(count, temperature):
    task, batch = built(SupervisedContrast, temperature=temperature), batch_of(count)
    slow = slow_supcon(anchors_of(task, batch), batch.labels.tolist() * 2, temperature)
    assert task(batch)["loss"].item() == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_loss_without_classes_is_that_of_simclr(temperature):
    task, batch = built(SimCLR, temperature=temperature), batch_of()
    anchors = anchors_of(task, batch)
    assert task(batch)["loss"].item() == pytest.approx(slow_ntxent(anchors[:8], anchors[8:], temperature), rel=1e-12)


def test_simclr_does_not_look_at_classes():
    task, batch = built(SimCLR), batch_of()
    assert torch.equal(task(batch)["loss"], task(batch._replace(labels=torch.zeros(8, dtype=torch.int64)))["loss"])


def test_classes_apart_from_each_other_and_each_in_one_place_cost_least():
    class Placed(nn.Module):
        def forward(self, embeddings):
            return torch.eye(3, dtype=embeddings.dtype)[batch.labels.repeat(2)]

    task, batch = built(SupervisedContrast), batch_of(6)
    task.projector = Placed()
    sizes = [4, 2, 6]  # of both views, by class
    expected = sum(s * math.log((s - 1) * math.exp(2) + 12 - s) - 2 * s for s in sizes) / 12
    assert task(batch)["loss"].item() == pytest.approx(expected)


@BOTH
def test_all_but_the_classifier_gets_a_gradient(pretext):
    task = built(pretext)
    task(batch_of())["loss"].backward()
    without = {name for name, parameter in task.named_parameters() if parameter.grad is None}
    assert without == {"network.head.weight", "network.head.bias"}
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.parameters() if parameter.grad is not None)


@BOTH
def test_autocast_rounds_projections_but_no_similarities(pretext):
    task, batch = built(pretext, temperature=0.05).float(), batch_of()
    batch = batch._replace(views=tuple(view.float() for view in batch.views))
    exact = task(batch)["loss"]
    task.projector = nn.Sequential(task.projector)
    task.projector.register_forward_hook(lambda module, inputs, output: projected.append(output))
    projected = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = task(batch)["loss"]
    assert projected[0].dtype == torch.bfloat16
    labels = (batch.labels if pretext is SupervisedContrast else torch.arange(8)).repeat(2)
    rows = nn.functional.normalize(projected[0].double(), dim=1).tolist()
    assert found.item() == pytest.approx(slow_supcon(rows, labels.tolist(), 0.05), rel=1e-5)
    assert found.item() == pytest.approx(exact.item(), rel=0.1)


@BOTH
@pytest.mark.parametrize(("accumulation", "least"), [(1, 2), (3, 6)])
def test_comparing_a_single_image_is_refused(pretext, accumulation, least):
    pretext(epochs=1, batch_size=least, accumulation=accumulation).check()
    message = f"pretext '{pretext.name}' needs a batch_size of {least} or more: it compares the images of a batch, or"
    with pytest.raises(OODError, match=message):
        pretext(epochs=1, batch_size=least - 1, accumulation=accumulation).check()


def test_contrast_of_classes_needs_two_of_them():
    assert (SupervisedContrast.least_classes, SimCLR.least_classes) == (2, 1)


# -------------------------------------------------------------------------------------------------- processes


def step_of(pretext, begin, end):
    """Return the loss and the gradients of a part of a batch."""
    task, batch = built(pretext), batch_of(10)
    loss = task(Batch(tuple(view[begin:end] for view in batch.views), batch.labels[begin:end]))["loss"]
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """What two processes find with half of the batch each, by pretext."""
    return outputs_of_two_processes(__name__, tmp_path_factory.mktemp("processes"))


@BOTH
def test_loss_and_gradients_of_two_processes_are_on_average_those_of_one(halves, pretext):
    expected, (first, second) = step_of(pretext, 0, 10), (half[pretext.name] for half in halves)
    assert first.keys() == second.keys() == expected.keys()
    mean = {name: (first[name] + second[name]) / 2 for name in expected}
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ views


@BOTH
@pytest.mark.parametrize(("shape", "size"), [((8, 8), 8), ((40, 20), 24)])
def test_two_different_views_of_the_asked_size(pretext, shape, size):
    torch.manual_seed(0)
    views = pretext(epochs=1).views(size, None)(torch.randint(256, (3, *shape), dtype=torch.uint8))
    assert [view.shape for view in views] == [(3, size, size)] * 2
    assert all(view.dtype == torch.uint8 for view in views)
    assert not torch.equal(*views)


@BOTH
def test_both_views_are_flipped_and_coloured_as_often(pretext):
    torch.manual_seed(0)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[0, :, :4] = 200
    views = pretext(epochs=1, crop_scale=1.0, color_jitter=0).views(8, None)
    flipped = [[bool(view[0, 0, 7]) for view in views(image)] for _ in range(300)]
    assert all(0.4 < sum(column) / 300 < 0.6 for column in zip(*flipped, strict=True))
    views = pretext(epochs=1, crop_scale=1.0, flip=False).views(8, None)
    grey = [[bool((view[0] == view[2]).all()) for view in views(image)] for _ in range(300)]
    assert all(0.13 < sum(column) / 300 < 0.27 for column in zip(*grey, strict=True))


@BOTH
def test_without_changes_a_view_is_the_image(pretext):
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    views = pretext(epochs=1, crop_scale=1.0, flip=False, color_jitter=0).views(8, None)(image)
    assert all(torch.equal(view, image) for view in views)


@BOTH
def test_the_picture_shows_the_second_views_below_the_first(pretext):
    batch = Batch((torch.zeros(3, 3, 8, 8), torch.full((3, 3, 8, 8), 0.5)), torch.zeros(3, dtype=torch.int64))
    (picture,) = built(pretext).pictures(batch).values()
    rows = picture.shape[1] // 2
    assert picture[:, :rows].min() == 0 and not (picture[:, :rows] == 0.5).any()
    assert picture[:, rows:].min() == 0.5


# ------------------------------------------------------------------------------------------------------ digits


def trained(pretext, network, images, labels, steps):
    """Return the losses of a short training on 96 images a step."""
    options = pretext(epochs=1, temperature=0.1, crop_scale=0.5, flip=False, color_jitter=0)
    views, task = options.views(8, None), options.build(network, DATA)
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        rows = torch.randperm(len(images))[:96]
        first, second = zip(*(views(images[row]) for row in rows), strict=True)
        loss = task(Batch((torch.stack(first) / 255, torch.stack(second) / 255), labels[rows]))["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.slow
@BOTH
def test_training_lowers_the_loss_and_a_linear_probe_tells_digits_better_apart(pretext):
    images, labels = digits()
    torch.manual_seed(0)
    network, half = Narrow(32), len(images) // 2
    before = accuracy_of_probe(network, images, labels)
    losses = trained(pretext, network, images[:half], labels[:half], 100)
    assert sum(losses[-5:]) / 5 < 0.85 * losses[0], losses
    after = accuracy_of_probe(network, images, labels)
    assert after > before + 0.03, (before, after)


if __name__ == "__main__":  # one of two processes
    target, place = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{target}/meeting", rank=place, world_size=2)
    found = {cls.name: step_of(cls, 5 * place, 5 * place + 5) for cls in (SupervisedContrast, SimCLR)}
    torch.save(found, target / f"{place}.pt")
    distributed.destroy_process_group()

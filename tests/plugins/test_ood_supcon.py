"""The contrastive losses against loops from the papers, their views, and learning on real digits."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from ood_core.errors import OODError
from ood_supcon.pretext import SimCLR, SupervisedContrast
from ood_supcon.task import ContrastTask, contrast

from .small_training import build_network, embeddings_tell_digits_better, losses_of, training_data
from .test_ood_contrast_in_processes import Flat, batch


def slow_contrast(anchors, labels, temperature):
    """Khosla et al. (2020), eq. 2: over each anchor i, its positives p and all others a."""
    losses = []
    for i in range(len(anchors)):
        others = [a for a in range(len(anchors)) if a != i]
        whole = sum(math.exp(anchors[i] @ anchors[a] / temperature) for a in others)
        positives = [p for p in others if labels[p] == labels[i]]
        terms = [math.log(math.exp(anchors[i] @ anchors[p] / temperature) / whole) for p in positives]
        losses.append(-sum(terms) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_loss_is_that_of_the_paper(temperature):
    generator = torch.Generator().manual_seed(0)
    anchors = normalize(torch.randn(10, 4, dtype=torch.float64, generator=generator), dim=1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 1, 0, 2])
    found = contrast(anchors, labels, temperature).item()
    assert found == pytest.approx(slow_contrast(anchors, labels, temperature), rel=1e-10)


def test_without_labels_only_the_other_view_is_alike():
    torch.manual_seed(0)
    task = ContrastTask(Flat(), output=4, temperature=0.5, by_label=False)
    rows = batch(slice(None))
    anchors = normalize(task.projector(task.network.forward_features(torch.cat(rows.views))), dim=1).detach()
    expected = slow_contrast(anchors.double(), list(range(12)) * 2, 0.5)
    assert task(rows)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_labels_decide_what_is_alike():
    torch.manual_seed(0)
    task = ContrastTask(Flat(), output=4, temperature=0.5, by_label=True)
    rows = batch(slice(None))
    anchors = normalize(task.projector(task.network.forward_features(torch.cat(rows.views))), dim=1).detach()
    expected = slow_contrast(anchors.double(), rows.labels.tolist() * 2, 0.5)
    assert task(rows)["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pretext", [SupervisedContrast, SimCLR])
def test_two_different_views_are_made(pretext):
    image = torch.randint(256, (3, 20, 24), dtype=torch.uint8)
    first, second = pretext(epochs=1).views(16, None)(image)
    assert first.shape == second.shape == (3, 16, 16)
    assert not torch.equal(first, second)


def test_a_batch_of_one_is_refused():
    with pytest.raises(OODError, match="pretext 'simclr' needs a batch_size of 2 or more"):
        SimCLR(epochs=1, batch_size=1).check()


@pytest.mark.slow
@pytest.mark.parametrize("pretext", [SupervisedContrast, SimCLR])
def test_the_loss_falls_and_embeddings_tell_digits_better_than_random_ones(pretext):
    task = pretext(epochs=1, temperature=0.2, crop_scale=0.6, flip=False, color_jitter=0.0)
    network = build_network()
    losses = losses_of(task.build(network, training_data()), task.views(8, network.grid))
    assert sum(losses[-5:]) < sum(losses[:5])
    assert embeddings_tell_digits_better(network)

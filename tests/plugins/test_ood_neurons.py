"""Neuron activation coverage against a plain version with the gradient by autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ood_core.testing import make_outputs
from ood_neurons.scorer import NAC, bin_edges

TRAIN, TEST = make_outputs(), make_outputs(rows=25, seed=1)


def states(outputs, steepness):
    """Return sigmoid(a f dKL(u || p) / df), the derivative by autograd, one image at a time."""
    rows = []
    for row in outputs.embeddings.double():
        f = row.clone().requires_grad_()
        log_p = (outputs.head.weight.double() @ f + outputs.head.bias.double()).log_softmax(0)
        divergence = -log_p.mean()  # and a constant
        (slope,) = torch.autograd.grad(divergence, f)
        rows.append(torch.sigmoid(steepness * row * slope))
    return torch.stack(rows).numpy()


def test_coverage_is_that_of_a_plain_count():
    known, asked = states(TRAIN, 100.0), states(TEST, 100.0)
    edges = np.concatenate([[0], bin_edges(50).numpy(), [1]])
    expected = np.zeros(len(asked))
    for neuron in range(known.shape[1]):
        counts, _ = np.histogram(known[:, neuron], edges)
        where = np.clip(np.searchsorted(edges, asked[:, neuron], side="right") - 1, 0, 49)
        expected -= np.minimum(counts[where] / 50, 1) / known.shape[1]
    np.testing.assert_allclose(NAC().fit(exact(TRAIN))(exact(TEST)).numpy(), expected, rtol=1e-12)


def exact(outputs):
    """Return the outputs with logits in float64, where a state falls to the same side of an edge as above."""
    head = outputs.head
    return replace(outputs, logits=outputs.embeddings.double() @ head.weight.double().T + head.bias.double())


def test_states_are_counted_over_several_chunks_of_the_training_set():
    many = TRAIN[torch.arange(20 * len(TRAIN)) % len(TRAIN)]
    once, often = NAC(filled=50).fit(TRAIN), NAC(filled=1000).fit(many)
    assert torch.equal(once(TEST), often(TEST))


def test_edges_are_those_of_the_published_code():
    # M = 52 points of it are the 51 edges of 50 bins, and one more beyond 1
    points = np.log(np.linspace(1, np.sqrt(1000), 26)) / np.log(1000)
    published = np.concatenate([points[:-1], (1 - points)[::-1]])
    np.testing.assert_allclose(bin_edges(50).numpy(), published[1:-1], rtol=1e-12)


def test_a_state_on_an_edge_belongs_to_the_bin_above():
    silent = replace(TRAIN, embeddings=torch.zeros_like(TRAIN.embeddings))  # all states are 1/2
    assert (NAC().fit(silent).coverage[:, 25] == 1).all()


@pytest.mark.parametrize("bins", [1, 2, 7])
def test_any_number_of_bins_will_do(bins):
    score = NAC(bins=bins, filled=1).fit(TRAIN)
    assert score.coverage.shape == (16, bins)
    assert score(TEST).isfinite().all()


def test_edges_are_narrow_around_a_half_and_mirrored():
    edges = bin_edges(50).numpy()
    assert (np.diff(edges) > 0).all()
    assert np.diff(edges).argmin() in (24, 23, 0, 48) and edges[24] == pytest.approx(0.5)
    np.testing.assert_allclose(edges + edges[::-1], 1)


def test_more_images_in_a_bin_than_fill_it_count_no_more():
    few, many = NAC(filled=1).fit(TRAIN)(TEST), NAC(filled=10_000).fit(TRAIN)(TEST)
    assert few.min() >= -1
    assert (few <= many).all()

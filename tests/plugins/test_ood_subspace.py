"""ViM, residual and pNML against plain formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from ood_core.errors import OODError
from ood_core.testing import make_outputs
from ood_subspace.pnml import PNML
from ood_subspace.scorers import Residual, ViM, _directions

TRAIN, TEST = make_outputs(), make_outputs(rows=40, seed=1)
KNOWN, F = TRAIN.embeddings.double().numpy(), TEST.embeddings.double().numpy()
W, B = TRAIN.head.weight.double().numpy(), TRAIN.head.bias.double().numpy()


def residuals(rows, directions):
    """Return the norms outside of the principal subspace, with eigenvectors of the covariance around the origin."""
    origin = -np.linalg.pinv(W) @ B
    values, vectors = np.linalg.eigh(sum(np.outer(row - origin, row - origin) for row in KNOWN) / len(KNOWN))
    rest = vectors[:, np.argsort(-values)[directions:]]
    return np.array([np.linalg.norm(rest.T @ (row - origin)) for row in rows])


@pytest.mark.parametrize("directions", [None, 3])
def test_the_residual_is_that_of_the_paper(directions):
    found = Residual(directions=directions).fit(TRAIN)(TEST)
    np.testing.assert_allclose(found.numpy(), residuals(F, directions or KNOWN.shape[1] // 2), rtol=1e-9)


def test_vim_weighs_the_residual_against_the_logits():
    alpha = TRAIN.logits.double().numpy().max(1).mean() / residuals(KNOWN, 8).mean()
    expected = alpha * residuals(F, 8) - logsumexp(TEST.logits.double().numpy(), axis=1)
    np.testing.assert_allclose(ViM().fit(TRAIN)(TEST).numpy(), expected, rtol=1e-8)


def test_vim_orders_like_the_probability_of_the_further_logit():
    found = ViM().fit(TRAIN)(TEST).numpy()
    alpha = TRAIN.logits.double().numpy().max(1).mean() / residuals(KNOWN, 8).mean()
    logits = np.concatenate([TEST.logits.double().numpy(), alpha * residuals(F, 8)[:, None]], 1)
    assert (np.argsort(softmax(logits, 1)[:, -1]) == np.argsort(found)).all()


@pytest.mark.parametrize(("width", "directions"), [(64, 32), (767, 383), (768, 512), (1500, 512), (2048, 1000)])
def test_the_dimension_is_the_papers_rule(width, directions):
    assert _directions(width) == directions


@pytest.mark.parametrize("scorer", [Residual(directions=16), ViM(directions=99)])
def test_a_subspace_that_leaves_nothing_is_refused(scorer):
    with pytest.raises(OODError, match=f"'{scorer.name}' needs fewer directions than embeddings have, 16, not"):
        scorer.fit(TRAIN)


@pytest.mark.parametrize("cls", [Residual, ViM, PNML])
def test_they_need_a_head(cls):
    with pytest.raises(OODError, match=f"scorer '{cls.name}' needs logits"):
        cls().fit(replace(TRAIN, head=None))


def test_vim_of_embeddings_without_a_residual_is_finite_and_says_so(caplog):
    head = replace(TRAIN.head, bias=torch.zeros(5))  # the origin is 0
    flat = replace(TRAIN, embeddings=TRAIN.embeddings[:, :8].repeat(1, 2), head=head)
    assert ViM().fit(flat)(TEST).isfinite().all()
    assert any("principal directions" in message for message in caplog.messages)


def test_the_regret_is_that_of_the_papers_formula():
    rows = np.concatenate([np.ones((len(KNOWN), 1)), KNOWN / np.linalg.norm(KNOWN, axis=1, keepdims=True)], 1)
    inverse = np.linalg.pinv(rows.T @ rows)
    expected = []
    for row in F:
        unit = row / np.linalg.norm(row)
        x = np.concatenate([[1], unit])
        change = x @ inverse @ x / (1 + x @ inverse @ x)
        p = softmax(W @ unit + B)
        expected.append(np.log(sum(q / (q + (1 - q) * q**change) for q in p)) / np.log(len(p)))
    np.testing.assert_allclose(PNML().fit(TRAIN)(TEST).numpy(), expected, rtol=1e-7)


def test_the_regret_tells_saturated_predictions_apart():
    score = PNML().fit(TRAIN)
    certain = replace(score, head=replace(score.head, weight=300 * score.head.weight))
    found = certain(TEST)
    assert found.isfinite().all() and (found > 0).all()
    assert len(torch.unique(found)) == len(found)

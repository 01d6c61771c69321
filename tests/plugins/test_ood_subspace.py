"""ViM, residual and pNML against plain formulas."""

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from ood_core.errors import OODError
from ood_core.interfaces import Head, Outputs
from ood_core.testing import make_outputs, scorer_checks
from ood_subspace.pnml import PNML, log_normalizer
from ood_subspace.scorers import Residual, ViM, default_directions

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


@pytest.mark.parametrize(("width", "directions"), [(64, 32), (767, 383), (768, 512), (1500, 512), (2048, 1000)])
def test_the_dimension_is_the_papers_rule(width, directions):
    assert default_directions(width) == directions


@pytest.mark.parametrize("scorer", [Residual(directions=16), ViM(directions=99)])
def test_a_subspace_that_leaves_nothing_is_refused(scorer):
    with pytest.raises(OODError, match=r"^'directions' must be below the dimension of the embeddings, 16, not"):
        scorer.fit(TRAIN)


def test_vim_of_embeddings_without_a_residual_is_finite_and_says_so(caplog):
    head = replace(TRAIN.head, bias=torch.zeros(5))  # the origin is 0
    flat = replace(TRAIN, embeddings=TRAIN.embeddings[:, :8].repeat(1, 2), head=head)
    score = ViM().fit(flat)
    largest, length = flat.logits.amax(1).mean().item(), flat.embeddings.norm(dim=1).mean().item()
    assert score.alpha == pytest.approx(largest / length)
    assert any("principal directions" in message for message in caplog.messages)


@pytest.mark.parametrize("classes", [2, 16, 40])
def test_the_origin_is_where_logits_are_nearest_to_0(classes):
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(classes, 16, generator=generator), torch.randn(classes, generator=generator))
    expected = -np.linalg.pinv(head.weight.double().numpy()) @ head.bias.double().numpy()
    np.testing.assert_allclose(Residual().fit(replace(TRAIN, head=head)).origin.numpy(), expected, rtol=1e-9)


def test_the_origin_ignores_directions_of_the_head_that_are_rounding():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    weight -= weight.mean(0)  # after softmax and weight decay: all classes sum up to nothing, but for rounding
    head = Head((weight + 5e-7).float(), torch.arange(5.0))
    expected = -torch.linalg.pinv(weight, rtol=1e-12) @ head.bias.double()
    torch.testing.assert_close(Residual().fit(replace(TRAIN, head=head)).origin, expected, rtol=1e-5, atol=1e-6)


def test_vim_reads_a_training_set_of_several_chunks():
    rows = torch.arange(30 * len(TRAIN)) % len(TRAIN)
    torch.testing.assert_close(ViM().fit(TRAIN[rows])(TEST), ViM().fit(TRAIN)(TEST), rtol=1e-9, atol=0)


def test_a_residual_counts_as_ood_also_where_all_logits_are_negative(caplog):
    score = ViM().fit(replace(TRAIN, logits=TRAIN.logits - 100))
    assert score.alpha > 0
    assert any("negative on average" in message for message in caplog.messages)


@pytest.mark.parametrize("rows", [300, 6])  # of 6 images, most directions are not seen
def test_the_regret_is_that_of_the_papers_formula(rows):
    known = np.concatenate([np.ones((rows, 1)), KNOWN[:rows] / np.linalg.norm(KNOWN[:rows], axis=1, keepdims=True)], 1)
    inverse = np.linalg.pinv(known.T @ known)
    expected = []
    for row in F:
        unit = row / np.linalg.norm(row)
        x = np.concatenate([[1], unit])
        unseen = x @ (np.eye(len(x)) - inverse @ known.T @ known) @ x
        change = max(unseen, x @ inverse @ x / (1 + x @ inverse @ x))
        p = softmax(W @ unit + B)
        expected.append(np.log(sum(q / (q + (1 - q) * q**change) for q in p)) / np.log(len(p)))
    np.testing.assert_allclose(PNML().fit(TRAIN[torch.arange(rows)])(TEST).numpy(), expected, rtol=1e-7)


def test_the_regret_without_the_one_for_the_bias_is_that_of_pytorch_ood():
    # three axes, each seen twice: xᵀ (XᵀX)⁺ x is 1/2 for a unit x, and the 1 of six images adds 1/6
    head = Head(2 * torch.eye(3), torch.zeros(3))
    axes, asked = torch.cat([torch.eye(3), -torch.eye(3)]), torch.tensor([[3.0, 4.0, 0.0]])
    train, test = (Outputs(rows, rows @ head.weight, torch.full((len(rows),), -1), 3, head) for rows in (axes, asked))
    p = (2 * asked[0].double() / 5).softmax(0)
    h = 1 / 2 + 1 / 6
    expected = (p / (p + (1 - p) * p ** (h / (1 + h)))).sum().log() / math.log(3)
    torch.testing.assert_close(PNML().fit(train)(test)[0], expected)


@pytest.mark.parametrize("gap", [1, 40, 700])
@pytest.mark.parametrize("change", ["0.001", "0.9"])
def test_the_regret_is_right_where_the_probability_rounds_to_one(gap, change):
    with localcontext() as context:
        context.prec = 700
        others = Decimal(-gap).exp()
        probabilities = 1 / (1 + others), others / (1 + others)
        exact = sum(p / (p + (1 - p) * p ** Decimal(change)) for p in probabilities).ln()
    log_p = torch.tensor([[gap, 0.0]], dtype=torch.float64).log_softmax(1)
    found = log_normalizer(log_p, torch.tensor([float(change)], dtype=torch.float64))
    assert found.item() == pytest.approx(float(exact), rel=1e-9, abs=0)


def test_the_regret_lies_between_0_and_1():
    found = PNML().fit(TRAIN[torch.arange(6)])(TEST)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("check", scorer_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("scorer", [Residual(directions=3), ViM(directions=3), PNML(cutoff=1e-9)])
def test_other_options_keep_the_contract(scorer, check):
    check(scorer)


def test_the_regret_tells_saturated_predictions_apart():
    score = PNML().fit(TRAIN)
    certain = replace(score, head=replace(score.head, weight=300 * score.head.weight))
    found = certain(TEST)
    assert found.isfinite().all() and (found > 0).all()
    assert len(torch.unique(found)) == len(found)


# ------------------------------------------------------------------------------------ formulas, slowly


def test_vim_orders_like_the_probability_of_the_further_logit():
    found = ViM().fit(TRAIN)(TEST).numpy()
    alpha = TRAIN.logits.double().numpy().max(1).mean() / residuals(KNOWN, 8).mean()
    logits = np.concatenate([TEST.logits.double().numpy(), alpha * residuals(F, 8)[:, None]], 1)
    assert (np.argsort(softmax(logits, 1)[:, -1]) == np.argsort(found)).all()

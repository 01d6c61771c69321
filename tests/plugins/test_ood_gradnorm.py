from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ood_core.interfaces import Outputs
from ood_core.testing import ScorerCheck, scorer_checks
from ood_gradnorm.scorer import GradNorm

CLASSES, DIMENSION = 7, 12


def outputs(embeddings: Tensor, logits: Tensor) -> Outputs:
    return Outputs(embeddings, logits, torch.full((len(logits),), -1), logits.shape[1])


def slow_norm(head: nn.Linear, embedding: Tensor, temperature: float, mass: float) -> Tensor:
    """Backward through the classifier, one image at a time, as the paper does it."""
    head.zero_grad()
    targets = torch.full((CLASSES,), mass / CLASSES, dtype=torch.float64)
    loss = -(targets * (head(embedding) / temperature).log_softmax(0)).sum()
    loss.backward()
    assert head.weight.grad is not None
    return head.weight.grad.abs().sum()


def closed_form(found: Outputs, temperature: float) -> Tensor:
    """The formula in float64, as it stands."""
    p = (found.logits.double() / temperature).softmax(1)
    return -(p - 1 / p.shape[1]).abs().sum(1) * found.embeddings.double().abs().sum(1) / temperature


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("target", "mass"), [("uniform", 1), ("ones", CLASSES)])
def test_the_score_is_minus_the_norm_that_autograd_finds(
    temperature: float, target: Literal["uniform", "ones"], mass: int
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(DIMENSION, CLASSES, dtype=torch.float64)
    embeddings = torch.randn(20, DIMENSION, dtype=torch.float64)
    found = outputs(embeddings, head(embeddings).detach())
    expected = torch.stack([-slow_norm(head, row, temperature, mass) for row in embeddings])
    score = GradNorm(temperature=temperature, target=target).fit(found)
    torch.testing.assert_close(score(found), expected, rtol=1e-12, atol=0)


def test_the_norm_of_a_batch_is_not_that_of_its_images() -> None:
    # The published code of MOOD takes one norm of the gradient of a whole batch, in which signs cancel.
    torch.manual_seed(0)
    head = nn.Linear(DIMENSION, CLASSES, dtype=torch.float64)
    embeddings = torch.randn(16, DIMENSION, dtype=torch.float64)
    target = torch.full((16, CLASSES), 1 / CLASSES, dtype=torch.float64)
    nn.functional.cross_entropy(head(embeddings), target).backward()
    assert head.weight.grad is not None
    found = outputs(embeddings, head(embeddings).detach())
    assert head.weight.grad.abs().sum() < -0.9 * GradNorm().fit(found)(found).mean()


@pytest.mark.parametrize("classes", [2, 10, 1000, 5000])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_float32_outputs_are_scored_well_within_a_millionth(classes: int, spread: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 1_000_000 // classes
    logits = spread * torch.randn(rows, classes, generator=generator)
    found = outputs(torch.randn(rows, min(classes, 768), generator=generator), logits)
    score = GradNorm(temperature=temperature).fit(found)
    torch.testing.assert_close(score(found), closed_form(found, temperature), rtol=6e-7, atol=1e-15)


def test_confident_predictions_from_large_embeddings_score_lowest() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = outputs(torch.tensor([[4.0, -4.0], [4.0, -4.0], [1.0, 1.0], [4.0, 4.0]]), logits)
    sure, unsure, short, uniform = GradNorm().fit(found)(found).tolist()
    assert sure < min(unsure, short)
    assert max(unsure, short) < uniform == 0


@pytest.mark.parametrize("check", scorer_checks(), ids=lambda check: check.__name__)
def test_the_ones_target_and_temperatures_keep_the_contract(check: ScorerCheck) -> None:
    check(GradNorm(target="ones", temperature=3.0))

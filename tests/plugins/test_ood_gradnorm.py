from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces import Outputs
from ood_gradnorm.scorer import GradNorm

CLASSES, DIMENSION = 7, 12


def slow_norm(head: nn.Linear, embedding: Tensor, temperature: float, mass: float) -> Tensor:
    """Backward through the classifier, one image at a time, as the paper does it."""
    head.zero_grad()
    targets = torch.full((CLASSES,), mass / CLASSES, dtype=torch.float64)
    loss = -(targets * (head(embedding) / temperature).log_softmax(0)).sum()
    loss.backward()
    assert head.weight.grad is not None
    return head.weight.grad.abs().sum()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("target", "mass"), [("uniform", 1), ("ones", CLASSES)])
def test_the_score_is_minus_the_norm_that_autograd_finds(
    temperature: float, target: Literal["uniform", "ones"], mass: int
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(DIMENSION, CLASSES, dtype=torch.float64)
    embeddings = torch.randn(20, DIMENSION, dtype=torch.float64)
    outputs = Outputs(embeddings, head(embeddings).detach(), torch.full((20,), -1), CLASSES)
    expected = torch.stack([-slow_norm(head, row, temperature, mass) for row in embeddings])
    found = GradNorm(temperature=temperature, target=target).fit(outputs)(outputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_outputs_without_logits_are_refused() -> None:
    message = r"^scorer 'gradnorm' needs logits, and no training stage gives the network a classifier$"
    with pytest.raises(OODError, match=message):
        GradNorm().fit(Outputs(torch.zeros(3, 2), torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64), 4))

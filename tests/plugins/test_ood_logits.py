import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Scorer
from ood_logits.scorers import Energy, Entropy, Softmax


def outputs(logits: Tensor) -> Outputs:
    rows = len(logits)
    return Outputs(torch.zeros(rows, 2), logits, torch.full((rows,), -1), classes=logits.shape[1])


def score(scorer: Scorer, logits: Tensor) -> Tensor:
    return scorer.fit(outputs(logits))(outputs(logits))


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))


def test_softmax_is_the_log_of_one_minus_the_largest_probability(logits: Tensor) -> None:
    probabilities = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    torch.testing.assert_close(score(Softmax(), logits), (1 - probabilities.amax(1)).log())


def test_softmax_orders_images_whose_probability_rounds_to_one() -> None:
    found = score(Softmax(), torch.tensor([[50.0, 0.0, 0.0], [60.0, 0.0, 0.0], [900.0, 0.0, 0.0]]))
    expected = torch.tensor([-50.0, -60.0, -900.0], dtype=torch.float64) + torch.tensor(2.0).double().log()
    torch.testing.assert_close(found, expected)


def test_softmax_is_right_where_two_classes_are_equally_probable() -> None:
    found = score(Softmax(), torch.tensor([[1.0, 1.0, -200.0]]))
    torch.testing.assert_close(found, torch.tensor([0.5], dtype=torch.float64).log())


def test_entropy_is_the_sum_over_p_log_p(logits: Tensor) -> None:
    probabilities = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    torch.testing.assert_close(score(Entropy(), logits), -(probabilities * probabilities.log()).sum(1))


def test_entropy_of_flat_logits_is_the_log_of_the_number_of_classes() -> None:
    assert score(Entropy(), torch.full((1, 10), 1e4)).item() == pytest.approx(torch.tensor(10.0).log().item())


@pytest.mark.parametrize("gap", [40.0, 300.0])
def test_entropy_keeps_its_precision_where_the_probability_rounds_to_one(gap: float) -> None:
    # two classes: H = log(1 + q) + gap * q / (1 + q) with q = exp(-gap), so H = (1 + gap) * q to first order
    found = score(Entropy(), torch.tensor([[gap, 0.0]])).item()
    assert found == pytest.approx((1 + gap) * torch.tensor(-gap).double().exp().item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy_is_the_free_energy(logits: Tensor, temperature: float) -> None:
    expected = -temperature * (logits.double() / temperature).exp().sum(1).log()
    torch.testing.assert_close(score(Energy(temperature=temperature), logits), expected)


def test_energy_at_low_temperature_is_minus_the_largest_logit(logits: Tensor) -> None:
    torch.testing.assert_close(score(Energy(temperature=1e-6), logits), -logits.double().amax(1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scorer", [Softmax(), Entropy(), Energy()])
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_saturated_logits_give_finite_scores(scorer: Scorer, size: float) -> None:
    assert score(scorer, torch.tensor([[size, -size, 0.0], [-size, -size, -size]])).isfinite().all()


@pytest.mark.parametrize("scorer", [Softmax(), Entropy()])
def test_a_single_class_is_as_certain_everywhere(scorer: Scorer) -> None:
    found = score(scorer, torch.tensor([[-3.0], [0.0], [40.0]]))
    assert found.isfinite().all()
    assert len(found.unique()) == 1


@pytest.mark.parametrize("scorer", [Softmax(), Entropy(), Energy()])
def test_outputs_without_logits_are_refused(scorer: Scorer) -> None:
    message = rf"^scorer '{scorer.name}' needs logits, and no training stage gives the network a classifier$"
    with pytest.raises(OODError, match=message):
        scorer.fit(outputs(torch.zeros(3, 0)))

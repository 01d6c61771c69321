import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.metrics import Metrics, accuracy, measure, threshold


def draw(rows: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def slow_average_precision(positive: Tensor, negative: Tensor) -> float:
    """Precision at each recall step, from the definition; no ties."""
    precisions = [(positive >= cut).sum() / ((positive >= cut).sum() + (negative >= cut).sum()) for cut in positive]
    return float(torch.stack(precisions).double().mean())


def test_metrics_equal_their_definitions() -> None:
    known, foreign = draw(80), draw(50, shift=1.0, seed=1)
    found = measure(known, foreign)
    assert found.auroc == pytest.approx((foreign[:, None] > known).double().mean().item())
    assert found.fpr95 == pytest.approx((foreign <= torch.quantile(known, 0.95)).double().mean().item())
    assert found.aupr_out == pytest.approx(slow_average_precision(foreign, known))
    assert found.aupr_in == pytest.approx(slow_average_precision(-known, -foreign))


def test_numbers_worked_out_by_hand() -> None:
    known = torch.arange(1.0, 22.0)  # 1..21, so the 95th percentile is 20
    found = measure(known, torch.tensor([0.0, 20.0, 20.5, 30.0]))
    assert threshold(known) == 20.0
    assert found.fpr95 == 0.5
    assert found.auroc == pytest.approx((0 + 19.5 + 20 + 21) / (4 * 21))


def test_perfect_separation() -> None:
    assert measure(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])) == Metrics(1.0, 0.0, 1.0, 1.0)


def test_constant_scores_are_chance_and_accept_everything() -> None:
    assert measure(torch.full((30,), 0.1), torch.full((10,), 0.1)) == Metrics(0.5, 1.0, 0.75, 0.25)


def test_the_other_sign_gives_the_other_auroc() -> None:
    known, foreign = draw(80), draw(50, shift=0.5, seed=1)
    assert measure(-known, -foreign).auroc == pytest.approx(1 - measure(known, foreign).auroc)


def test_identical_distributions_accept_95_percent() -> None:
    assert measure(draw(20000), draw(20000, seed=1)).fpr95 == pytest.approx(0.95, abs=0.01)


def test_scores_that_float32_cannot_tell_apart_are_ranked() -> None:
    assert measure(torch.tensor([1.0, 1.0]).double(), torch.tensor([1.0 + 1e-12] * 2, dtype=torch.float64)).auroc == 1.0


def test_the_threshold_accepts_the_share_that_was_asked_for() -> None:
    known = draw(1000)
    assert (known <= threshold(known, tpr=0.8)).double().mean().item() == pytest.approx(0.8)


def test_accuracy_is_the_share_of_right_predictions() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_accuracy_of_nothing_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(OODError, match=r"^accuracy needs at least one image and a trained classifier$"):
        accuracy(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "call"),
    [("ID", lambda bad: measure(bad, draw(3))), ("OOD", lambda bad: measure(draw(3), bad)), ("ID", threshold)],
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_scores_are_refused_and_located(name: str, call: Callable[[Tensor], object], value: float) -> None:
    scores = draw(9)
    scores[[4, 7]] = value
    with pytest.raises(OODError, match=rf"^2 of 9 {name} scores are NaN or infinite, first in row 4$"):
        call(scores)


@pytest.mark.parametrize(("name", "sizes"), [("ID", (0, 3)), ("OOD", (3, 0))])
def test_empty_sets_are_refused(name: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(OODError, match=rf"^there are no {name} scores to measure$"):
        measure(*map(draw, sizes))


def test_importing_the_module_does_not_import_scikit_learn() -> None:
    code = "import sys, ood_core.metrics; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor

from ood_core.errors import OODError
from ood_core.evaluation import metrics
from ood_core.evaluation.metrics import Metrics, accuracy, expected_calibration_error, measure, threshold


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
    assert measure(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])) == Metrics(
        auroc=1.0,
        fpr95=0.0,
        fpr95_ood_recall=0.0,
        aupr_in=1.0,
        aupr_out=1.0,
        aupr_in_trapezoid=1.0,
        aupr_out_trapezoid=1.0,
        ties=0.0,
    )


def test_constant_scores_are_chance_and_accept_everything() -> None:
    found = measure(torch.full((30,), 0.1), torch.full((10,), 0.1))
    assert (found.auroc, found.fpr95, found.fpr95_ood_recall, found.ties) == (0.5, 1.0, 1.0, 1.0)
    assert (found.aupr_in, found.aupr_out) == (0.75, 0.25)
    assert (found.aupr_in_trapezoid, found.aupr_out_trapezoid) == (0.875, 0.625)


def test_the_other_sign_gives_the_other_auroc() -> None:
    known, foreign = draw(80), draw(50, shift=0.5, seed=1)
    assert measure(-known, -foreign).auroc == pytest.approx(1 - measure(known, foreign).auroc)


def test_identical_distributions_accept_95_percent() -> None:
    assert measure(draw(20000), draw(20000, seed=1)).fpr95 == pytest.approx(0.95, abs=0.01)


def test_scores_that_float32_cannot_tell_apart_are_ranked() -> None:
    assert measure(torch.tensor([1.0, 1.0]).double(), torch.tensor([1.0 + 1e-12] * 2, dtype=torch.float64)).auroc == 1.0


def by_scikit_learn(known: Tensor, foreign: Tensor) -> dict[str, float]:
    scores = torch.cat([known, foreign]).numpy()
    is_ood = np.arange(len(scores)) >= len(known)
    found = {"auroc": roc_auc_score(is_ood, scores)}
    fpr, tpr, _ = roc_curve(is_ood, scores, drop_intermediate=False)
    found["fpr95_ood_recall"] = fpr[np.argmax(tpr >= 0.95)]
    for name, positive, sign in (("out", is_ood, 1), ("in", ~is_ood, -1)):
        precision, recall, _ = precision_recall_curve(positive, sign * scores)
        found[f"aupr_{name}"] = average_precision_score(positive, sign * scores)
        found[f"aupr_{name}_trapezoid"] = auc(recall, precision)
    found["fpr95"] = np.mean(foreign.numpy() <= np.quantile(known.numpy(), 0.95))
    found["ties"] = (foreign[:, None] == known).double().mean().item()
    return found


SETS = {
    "distinct": (draw(501), draw(300, 0.7, 1)),
    "tied now and then": (draw(500).round(decimals=1), draw(300, 0.7, 1).round(decimals=1)),
    "few values": (draw(500).round(), draw(301, 0.7, 1).round()),
    "all equal": (torch.zeros(7).double(), torch.zeros(3).double()),
    "one of each": (draw(1), draw(1, 0.0, 1)),
    "one against many": (draw(1), draw(400, 0.3, 1)),
    "many against one": (draw(400), draw(1, 0.3, 1)),
    "zeros of both signs": (torch.tensor([0.0, -0.0, 1.0]).double(), torch.tensor([-0.0, 0.0, -1.0]).double()),
    "denormal": (draw(50) * 5e-324, draw(60, 1.0, 1) * 5e-322),
    "huge": (draw(50) * 1e307, draw(60, 1.0, 1) * 1e307),
    "the wrong way round": (draw(200, 2.0), draw(100)),
    "ties within one set": (torch.tensor([1.0, 1, 2, 2, 3]).double(), torch.tensor([0.5, 2.5, 2.5, 9]).double()),
}


@pytest.mark.parametrize("name", SETS)
def test_scikit_learn_finds_the_same(name: str) -> None:
    found, expected = asdict(measure(*SETS[name])), by_scikit_learn(*SETS[name])
    assert found.keys() == expected.keys()
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, abs=1e-12), metric


@given(
    known=st.lists(st.integers(-4, 4), min_size=1, max_size=40),
    foreign=st.lists(st.integers(-4, 4), min_size=1, max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_scikit_learn_finds_the_same_whatever_the_ties(known: list[int], foreign: list[int]) -> None:
    sets = torch.tensor(known).double(), torch.tensor(foreign).double()
    found, expected = asdict(measure(*sets)), by_scikit_learn(*sets)
    assert all(found[metric] == pytest.approx(value, abs=1e-12) for metric, value in expected.items())


def test_large_sets_are_sorted_side_by_side_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = measure(*SETS["few values"])
    monkeypatch.setattr(metrics, "THREADED", 1)
    assert measure(*SETS["few values"]) == expected


def test_scores_are_not_changed() -> None:
    known, foreign = draw(30), draw(20, 1.0, 1)
    measure(known, foreign)
    assert torch.equal(known, draw(30))
    assert torch.equal(foreign, draw(20, 1.0, 1))


def slow_calibration_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    """The weighted gaps of Guo et al., bin by bin."""
    confidence, predicted = logits.double().softmax(1).max(1)
    error = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            right = (predicted[inside] == labels[inside]).double().mean()
            error += inside.double().mean().item() * abs(right - confidence[inside].mean()).item()
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_its_definition(monkeypatch: pytest.MonkeyPatch, bins: int) -> None:
    logits = draw(700).reshape(100, 7) * 2
    labels = torch.arange(100) % 7
    expected = slow_calibration_error(logits, labels, bins)
    assert expected_calibration_error(logits, labels, bins) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(metrics, "CHUNK", 9)
    assert expected_calibration_error(logits, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    logits = torch.eye(4) * 100
    assert expected_calibration_error(logits, torch.arange(4)) == pytest.approx(0)
    assert expected_calibration_error(logits, (torch.arange(4) + 1) % 4) == pytest.approx(1)


def test_calibration_of_nothing_is_refused() -> None:
    with pytest.raises(OODError, match=r"^calibration needs at least one image and a trained classifier$"):
        expected_calibration_error(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


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
    code = "import sys, ood_core.evaluation.metrics; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("images", "accepted"), [(10, 9), (110, 104), (21, 20)])
def test_the_threshold_of_fpr95_is_interpolated_and_may_accept_less(images: int, accepted: int) -> None:
    scores = torch.arange(images, dtype=torch.float64)
    assert int((scores <= threshold(scores)).sum()) == accepted

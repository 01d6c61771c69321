import math
import subprocess
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from ood_core.errors import OODError
from ood_core.evaluation import significance
from ood_core.evaluation.metrics import measure
from ood_core.evaluation.significance import Difference, bootstrap, delong, holm, paired_t, placements, t_interval

Scores = NDArray[np.float64]
METRICS = ("auroc", "fpr95", "aupr_in", "aupr_out")


pytestmark = pytest.mark.filterwarnings("error")


def draw(size: int, shift: float = 0.0, seed: int = 0) -> Scores:
    return np.random.default_rng(seed).normal(shift, size=size)


def resample(known: Scores, foreign: Scores, resamples: int, seed: int):
    """The resamples one by one, as they are documented."""
    inside, outside = np.random.default_rng(seed).spawn(2)
    for _ in range(resamples):
        yield (
            np.sort(known)[inside.integers(len(known), size=len(known))],
            np.sort(foreign)[outside.integers(len(foreign), size=len(foreign))],
        )


def slow_bootstrap(known: Scores, foreign: Scores, resamples: int, seed: int = 0, confidence: float = 0.95):
    """Every resample written out and measured as the report's own numbers are."""
    measured = [measure(*map(torch.from_numpy, pair)) for pair in resample(known, foreign, resamples, seed)]
    rows = [[getattr(row, name) for row in measured] for name in METRICS]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: tuple(np.quantile(row, tails)) for name, row in zip(METRICS, rows, strict=True)}


def agree(found: dict[str, tuple[float, float]], expected: dict[str, tuple[float, float]]) -> bool:
    return list(found) == list(METRICS) and all(
        found[name] == pytest.approx(expected[name], abs=1e-12) for name in METRICS
    )


SETS = {
    "distinct": (draw(301), draw(200, 0.7, 1)),
    "tied now and then": (draw(300).round(1), draw(200, 0.7, 1).round(1)),
    "few values": (draw(300).round(), draw(201, 0.7, 1).round()),
    "all equal": (np.zeros(7), np.zeros(3)),
    "one of each": (draw(1), draw(1, 0.0, 1)),
    "one against many": (draw(1), draw(200, 0.3, 1)),
    "many against one": (draw(200), draw(1, 0.3, 1)),
    "zeros of both signs": (np.array([0.0, -0.0, 1.0]), np.array([-0.0, 0.0, -1.0])),
    "denormal": (draw(50) * 5e-324, draw(60, 1.0, 1) * 5e-322),
    "huge": (draw(50) * 1e307, draw(60, 1.0, 1) * 1e307),
    "the wrong way round": (draw(200, 2.0), draw(100)),
    "separated": (draw(40), draw(30) + 20),
    "a 95th percentile without interpolation": (np.arange(21.0), draw(30) + 20),
}


@pytest.mark.parametrize("name", SETS)
def test_the_bootstrap_measures_every_resample_as_the_report_would(name: str) -> None:
    assert agree(bootstrap(*SETS[name], resamples=40), slow_bootstrap(*SETS[name], 40))


def by_scikit_learn(known: Scores, foreign: Scores) -> list[float]:
    scores, is_ood = np.concatenate([known, foreign]), np.arange(len(known) + len(foreign)) >= len(known)
    return [
        roc_auc_score(is_ood, scores),
        np.mean(foreign <= np.quantile(known, 0.95)),
        average_precision_score(~is_ood, -scores),
        average_precision_score(is_ood, scores),
    ]


@pytest.mark.parametrize("name", ["distinct", "tied now and then", "few values"])
def test_the_bootstrap_agrees_with_scikit_learn(name: str) -> None:
    rows = np.transpose([by_scikit_learn(*pair) for pair in resample(*SETS[name], 30, 5)])
    expected = {name: tuple(np.quantile(row, [0.05, 0.95])) for name, row in zip(METRICS, rows, strict=True)}
    assert agree(bootstrap(*SETS[name], resamples=30, seed=5, confidence=0.9), expected)


few = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=30).map(np.array)
any_score = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30).map(np.array)


@settings(max_examples=40, deadline=None)
@given(known=few | any_score, foreign=few | any_score, seed=st.integers(0, 2**32))
def test_the_bootstrap_of_any_scores_is_that_of_its_definition(known: Scores, foreign: Scores, seed: int) -> None:
    assert agree(bootstrap(known, foreign, resamples=12, seed=seed), slow_bootstrap(known, foreign, 12, seed))


@pytest.mark.parametrize("chunk", [1, 1001, 2**14])
def test_the_bootstrap_does_not_depend_on_how_many_resamples_are_drawn_together(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    expected = bootstrap(*SETS["distinct"], resamples=33)
    monkeypatch.setattr(significance, "CHUNK", chunk)
    assert bootstrap(*SETS["distinct"], resamples=33) == expected


def test_the_seed_decides_the_bootstrap_and_the_order_of_the_images_does_not() -> None:
    known, foreign = SETS["distinct"]
    assert bootstrap(known, foreign, 50) == bootstrap(known[::-1], np.roll(foreign, 7), 50)
    assert bootstrap(known, foreign, 50) != bootstrap(known, foreign, 50, seed=1)


def test_the_bootstrap_does_not_change_the_scores() -> None:
    known, foreign = draw(30), draw(20, 1.0, 1)
    bootstrap(known, foreign, 10)
    assert np.array_equal(known, draw(30))
    assert np.array_equal(foreign, draw(20, 1.0, 1))


def test_more_confidence_makes_a_wider_interval() -> None:
    narrow, wide = (bootstrap(*SETS["distinct"], confidence=confidence) for confidence in (0.5, 0.99))
    assert all(wide[name][0] < narrow[name][0] < narrow[name][1] < wide[name][1] for name in METRICS)


def test_separated_sets_have_intervals_of_no_width() -> None:
    assert bootstrap(*SETS["separated"]) == {
        "auroc": (1.0, 1.0),
        "fpr95": (0.0, 0.0),
        "aupr_in": (1.0, 1.0),
        "aupr_out": (1.0, 1.0),
    }


def test_the_bootstrap_holds_the_true_auroc_about_as_often_as_it_says() -> None:
    truth, runs = stats.norm.cdf(1 / math.sqrt(2)), 300
    held = 0
    for run in range(runs):
        low, high = bootstrap(draw(90, 0.0, 2 * run), draw(70, 1.0, 2 * run + 1), 300, seed=run)["auroc"]
        held += low <= truth <= high
    assert held / runs == pytest.approx(0.95, abs=0.035)


def test_the_bootstrap_is_as_wide_as_delong_says() -> None:
    known, foreign = draw(2000), draw(1500, 1.0, 1)
    low, high = bootstrap(known, foreign)["auroc"]
    inside, outside, _ = slow_kernel(known, foreign)
    margin = 1.96 * math.sqrt(inside.var(ddof=1) / 2000 + outside.var(ddof=1) / 1500)
    assert high - low == pytest.approx(2 * margin, rel=0.1)


def slow_kernel(known: Scores, foreign: Scores) -> tuple[Scores, Scores, float]:
    """The components V10 and V01 of DeLong et al. and their mean, from the kernel psi of every pair."""
    psi = np.zeros((len(known), len(foreign)))
    for (row, inside), (column, outside) in product(enumerate(known), enumerate(foreign)):
        psi[row, column] = 1.0 if outside > inside else 0.5 if outside == inside else 0.0
    return psi.mean(axis=1), psi.mean(axis=0), float(psi.mean())


def slow_delong(first: tuple[Scores, Scores], second: tuple[Scores, Scores]) -> Difference:
    """Equations 4 to 7 of DeLong et al., with the contrast (1, -1)."""
    inside, outside, area = zip(slow_kernel(*first), slow_kernel(*second), strict=True)
    covariance = np.cov(inside) / len(first[0]) + np.cov(outside) / len(first[1])
    contrast = np.array([1.0, -1.0])
    error = math.sqrt(contrast @ covariance @ contrast)
    difference = area[0] - area[1]
    low, high = stats.norm.interval(0.95, difference, error)
    return Difference(difference, low, high, 2 * stats.norm.sf(abs(difference / error)))


def compare(first: tuple[Scores, Scores], second: tuple[Scores, Scores]) -> Difference:
    return delong(placements(*first), placements(*second))


def numbers(found: Difference) -> tuple[float, ...]:
    return found.difference, found.low, found.high, found.p


@pytest.mark.parametrize("digits", [16, 1, 0])
def test_delong_is_that_of_the_paper(digits: int) -> None:
    known, foreign = draw(60), draw(40, 0.8, 1)
    first = known.round(digits), foreign.round(digits)
    second = (known + draw(60, 0.0, 2)).round(digits), (foreign + draw(40, 0.0, 3)).round(digits)
    assert numbers(compare(first, second)) == pytest.approx(numbers(slow_delong(first, second)), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_delong_of_any_scores_is_antisymmetric_and_that_of_the_paper(data: st.DataObject) -> None:
    inside, outside = data.draw(st.tuples(st.integers(2, 12), st.integers(2, 12)))
    first, second = (
        tuple(np.array(data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)), float) for size in sizes)
        for sizes in ((inside, outside), (inside, outside))
    )
    found, back = compare(first, second), compare(second, first)
    assert numbers(back) == pytest.approx((-found.difference, -found.high, -found.low, found.p))
    if found.low < found.high:
        assert numbers(found) == pytest.approx(numbers(slow_delong(first, second)), abs=1e-9)
    else:
        assert found.p == (found.difference == 0)


@pytest.mark.parametrize("name", SETS)
def test_placements_are_those_of_the_kernel_and_their_mean_is_the_auroc(name: str) -> None:
    known, foreign = SETS[name]
    inside, outside, _ = slow_kernel(known, foreign)
    found = placements(known, foreign)
    assert np.allclose(found.of_id / 2 / len(foreign), inside, rtol=0, atol=1e-15)
    assert np.allclose(found.of_ood / 2 / len(known), outside, rtol=0, atol=1e-15)
    assert found.of_ood.sum() / (2 * len(known) * len(foreign)) == measure(known, foreign).auroc


def test_a_detector_does_not_differ_from_itself_or_from_one_that_ranks_alike() -> None:
    first = draw(60), draw(40, 0.8, 1)
    assert compare(first, first) == Difference(0.0, 0.0, 0.0, 1.0)
    assert compare(first, (np.exp(first[0]), np.exp(first[1]))) == Difference(0.0, 0.0, 0.0, 1.0)


def test_two_perfect_detectors_do_not_differ() -> None:
    assert compare((draw(9), draw(7) + 20), (draw(9, 0, 1), draw(7, 0, 2) + 30)) == Difference(0.0, 0.0, 0.0, 1.0)


def test_a_difference_without_variance_is_certain() -> None:
    perfect, blind = (draw(9), draw(7) + 20), (np.zeros(9), np.zeros(7))
    assert compare(perfect, blind) == Difference(0.5, 0.5, 0.5, 0.0)
    assert compare(blind, perfect) == Difference(-0.5, -0.5, -0.5, 0.0)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 9), (9, 1)])
def test_a_single_image_of_a_set_shows_no_difference(sizes: tuple[int, int]) -> None:
    found = compare((np.zeros(sizes[0]), np.ones(sizes[1])), (np.ones(sizes[0]), np.zeros(sizes[1])))
    assert found == Difference(1.0, -1.0, 1.0, 1.0)


def test_delong_rejects_about_one_true_hypothesis_in_twenty() -> None:
    rejected, runs = 0, 600
    for run in range(runs):
        known, foreign = draw(60, 0.0, 6 * run), draw(50, 1.0, 6 * run + 1)
        noisy = [
            (known + draw(60, 0.0, 6 * run + seed), foreign + draw(50, 0.0, 6 * run + seed + 1)) for seed in (2, 4)
        ]
        rejected += compare(*noisy).p < 0.05
    assert rejected / runs == pytest.approx(0.05, abs=0.025)


def test_detectors_of_different_images_cannot_be_compared() -> None:
    expected = "DeLong's test compares scores of the same images, not of 5 ID + 7 OOD and 6 ID + 7 OOD images"
    with pytest.raises(OODError, match=f"^{expected.replace('+', '[+]')}$"):
        compare((draw(5), draw(7)), (draw(6), draw(7)))


@pytest.mark.parametrize("function", [bootstrap, placements])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_scores_are_refused_and_located(function: Callable[[Scores, Scores], object], value: float) -> None:
    broken = draw(9)
    broken[[4, 7]] = value
    with pytest.raises(OODError, match=r"^2 of 9 ID scores are NaN or infinite, first in row 4$"):
        function(broken, draw(3))
    with pytest.raises(OODError, match=r"^2 of 9 OOD scores are NaN or infinite, first in row 4$"):
        function(draw(3), broken)


@pytest.mark.parametrize("function", [bootstrap, placements])
def test_empty_sets_are_refused(function: Callable[[Scores, Scores], object]) -> None:
    with pytest.raises(OODError, match=r"^there are no ID scores to measure$"):
        function(draw(0), draw(3))
    with pytest.raises(OODError, match=r"^there are no OOD scores to measure$"):
        function(draw(3), draw(0))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm's 4 x 0.005, 3 x 0.01, 2 x 0.03, then not less
        ([0.5, 0.6, 0.01], [1.0, 1.0, 0.03]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([1.0, 0.0], [1.0, 0.0]),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(p_values=st.lists(st.floats(0, 1), max_size=20), level=st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    rejected = set()
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if (len(p_values) - rank) * p_values[index] > level:
            break
        rejected.add(int(index))
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


several = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=12)


@given(values=several, confidence=st.sampled_from([0.5, 0.9, 0.95]))
def test_the_t_interval_is_that_of_scipy(values: list[float], confidence: float) -> None:
    found = t_interval(values, confidence)
    if len(set(values)) == 1:
        assert found == (values[0], values[0])
    else:
        expected = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_single_seed_has_no_interval_and_equal_seeds_one_of_no_width() -> None:
    assert t_interval([0.3]) == (-math.inf, math.inf)
    assert t_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)


def test_the_paired_test_is_that_of_scipy() -> None:
    first, second = draw(5, 1.0).tolist(), draw(5, 0.0, 1).tolist()
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    numbers_of_scipy = (np.mean(first) - np.mean(second), interval.low, interval.high, expected.pvalue)
    assert numbers(paired_t(first, second)) == pytest.approx(numbers_of_scipy, abs=1e-12)


def test_pairs_that_differ_alike_are_certain_and_one_pair_is_not() -> None:
    assert paired_t([0.5, 0.25], [0.25, 0.0]) == Difference(0.25, 0.25, 0.25, 0.0)
    assert paired_t([0.3, 0.7], [0.3, 0.7]) == Difference(0.0, 0.0, 0.0, 1.0)
    assert paired_t([0.75], [0.5]) == Difference(0.25, -math.inf, math.inf, 1.0)


@pytest.mark.parametrize("sizes", [(2, 3), (0, 0)])
def test_values_without_a_partner_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(OODError, match=rf"^a paired test needs pairs, not {sizes[0]} and {sizes[1]} values$"):
        paired_t([0.5] * sizes[0], [0.5] * sizes[1])


def test_importing_the_module_imports_neither_scikit_learn_nor_scipy_stats() -> None:
    module = "ood_core.evaluation.significance"
    code = f"import sys, {module}; sys.exit('sklearn' in sys.modules or 'scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""What ood_core.evaluation.calibration promises of finitely many images, by simulation over many calibration sets.

Seeds are fixed. A share that is found may miss what is promised by four standard errors of the simulation.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

from ood_core.evaluation.calibration import Calibration

Scores = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Scores]

DRAWS = 3000
"""Calibration sets."""

NEW = 20
"""New ID images after each of them."""

SIGMAS = 4


def normal(random: np.random.Generator, size: int) -> Scores:
    return random.normal(size=size)


def tied(random: np.random.Generator, size: int) -> Scores:
    return random.integers(6, size=size).astype(np.float64)


def heavy(random: np.random.Generator, size: int) -> Scores:
    return random.standard_cauchy(size) * 1e6


def error(shares: Scores) -> float:
    """The standard error of the mean of one share for each calibration set."""
    return float(shares.std(ddof=1)) / math.sqrt(len(shares))


def rejected(draw: Draw, size: int, level: float) -> Scores:
    """The share of new ID images, for each calibration set, whose p-value is at most the level."""
    random = np.random.default_rng(size)
    shares = np.empty(DRAWS)
    for row in range(DRAWS):
        p_values = Calibration.of(draw(random, size)).p_values(draw(random, NEW))
        shares[row] = np.mean(p_values <= level)
    return shares


@pytest.mark.parametrize("draw", [normal, tied, heavy])
@pytest.mark.parametrize(("size", "level"), [(1, 0.5), (9, 0.1), (30, 0.05), (99, 0.01), (216, 0.05)])
def test_a_new_image_has_a_p_value_up_to_a_level_with_that_probability_at_most(
    draw: Draw, size: int, level: float
) -> None:
    shares = rejected(draw, size, level)
    assert shares.mean() <= level + SIGMAS * error(shares)


@pytest.mark.parametrize(("size", "level"), [(1, 0.5), (9, 0.1), (30, 0.05), (99, 0.01), (216, 0.05)])
def test_without_ties_the_probability_is_exactly_that_of_the_rank(size: int, level: float) -> None:
    shares = rejected(normal, size, level)
    promised = math.floor(round(level * (size + 1), 9)) / (size + 1)
    assert abs(shares.mean() - promised) <= SIGMAS * error(shares)


def accepted(size: int, tpr: float) -> tuple[Scores, Calibration]:
    """The share of all normal scores that each calibration set accepts, exactly, and the last of the sets."""
    random = np.random.default_rng(size)
    sets = [Calibration.of(random.normal(size=size)) for _ in range(DRAWS)]
    return ndtr([each.threshold(tpr) for each in sets]), sets[-1]


@pytest.mark.parametrize(("size", "tpr"), [(19, 0.95), (20, 0.95), (99, 0.9), (216, 0.95), (500, 0.99), (3, 0.5)])
def test_on_average_over_calibration_sets_the_threshold_accepts_its_rate(size: int, tpr: float) -> None:
    rates, _ = accepted(size, tpr)
    slack = SIGMAS * error(rates)
    assert rates.mean() >= tpr - slack
    assert rates.mean() <= tpr + 1 / (size + 1) + slack  # and it is not merely far too high


def test_an_interpolated_quantile_would_accept_fewer() -> None:
    """That the simulation can tell a promise that is kept from one that is not."""
    random = np.random.default_rng(0)
    rates = ndtr([np.quantile(random.normal(size=30), 0.95) for _ in range(DRAWS)])
    assert rates.mean() < 0.95 - SIGMAS * error(rates)


@pytest.mark.parametrize("size", [19, 40, 216])
def test_with_ties_the_threshold_accepts_its_rate_and_more(size: int) -> None:
    random = np.random.default_rng(size)
    below = np.arange(1, 7) / 6  # share of all scores up to 0, 1, ..., 5
    thresholds = [Calibration.of(tied(random, size)).threshold(0.8) for _ in range(DRAWS)]
    rates = below[np.array(thresholds, dtype=np.int64)]
    assert rates.mean() >= 0.8 - SIGMAS * error(rates)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
@pytest.mark.parametrize(("size", "tpr"), [(19, 0.95), (30, 0.8), (216, 0.95)])
def test_the_interval_holds_the_rate_as_often_as_it_says(size: int, tpr: float, confidence: float) -> None:
    rates, calibration = accepted(size, tpr)
    low, high = calibration.interval(tpr, confidence)
    slack = SIGMAS * math.sqrt(confidence * (1 - confidence) / DRAWS)
    assert abs(np.mean((low <= rates) & (rates <= high)) - confidence) <= slack
    tail = (1 - confidence) / 2
    slack = SIGMAS * math.sqrt(tail * (1 - tail) / DRAWS)
    assert abs(np.mean(rates < low) - tail) <= slack
    assert abs(np.mean(rates > high) - tail) <= slack


def test_with_ties_the_rate_is_below_the_interval_no_more_often_than_it_says() -> None:
    random = np.random.default_rng(0)
    below = np.arange(1, 7) / 6
    sets = [Calibration.of(tied(random, 50)) for _ in range(DRAWS)]
    rates = below[np.array([each.threshold(0.8) for each in sets], dtype=np.int64)]
    assert np.mean(rates < sets[0].interval(0.8)[0]) <= 0.025 + SIGMAS * math.sqrt(0.025 * 0.975 / DRAWS)


CLASSES = ("cat", "dog", "ship")
SHARES = (0.5, 0.3, 0.2)
SCALES = np.array([1.0, 2.0, 4.0])
"""Scores of a class are normal, as wide as this."""


def by_class(random: np.random.Generator, size: int) -> tuple[Scores, NDArray[np.int64]]:
    predicted = random.choice(3, size=size, p=SHARES)
    return random.normal(size=size) * SCALES[predicted], predicted


def test_thresholds_for_classes_accept_their_rate_in_each_predicted_class() -> None:
    random = np.random.default_rng(0)
    sets = [Calibration.of(*by_class(random, 200)) for _ in range(DRAWS)]
    rates = ndtr([each.thresholds(CLASSES, 0.9) / SCALES for each in sets])
    one_for_all = ndtr([each.threshold(0.9) / SCALES for each in sets])
    for label in range(3):
        slack = SIGMAS * error(rates[:, label])
        assert 0.9 - slack <= rates[:, label].mean() <= 0.9 + 1 / 20 + slack
    assert one_for_all[:, 2].mean() < 0.8  # the class that one threshold fails


def test_p_values_by_class_hold_in_each_predicted_class() -> None:
    random = np.random.default_rng(0)
    found = np.full((DRAWS, 3), np.nan)
    alike = np.full((DRAWS, 3), np.nan)
    for row in range(DRAWS):
        calibration = Calibration.of(*by_class(random, 150))
        scores, predicted = by_class(random, 30)
        for kept, p_values in (
            (found, calibration.p_values(scores, predicted, classes=3)),
            (alike, calibration.p_values(scores)),
        ):
            for label in range(3):
                if (predicted == label).any():
                    kept[row, label] = np.mean(p_values[predicted == label] <= 0.1)
    for label in range(3):
        shares = found[:, label][~np.isnan(found[:, label])]
        assert shares.mean() <= 0.1 + SIGMAS * error(shares)
    assert np.nanmean(alike[:, 2]) > 0.2


@pytest.mark.parametrize("draw", [normal, tied])
@pytest.mark.parametrize("tpr", ["0.5", "0.6", "0.7", "0.8", "0.9", "0.95", "0.99", "0.999", "0.333"])
def test_a_score_is_above_the_threshold_exactly_where_its_p_value_is_at_most_the_rest(draw: Draw, tpr: str) -> None:
    """In fractions: 1 - 0.9 is not 0.1 in floats."""
    random = np.random.default_rng(0)
    for size in (*range(1, 41), 98, 99, 100, 999, 1000, 1001):
        calibration = Calibration.of(draw(random, size))
        if Fraction(tpr) > Fraction(size, size + 1):
            continue  # so few images cannot vouch for it
        new = np.concatenate([draw(random, 50), calibration.scores, [-np.inf, np.inf]])
        ranks = np.rint(calibration.p_values(new) * (size + 1)).astype(int).tolist()
        by_p_value = [Fraction(rank, size + 1) <= 1 - Fraction(tpr) for rank in ranks]
        assert (new > calibration.threshold(float(tpr))).tolist() == by_p_value


def test_decisions_by_class_are_those_of_p_values_by_class() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        calibration = Calibration.of(*by_class(random, 200))
        scores, predicted = by_class(random, 100)
        thresholds = calibration.thresholds(CLASSES, 0.9)
        counts = np.bincount(calibration.predicted)[predicted] + 1
        ranks = np.rint(calibration.p_values(scores, predicted, classes=3) * counts).astype(int)
        by_p_value = [
            Fraction(rank, count) <= Fraction(1, 10)
            for rank, count in zip(ranks.tolist(), counts.tolist(), strict=True)
        ]
        assert (scores > thresholds[predicted]).tolist() == by_p_value

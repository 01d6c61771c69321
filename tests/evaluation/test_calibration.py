"""Thresholds and p-values against their definitions, number by number, and their guarantees, by counting.

Where calibration and new images are exchangeable, each of M + 1 scores is equally likely to be the new one; so a share
of new images is a count over those M + 1 choices, exactly.
"""

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta

from ood_core.errors import OODError
from ood_core.evaluation.calibration import Calibration, highest_tpr, least_images

NINETEEN = Calibration.of(np.arange(19, 0, -1.0))


@pytest.mark.parametrize(("tpr", "threshold"), [(0.95, 19), (0.9, 18), (0.5, 10), (0.05, 1)])
def test_the_threshold_is_the_order_statistic(tpr, threshold):
    found = NINETEEN.threshold(tpr)
    assert found == pytest.approx(threshold, rel=1e-8)  # ceil(20 tpr), although 20 * 0.95 is no 19 in floats


def test_p_values_count_the_scores_that_are_as_high():
    slow = [(1 + sum(c >= s for c in range(1, 20))) / 20 for s in (0, 1, 10, 10.5, 19, 20)]
    assert NINETEEN.p_values(np.array([0, 1, 10, 10.5, 19, 20])).tolist() == slow


def test_infinite_scores_are_beyond_all_others():
    assert NINETEEN.p_values(np.array([np.inf, -np.inf])).tolist() == [0.05, 1]


def test_decisions_and_p_values_agree_where_scores_are_tied():
    calibration = Calibration.of(np.repeat([1.0, 2, 3], 13))
    scores = np.array([0.5, 1, 2, 2.5, 3, 3.5])
    for tpr in (0.1, 1 / 3, 0.5, 0.9, 0.95):
        assert ((scores > calibration.threshold(tpr)) == (calibration.p_values(scores) <= 1 - tpr + 1e-12)).all()


@pytest.mark.parametrize("scale", [1e-12, 1, -1, -300])
@pytest.mark.parametrize("by_class", [False, True])
def test_rounding_changes_neither_decisions_nor_p_values(scale, by_class):
    """Of the calibration images themselves, whose scores the thresholds are."""
    scores = np.sort(scale * np.random.default_rng(0).gamma(2, size=99))
    predicted = np.arange(99) % 2 if by_class else None
    calibration = Calibration.of(scores, predicted)
    for factor in (1, 1 - 1e-10, 1 + 1e-10):
        again = scores * factor
        p_values = calibration.p_values(again, predicted, 2)
        assert (p_values == calibration.p_values(scores, predicted, 2)).all()
        for tpr in (0.5, 0.8, 0.95):
            thresholds = calibration.thresholds("ab", tpr)[predicted] if by_class else calibration.threshold(tpr)
            assert ((again > thresholds) == (scores > thresholds)).all()
            assert (again > thresholds).mean() <= 1 - tpr + 1e-12
    further = scores + 1e-8 * np.abs(scores)
    assert (calibration.p_values(further, predicted, 2) < calibration.p_values(scores, predicted, 2)).all()


def test_each_class_has_its_own_threshold():
    calibration = Calibration.of(np.arange(40.0), np.arange(40) % 2)
    assert calibration.thresholds(["even", "odd"], 0.9).tolist() == pytest.approx([36, 37], rel=1e-8)
    found = calibration.p_values(np.array([37.0, 37.0]), np.array([0, 1]), 2)
    assert found.tolist() == [2 / 21, 3 / 21]  # 38 is as high among the even ones, 37 and 39 among the odd ones


def test_the_interval_is_that_of_an_order_statistic():
    low, high = Calibration.of(np.arange(199.0)).interval(0.95)
    assert (low, high) == pytest.approx(tuple(beta.ppf([0.025, 0.975], 190, 10)))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: NINETEEN.threshold(0.99),
            "a TPR of 0.99 needs 99 calibration images, there are 19, which can vouch for 0.95 at",
        ),
        (lambda: NINETEEN.threshold(1), "a TPR must lie between 0 and 1, not 1"),
        (lambda: NINETEEN.threshold(float("nan")), "a TPR must lie between 0 and 1, not nan"),
        (lambda: NINETEEN.thresholds(["a"]), "nothing tells classes apart here"),
        (lambda: Calibration.of(np.array([])), "there are no calibration scores"),
        (lambda: Calibration.of(np.array([1, np.nan])), "1 of 2 calibration scores are NaN or infinite"),
        (
            lambda: Calibration.of(np.arange(30.0), np.arange(30) // 20).thresholds(["a", "b", "c"]),
            "needs 19 calibration images taken for each; 'b' has 10, 'c' has 0; lower the TPR",
        ),
    ],
)
def test_what_cannot_be_had_is_told(ask, message):
    with pytest.raises(OODError, match=message):
        ask()


def test_of_many_classes_with_too_few_images_the_first_are_named():
    calibration = Calibration.of(np.arange(40.0), np.arange(40) % 20)
    with pytest.raises(OODError, match=r"; 'a' has 2, 'b' has 2, 'c' has 2, 'd' has 2, 'e' has 2 and 15 more; lower"):
        calibration.thresholds("abcdefghijklmnopqrst", 0.9)


# ----------------------------------------------------------------------------------------------------- guarantees

SCORES = {
    "apart": np.random.default_rng(0).standard_cauchy(41) * 1e6,
    "tied": np.random.default_rng(0).integers(6, size=41).astype(float),
    "equal": np.zeros(41),
}
RATES = [Fraction(1, 3), Fraction(1, 2), Fraction(4, 5), Fraction(9, 10), Fraction(19, 20), Fraction(39, 40)]


def each_is_new(scores):
    """Return, for each score, the calibration by all others, and the score."""
    return [(Calibration.of(np.delete(scores, row)), scores[row : row + 1]) for row in range(len(scores))]


@pytest.mark.parametrize("kind", SCORES)
def test_a_new_image_has_a_p_value_up_to_a_level_with_that_probability_at_most(kind):
    ranks = [round(float(others.p_values(new)[0]) * 41) for others, new in each_is_new(SCORES[kind])]
    for level in range(1, 42):
        assert sum(rank <= level for rank in ranks) <= level
    assert kind != "apart" or sorted(ranks) == list(range(1, 42))  # without ties the bound is reached


@pytest.mark.parametrize("kind", SCORES)
def test_a_new_image_is_accepted_at_the_rate_or_more(kind):
    for tpr in RATES:
        accepted = sum(new[0] <= others.threshold(float(tpr)) for others, new in each_is_new(SCORES[kind]))
        assert accepted >= 41 * tpr
        assert kind != "apart" or accepted < 41 * tpr + 1  # and not merely because the threshold is far too high


@pytest.mark.parametrize("kind", SCORES)
def test_a_score_is_above_the_threshold_exactly_where_its_p_value_is_at_most_the_rest(kind):
    """In fractions: 1 - 0.9 is not 0.1 in floats."""
    for size in (1, 2, 3, 9, 19, 20, 39, 40):
        calibration = Calibration.of(SCORES[kind][:size])
        new = np.concatenate([SCORES[kind], [-np.inf, -1, 0.5, 2.5, 1e9, np.inf]])
        ranks = np.rint(calibration.p_values(new) * (size + 1)).astype(int).tolist()
        for tpr in (rate for rate in RATES if rate <= Fraction(size, size + 1)):
            by_p_value = [Fraction(rank, size + 1) <= 1 - tpr for rank in ranks]
            assert (new > calibration.threshold(float(tpr))).tolist() == by_p_value


def test_in_each_predicted_class_the_guarantees_are_those_of_its_images_alone():
    scores, predicted = np.random.default_rng(0).normal(size=200), np.arange(200) % 3
    calibration = Calibration.of(scores, predicted)
    alone = [Calibration.of(scores[predicted == label]) for label in range(3)]
    assert calibration.thresholds("abc", 0.9).tolist() == [of.threshold(0.9) for of in alone]
    new, classes = np.linspace(-3, 3, 60), np.arange(60) % 3
    found = calibration.p_values(new, classes, classes=3)
    assert found.tolist() == [alone[label].p_values(new[row : row + 1])[0] for row, label in enumerate(classes)]
    assert ((new > calibration.thresholds("abc", 0.9)[classes]) == (found <= 0.1)).all()


@pytest.mark.parametrize(("images", "highest"), [(0, 0.0), (1, 0.5), (8, 0.888), (18, 0.947), (19, 0.95), (76, 0.987)])
def test_the_highest_rate_is_one_that_so_many_images_guarantee_and_no_fewer(images, highest):
    assert highest_tpr(images) == highest
    assert least_images(highest) == images

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ood_core.errors import OODError
from ood_core.evaluation import drift_tests
from ood_core.evaluation.drift_tests import KS, LINEAR, POWER, Sequential, Window, kolmogorov_smirnov, verdict

Scores = NDArray[np.float64]
SHIFT = math.sqrt(2) * stats.norm.ppf(0.8)
"""Of normal scores, for an AUROC of 0.8."""


pytestmark = pytest.mark.filterwarnings("error")


def draw(size: int, shift: float = 0.0, seed: int = 0) -> Scores:
    return np.random.default_rng(seed).normal(shift, size=size)


def watched(calibration: Scores, scores: Scores, alpha: float = 0.01, seed: int = 0) -> Sequential:
    test = Sequential(calibration, alpha, seed)
    test.update(scores)
    return test


def slow_p_values(calibration: Scores, scores: Scores, seed: int) -> list[float]:
    """Each new score among all before it and itself; those equal to it, itself included, by a random share."""
    places = 1 - np.random.default_rng(seed).random(len(scores))
    found = []
    for row, (score, place) in enumerate(zip(scores, places, strict=True)):
        bag = [*calibration, *scores[: row + 1]]
        above, equal = sum(other > score for other in bag), sum(other == score for other in bag)
        found.append((above + place * equal) / len(bag))
    return found


def slow_capital(p_values: list[float]) -> float:
    """What a capital of 1 has become that is bet bit by bit, and then left where it is."""
    bets = [lambda p, e=e: 1 + e * (p - 0.5) for e in LINEAR] + [lambda p, k=k: k * p ** (k - 1) for k in POWER]
    kept = [1 / (1 + math.log(1 + images)) for images in range(len(p_values) + 1)]
    capital = kept[-1]
    for begin in range(len(p_values)):
        stake = (kept[begin] - kept[begin + 1]) / len(bets)
        capital += sum(stake * math.prod(bet(p) for p in p_values[begin:]) for bet in bets)
    return capital


# The test of two sets


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (216, 640), (997, 1000), (20_000, 30_000)])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_test_of_two_sets_is_that_of_scipy(sizes: tuple[int, int], shift: float) -> None:
    calibration, scores = draw(sizes[0]), draw(sizes[1], shift, seed=1)
    found, reference = kolmogorov_smirnov(calibration, scores), stats.ks_2samp(calibration, scores)
    assert (found.statistic, found.p_value) == (reference.statistic, reference.pvalue)
    assert (found.calibration, found.images) == sizes


def test_the_statistic_is_the_largest_gap_of_the_shares_with_ties_too() -> None:
    random = np.random.default_rng(0)
    calibration, scores = random.integers(5, size=40).astype(float), random.integers(6, size=30).astype(float)
    gaps = [abs(np.mean(calibration <= value) - np.mean(scores <= value)) for value in range(6)]
    found = kolmogorov_smirnov(calibration, scores)
    assert found.statistic == pytest.approx(max(gaps))
    assert gaps[int(found.at)] == max(gaps)


def test_equal_scores_everywhere_are_no_difference() -> None:
    found = kolmogorov_smirnov(np.ones(50), np.ones(7))
    assert (found.statistic, found.p_value, found.median) == (0.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("scores", "direction"),
    [(draw(500, 1.0, 1), "higher"), (draw(500, -1.0, 1), "lower"), (3 * draw(500, 0.0, 1), "differently")],
)
def test_the_direction_tells_a_shift_from_a_spread(scores: Scores, direction: str) -> None:
    assert kolmogorov_smirnov(draw(500), scores).direction == direction


def test_some_far_images_among_many_are_higher() -> None:
    scores = np.concatenate([draw(400, 0.0, 1), draw(100, 9.0, 2)])
    assert kolmogorov_smirnov(draw(500), scores).direction == "higher"


def test_the_median_is_placed_among_the_calibration_scores() -> None:
    found = kolmogorov_smirnov(np.arange(10.0), np.array([2.0, 7.0, 9.0]))
    assert found.median == 0.75  # 7 are below 7, 8 are not above it


# What is refused


def test_no_scores_cannot_be_compared() -> None:
    with pytest.raises(OODError, match=r"^there are no new scores to measure$"):
        kolmogorov_smirnov(draw(5), np.empty(0))
    for build in (Sequential, Window, lambda empty: kolmogorov_smirnov(empty, draw(5))):
        with pytest.raises(OODError, match=r"^there are no calibration scores to measure$"):
            build(np.empty(0))
    with pytest.raises(OODError, match=r"^there are no new scores to measure$"):
        Window(draw(5)).statistic()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_and_change_nothing(bad: float) -> None:
    scores = np.array([0.5, bad, 0.1])
    sequential, window = watched(draw(20), draw(10, seed=1)), Window(draw(20), size=4)
    window.update(draw(10, seed=1))
    latest = window.statistic()
    for refuse in (sequential.update, window.update, lambda new: kolmogorov_smirnov(draw(5), new)):
        with pytest.raises(OODError, match=r"^1 of 3 new scores are NaN or infinite, first in row 1$"):
            refuse(scores)
    with pytest.raises(OODError, match=r"^1 of 3 calibration scores are NaN or infinite, first in row 1$"):
        Sequential(scores)
    sequential.update(draw(10, seed=2))
    assert sequential.images == 20
    unharmed = watched(draw(20), np.concatenate([draw(10, seed=1), draw(10, seed=2)]))
    assert sequential.log_martingale == unharmed.log_martingale
    assert window.statistic() == latest


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_alpha_is_a_probability(alpha: float) -> None:
    with pytest.raises(OODError, match=f"^alpha must lie between 0 and 1, not {alpha:g}$"):
        Sequential(draw(5), alpha)


def test_a_window_holds_something() -> None:
    with pytest.raises(OODError, match=r"^a window holds at least one score, not 0$"):
        Window(draw(5), size=0)


# The test that may be looked at after every image


@pytest.mark.parametrize("ties", [False, True])
def test_the_evidence_is_that_of_the_definition(ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_tests, "CHUNK", 8)  # several merges
    calibration, scores = draw(30), draw(100, 0.5, seed=1)
    if ties:
        calibration, scores = calibration.round(), scores.round()
    capital = [slow_capital(slow_p_values(calibration, scores[:images], seed=3)) for images in (1, 2, 57, 100)]
    found = [watched(calibration, scores[:images], seed=3).log_martingale for images in (1, 2, 57, 100)]
    assert found == pytest.approx(np.log(capital).tolist(), rel=1e-10)


def test_every_bet_is_fair() -> None:
    p = (np.arange(1_000_000) + 0.5) / 1_000_000
    for payoff in [*(1 + e * (p - 0.5) for e in LINEAR), *(k * p ** (k - 1) for k in POWER)]:
        assert payoff.min() > 0
        assert payoff.mean() == pytest.approx(1, abs=1e-3)  # power bets have a pole


def test_few_streams_that_never_drift_raise_an_alarm() -> None:
    """400 streams that do not drift, looked at after each of 500 images, at alpha = 0.05: within 3 sigma of it."""
    alpha, streams = 0.05, 400
    alarms = 0
    for stream in range(streams):
        scores = draw(540, seed=stream)
        alarms += watched(scores[:40], scores[40:], alpha, seed=stream).alarm_at is not None
    assert 0 < alarms / streams <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)


def test_few_streams_of_tied_scores_raise_an_alarm() -> None:
    alpha, streams = 0.05, 200
    alarms = 0
    for stream in range(streams):
        scores = np.random.default_rng(stream).integers(3, size=320).astype(np.float64)
        alarms += watched(scores[:20], scores[20:], alpha, seed=stream).alarm_at is not None
    assert alarms / streams <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)


@pytest.mark.parametrize(("quiet", "needed"), [(0, 60), (2000, 120)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_in_either_direction_is_noticed_soon(quiet: int, needed: int, sign: int) -> None:
    """An AUROC of 0.8 against 216 calibration images: nine streams of ten have it within so many images."""
    delays = []
    for seed in range(20):
        scores = np.concatenate([draw(quiet, seed=100 + seed), draw(needed, sign * SHIFT, seed=200 + seed)])
        found = watched(draw(216, seed=seed), scores, alpha=0.01).alarm_at
        delays.append(math.inf if found is None else found - quiet)
    assert sum(0 < delay <= needed for delay in delays) >= 18


def test_few_images_far_out_among_many_are_noticed() -> None:
    """One image of ten is far out; nine streams of ten have it within 500 images."""
    found = []
    for seed in range(20):
        far = 4 * (np.random.default_rng(seed).random(500) < 0.1)
        found.append(watched(draw(1000, seed=100 + seed), draw(500, seed=200 + seed) + far).alarm_at)
    assert sum(alarm is not None for alarm in found) >= 18


def test_a_long_quiet_time_does_not_use_up_the_evidence() -> None:
    quiet = watched(draw(216), draw(100_000, seed=1))
    assert quiet.alarm_at is None
    assert quiet.log_martingale > -math.log(1 + math.log(100_001)) - 1e-9
    quiet.update(draw(150, SHIFT, seed=2))
    assert quiet.alarm_at is not None
    assert 100_000 < quiet.alarm_at <= 100_150


def test_how_a_stream_is_cut_changes_no_bit() -> None:
    calibration, scores = draw(50).round(1), draw(1500, 0.3, seed=1).round(1)
    whole, single, parts = Sequential(calibration), Sequential(calibration), Sequential(calibration)
    evidence = whole.update(scores)
    one_by_one = [single.update(np.array([score])) for score in scores]
    in_parts = [parts.update(part) for part in np.split(scores, [0, 1, 4, 255, 256, 257, 900, 900, 1412])]
    for other, path in ((single, one_by_one), (parts, in_parts)):
        assert (np.concatenate(path) == evidence).all()
        assert other.log_martingale == whole.log_martingale
        assert (other.highest, other.alarm_at, other.images) == (whole.highest, whole.alarm_at, 1500)
        other.update(scores)
    assert single.log_martingale == parts.log_martingale


def test_the_alarm_keeps_its_image_and_the_highest_evidence_stays() -> None:
    found = watched(draw(216), draw(100, 5.0, seed=1))
    first, highest = found.alarm_at, found.highest
    assert first is not None
    assert watched(draw(216), draw(100, 5.0, seed=1)[:first]).alarm_at == first
    assert watched(draw(216), draw(100, 5.0, seed=1)[: first - 1]).alarm_at is None
    found.update(draw(3000, seed=2))
    assert found.alarm_at == first
    assert found.highest >= max(highest, found.log_martingale)


def test_no_evidence_is_too_large_for_a_float() -> None:
    found = watched(draw(20_000), draw(5000, 9.0, seed=1))
    assert 1000 < found.log_martingale < math.inf


def test_equal_scores_everywhere_raise_no_alarm() -> None:
    for seed in range(5):
        assert watched(np.zeros(10), np.zeros(2000), seed=seed).alarm_at is None


def test_no_images_are_no_evidence() -> None:
    found = watched(draw(5), np.empty(0))
    assert (found.images, found.log_martingale, found.highest, found.alarm_at) == (0, 0.0, 0.0, None)


def test_equal_seeds_break_ties_alike_and_others_differently() -> None:
    first, again, other = (watched(np.zeros(10), np.zeros(100), seed=seed).log_martingale for seed in (0, 0, 1))
    assert first == again != other


def test_the_calibration_scores_of_the_caller_stay_as_they_are() -> None:
    calibration, scores = draw(300), draw(700, seed=1)
    before = calibration.copy(), scores.copy()
    watched(calibration, scores)
    kolmogorov_smirnov(calibration, scores)
    assert (calibration == before[0]).all()
    assert (scores == before[1]).all()


# The latest images


def test_a_window_tests_the_latest_scores_only() -> None:
    calibration, scores = draw(100), draw(77, 0.5, seed=1)
    window = Window(calibration, size=10)
    seen = 0
    for part in np.split(scores, [0, 3, 4, 9, 12, 12, 40, 50, 61]):
        window.update(part)
        seen += len(part)
        assert len(window) == min(seen, 10)
        if seen:
            assert window.statistic() == kolmogorov_smirnov(calibration, scores[max(0, seen - 10) : seen])


def test_a_window_forgets() -> None:
    window = Window(draw(500), size=200)
    window.update(draw(200, 3.0, seed=1))
    assert window.statistic().p_value < 1e-50
    window.update(draw(200, seed=2))
    assert window.statistic().p_value > 0.01


# What is said


def test_the_verdict_on_images_like_those_held_out() -> None:
    calibration, scores = draw(216), draw(640, seed=1)
    found = watched(calibration, scores)
    assert verdict(kolmogorov_smirnov(calibration, scores), found, 0.01) == (
        "no drift: 640 images score like the 216 held-out ID images "
        f"(KS 0.059, p = 0.6; sequential test: highest evidence {math.exp(found.highest):.2g} of 100; "
        "median at quantile 0.49 of theirs)"
    )


def test_the_verdict_on_images_that_score_higher_says_since_when() -> None:
    calibration, scores = draw(216), draw(640, 2.0, seed=1)
    found = watched(calibration, scores, alpha=0.001)
    said = verdict(kolmogorov_smirnov(calibration, scores), found, 0.001)
    assert said.startswith("drift: 640 images score higher (more OOD) than the 216 held-out ID images (KS 0.")
    assert f"; sequential test: evidence of 1000 reached at image {found.alarm_at};" in said
    assert "\n" not in said


def test_the_verdict_names_lower_and_other_scores() -> None:
    quiet = Sequential(draw(5))
    assert "drift: 2 images score lower (less OOD) than the 5 " in verdict(KS(1.0, 0.005, 0.0, 5, 2, 0.0), quiet, 0.01)
    assert "drift: 2 images score differently from the 5 " in verdict(KS(0.5, 0.005, 0.5, 5, 2, 0.0), quiet, 0.01)


def test_either_test_makes_a_drift() -> None:
    quiet, alarmed = watched(draw(5), draw(2)), watched(draw(500), draw(500, 9.0))
    like, unlike = KS(0.1, 0.9, 0.5, 5, 2, 0.0), KS(0.9, 0.0, 0.9, 5, 2, 0.0)
    assert verdict(like, quiet, 0.01).startswith("no drift: ")
    assert verdict(unlike, quiet, 0.01).startswith("drift: ")
    assert verdict(like, alarmed, 0.01).startswith("drift: ")
    assert verdict(KS(0.3, 0.04, 0.7, 5, 2, 0.0), quiet, 0.05).startswith("drift: ")


def test_the_verdict_counts_images_that_only_one_test_has_seen() -> None:
    said = verdict(KS(0.1, 0.0, 0.5, 5, 1, 0.0), watched(draw(5), draw(3)), 0.01)
    assert "drift: 1 image score" in said
    assert "p < 1e-300; sequential test of 3 images: highest evidence" in said


def test_exact_p_values_of_few_images_are_those_counted() -> None:
    """All six orders of two and two scores are equally likely; two of them have the largest gap."""
    assert kolmogorov_smirnov(np.array([1.0, 2.0]), np.array([3.0, 4.0])).p_value == pytest.approx(1 / 3)

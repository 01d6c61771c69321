"""The formulas of the papers written out plainly, and what float32 and saturation must not do to them."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Scorer
from ood_core.testing import ScorerCheck, scorer_checks
from ood_logits.calibration import TemperatureScaling
from ood_logits.confidence import DoctorAlpha, DoctorBeta, Margin, MaxLogit, Softmax
from ood_logits.energy import Energy, WeightedEnergy
from ood_logits.information import Entropy, Gen
from ood_logits.openmax import OpenMax
from ood_logits.posteriors import Igeood, KLMatching

UNFITTED = [Softmax(), MaxLogit(), Margin(), Entropy(), Gen(), Energy(), DoctorAlpha(), DoctorBeta()]
FITTED = [TemperatureScaling(), KLMatching(), OpenMax(), Igeood()]


def outputs(logits: Tensor, labels: Tensor | None = None, held_out: Outputs | None = None) -> Outputs:
    rows = len(logits)
    labels = torch.full((rows,), -1) if labels is None else labels
    return Outputs(torch.zeros(rows, 2), logits, labels, classes=logits.shape[1], held_out=held_out)


def score(scorer: Scorer, logits: Tensor) -> Tensor:
    return scorer.fit(outputs(logits))(outputs(logits))


def labelled(rows: int = 200, classes: int = 7, seed: int = 0, sure: float = 4.0) -> Outputs:
    """Logits of a classifier that is mostly right, with held-out ones beside them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (2 * rows,), generator=generator)
    logits = 2 * torch.randn(2 * rows, classes, generator=generator) + sure * torch.eye(classes)[labels]
    return outputs(logits[:rows], labels[:rows], outputs(logits[rows:], labels[rows:]))


def probabilities(logits: Tensor, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp(logits.double().numpy() / temperature)
    return weights / weights.sum(1, keepdims=True)


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------- nothing is fitted

PLAIN: dict[str, tuple[Scorer, Callable[[np.ndarray, np.ndarray], float]]] = {
    "softmax": (Softmax(), lambda z, p: math.log(1 - p.max())),
    "max-logit": (MaxLogit(), lambda z, p: -z.max()),
    "margin": (Margin(), lambda z, p: math.log(1 - (np.sort(p)[-1] - np.sort(p)[-2]))),
    "entropy": (Entropy(), lambda z, p: -sum(q * math.log(q) for q in p)),
    "gen": (Gen(top=4, gamma=0.3), lambda z, p: sum(q**0.3 * (1 - q) ** 0.3 for q in sorted(p)[-4:])),
    "gen of all": (Gen(), lambda z, p: sum((q * (1 - q)) ** 0.1 for q in p)),
    "energy": (Energy(), lambda z, p: -math.log(sum(math.exp(y) for y in z))),
    "doctor-alpha": (DoctorAlpha(), lambda z, p: math.log((1 - sum(p**2)) / sum(p**2))),
    "doctor-beta": (DoctorBeta(), lambda z, p: math.log((1 - p.max()) / p.max())),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("size", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_score_is_the_formula_of_the_paper(name: str, size: float, dtype: torch.dtype, logits: Tensor) -> None:
    scorer, formula = PLAIN[name]
    z = (size * logits).double()
    rows = zip(z.numpy(), probabilities(z), strict=True)
    expected = torch.tensor([formula(*row) for row in rows], dtype=torch.float64)
    # the plain formulas themselves lose digits of 1 - p
    tolerance = 1e-6 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(score(scorer, z.to(dtype)), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scorer", UNFITTED, ids=lambda scorer: scorer.name)
@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("size", [0.01, 1.0, 5.0, 200.0])
def test_float32_arithmetic_agrees_with_float64(scorer: Scorer, classes: int, size: float) -> None:
    z = size * torch.randn(300, classes, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(score(scorer, z), score(scorer, z.double()), rtol=4e-6, atol=5e-7)


@pytest.mark.parametrize("size", [0.01, 1.0, 5.0, 200.0])
@pytest.mark.parametrize("scorer", [Softmax(), Energy()], ids=lambda scorer: scorer.name)
def test_softmax_and_energy_agree_within_a_millionth_of_their_size(scorer: Scorer, size: float) -> None:
    z = size * torch.randn(300, 1000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(score(scorer, z), score(scorer, z.double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scorer", [Softmax(), Margin(), DoctorAlpha(), DoctorBeta()], ids=lambda scorer: scorer.name)
def test_images_whose_probability_rounds_to_one_are_still_ordered(scorer: Scorer) -> None:
    found = score(scorer, torch.tensor([[50.0, 0.0, -1e4], [60.0, 0.0, -1e4], [900.0, 0.0, -1e4]]))
    twice = math.log(2) if scorer.name in {"margin", "doctor-alpha"} else 0.0
    torch.testing.assert_close(found, torch.tensor([-50.0, -60.0, -900.0]).double() + twice, rtol=1e-7, atol=0)


def test_a_temperature_moves_the_odds_of_saturated_images_as_well() -> None:
    found = score(DoctorBeta(temperature=0.25), torch.tensor([[50.0, 0.0, 0.0], [5.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, math.log(2) - torch.tensor([200.0, 20.0]).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("scorer", UNFITTED, ids=lambda scorer: scorer.name)
def test_equally_probable_classes_are_no_special_case(scorer: Scorer) -> None:
    exact = torch.tensor([[1.0, 1.0, -200.0], [1.0, 1.0, 0.5]])
    beside = exact - torch.tensor([0.0, 1e-6, 0.0])
    torch.testing.assert_close(score(scorer, exact), score(scorer, beside), rtol=1e-5, atol=1e-5)


def test_softmax_is_right_where_two_classes_are_equally_probable() -> None:
    found = score(Softmax(), torch.tensor([[1.0, 1.0, -200.0]]))
    torch.testing.assert_close(found, torch.tensor([0.5], dtype=torch.float64).log())


def test_entropy_of_flat_logits_is_the_log_of_the_number_of_classes() -> None:
    assert score(Entropy(), torch.full((1, 10), 1e4)).item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("gap", [40.0, 300.0])
def test_entropy_keeps_its_precision_where_the_probability_rounds_to_one(gap: float) -> None:
    # two classes: H = log(1 + q) + gap * q / (1 + q) with q = exp(-gap), so H = (1 + gap) * q to first order
    found = score(Entropy(), torch.tensor([[gap, 0.0]])).item()
    assert found == pytest.approx((1 + gap) * math.exp(-gap), rel=1e-6, abs=0)


def test_gen_counts_probabilities_that_float32_cannot_hold() -> None:
    found = score(Gen(), torch.tensor([[0.0, -300.0]])).item()
    assert found == pytest.approx(2 * math.exp(-30.0), rel=1e-5, abs=0)


def test_gen_ranks_as_openood_writes_it(logits: Tensor) -> None:
    p = np.sort(probabilities(logits), 1)[:, -5:]
    confidence = -(p**0.1 * (1 - p) ** 0.1).sum(1)
    torch.testing.assert_close(score(Gen(top=5), logits), torch.from_numpy(-confidence), rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy_is_the_free_energy(logits: Tensor, temperature: float) -> None:
    expected = -temperature * (logits.double() / temperature).exp().sum(1).log()
    torch.testing.assert_close(score(Energy(temperature=temperature), logits), expected, rtol=1e-6, atol=1e-6)


def test_energy_at_low_temperature_is_minus_the_largest_logit(logits: Tensor) -> None:
    torch.testing.assert_close(score(Energy(temperature=1e-6), logits), score(MaxLogit(), logits), rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.7, 1000.0])
def test_doctor_takes_its_temperature_into_account(logits: Tensor, temperature: float) -> None:
    p = probabilities(logits, temperature)
    g = (p**2).sum(1)
    alpha, beta = np.log((1 - g) / g), np.log((1 - p.max(1)) / p.max(1))
    found = score(DoctorAlpha(temperature=temperature), logits)
    torch.testing.assert_close(found, torch.from_numpy(alpha), rtol=1e-5, atol=1e-6)
    found = score(DoctorBeta(temperature=temperature), logits)
    torch.testing.assert_close(found, torch.from_numpy(beta), rtol=1e-5, atol=1e-6)


def test_doctor_beta_ranks_as_softmax_does_and_alpha_does_not() -> None:
    z = torch.tensor([[2.0, 1.9, -9.0, -9.0], [2.0, 0.9, 0.9, 0.9]])
    for scorer, first_is_higher in ((Softmax(), False), (DoctorBeta(), False), (DoctorAlpha(), False)):
        first, second = score(scorer, z).tolist()
        assert (first > second) == first_is_higher
    first, second = score(Margin(), z).tolist()
    assert first > second


@pytest.mark.parametrize("scorer", UNFITTED, ids=lambda scorer: scorer.name)
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_saturated_logits_give_finite_scores(scorer: Scorer, size: float) -> None:
    assert score(scorer, torch.tensor([[size, -size, 0.0], [-size, -size, -size]])).isfinite().all()


@pytest.mark.parametrize(
    "scorer", [Softmax(), Margin(), Entropy(), Gen(), DoctorAlpha(), DoctorBeta()], ids=lambda scorer: scorer.name
)
def test_a_single_class_is_as_certain_everywhere(scorer: Scorer) -> None:
    found = score(scorer, torch.tensor([[-3.0], [0.0], [40.0]]))
    assert found.isfinite().all()
    assert len(found.unique()) == 1


@pytest.mark.parametrize("scorer", UNFITTED, ids=lambda scorer: scorer.name)
def test_blocks_do_not_show(scorer: Scorer) -> None:
    z = 3 * torch.randn(40, 30_000, generator=torch.Generator().manual_seed(0))  # 8 rows a block
    z[11], z[12] = 0.0, torch.nn.functional.one_hot(torch.tensor(5), 30_000) * 1e4
    one_by_one = torch.cat([score(scorer, row[None]) for row in z])
    torch.testing.assert_close(score(scorer, z), one_by_one, rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------ temperature scaling


def cross_entropy(found: Outputs, temperature: float) -> float:
    p = probabilities(found.logits, temperature)
    return float(-np.log(p[np.arange(len(p)), found.labels.numpy()]).mean())


@pytest.mark.parametrize("sure", [1.0, 4.0, 12.0])
def test_the_temperature_is_the_one_of_least_cross_entropy_on_held_out_images(sure: float) -> None:
    train = labelled(sure=sure)
    assert train.held_out is not None
    temperature = TemperatureScaling().fit(train).temperature
    least = min(cross_entropy(train.held_out, t) for t in np.geomspace(0.05, 50, 2000))
    assert cross_entropy(train.held_out, temperature) <= least + 1e-12


def test_temperature_scaling_undoes_a_scaling_of_the_logits() -> None:
    train = labelled()
    assert train.held_out is not None
    usual = TemperatureScaling().fit(train).temperature
    scaled = outputs(train.logits, train.labels, outputs(37 * train.held_out.logits, train.held_out.labels))
    assert TemperatureScaling().fit(scaled).temperature == pytest.approx(37 * usual, rel=1e-6)


def test_the_calibrated_score_is_the_softmax_score_at_the_temperature() -> None:
    train = labelled()
    fitted = TemperatureScaling().fit(train)
    expected = np.log(1 - probabilities(train.logits, fitted.temperature).max(1))
    torch.testing.assert_close(fitted(train), torch.from_numpy(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_labels_that_are_all_right_or_all_wrong_have_no_best_temperature(
    sign: float, caplog: pytest.LogCaptureFixture
) -> None:
    labels = torch.arange(6) % 3
    found = outputs(sign * torch.eye(3)[labels], labels)
    with caplog.at_level(logging.WARNING):
        fitted = TemperatureScaling().fit(outputs(found.logits, labels, held_out=found))
    assert fitted.temperature < 0.1 if sign > 0 else fitted.temperature > 1e5
    assert "no temperature is best" in caplog.text
    assert fitted(found).isfinite().all()


def test_flat_logits_leave_the_temperature_at_one() -> None:
    flat = outputs(torch.zeros(4, 3), torch.arange(4) % 3)
    assert TemperatureScaling().fit(outputs(torch.zeros(4, 3), held_out=flat)).temperature == 1


def test_held_out_images_without_labels_are_refused() -> None:
    train = outputs(torch.zeros(4, 3), held_out=outputs(torch.zeros(4, 3)))
    with pytest.raises(OODError, match=r"^scorer 'temperature-scaling' needs labels of the held-out ID images$"):
        TemperatureScaling().fit(train)


# ---------------------------------------------------------------------------------------------------- posteriors


def test_kl_matching_is_the_divergence_from_the_nearest_mean_posterior() -> None:
    train, test = labelled(), labelled(seed=1)
    assert train.held_out is not None
    p, q = probabilities(train.held_out.logits), probabilities(test.logits)
    templates = [p[p.argmax(1) == k].mean(0) for k in range(7)]
    expected = [min(sum(row * np.log(row / d)) for d in templates) for row in q]
    torch.testing.assert_close(
        KLMatching().fit(train)(test), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7
    )


def test_kl_matching_may_be_fitted_to_training_images() -> None:
    train, test = labelled(), labelled(seed=1)
    scorer = KLMatching(fit_to="train")
    expected = KLMatching().fit(replace(train, held_out=train))(test)
    torch.testing.assert_close(scorer.fit(replace(train, held_out=None))(test), expected, rtol=1e-12, atol=0)
    assert scorer.all_needs() == {"logits"}
    assert KLMatching().all_needs() == {"logits", "held_out"}


def test_kl_matching_leaves_out_classes_that_no_held_out_image_is_predicted_as() -> None:
    held_out = torch.tensor([[3.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 4.0, 0.0]])
    fitted = KLMatching().fit(outputs(held_out, held_out=outputs(held_out)))
    assert fitted.log_templates.shape == (2, 3)
    third, first = fitted(outputs(torch.tensor([[0.0, 0.0, 9.0], [3.0, 0.0, 0.0]]))).tolist()
    assert third > 1 > first


def test_igeood_is_minus_the_mean_distance_on_the_sphere_of_square_roots() -> None:
    train, test = labelled(), labelled(seed=1)
    means = torch.stack([train.logits[train.labels == c].double().mean(0) for c in range(7)])
    p, q = probabilities(test.logits, 2.0), probabilities(means, 2.0)
    expected = [-np.mean([2 * math.acos(min(1.0, sum(np.sqrt(row * c)))) for c in q]) for row in p]
    fitted = Igeood(temperature=2.0).fit(train)
    torch.testing.assert_close(fitted(test), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0)


def test_igeood_needs_labels() -> None:
    with pytest.raises(OODError, match=r"^scorer 'igeood' needs labels of the training images$"):
        Igeood().fit(outputs(torch.zeros(4, 3)))


# ------------------------------------------------------------------------------------------------------- openmax


def slow_openmax(train: Outputs, test: Outputs, alpha: int, tail: int) -> list[float]:
    """Algorithms 1 and 2 of the paper, with the distance and the weights of its code, one image at a time."""
    from scipy.spatial.distance import cosine, euclidean
    from scipy.stats import weibull_min

    z, y = train.logits.double().numpy(), train.labels.numpy()
    models = []
    for c in range(z.shape[1]):
        own = z[(y == c) & (z.argmax(1) == c)]
        mean = own.mean(0)
        distances = np.sort([euclidean(row, mean) / 200 + cosine(row, mean) for row in own])[-tail:]
        moved = distances - distances[0] + 1e4
        shape, _, scale = weibull_min.fit(moved, 1.28e4 / moved.std(), floc=0, scale=1e4)
        models.append((mean, distances[0], shape, scale))
    found = []
    for row in test.logits.double().numpy():
        known, unknown = row.copy(), 0.0
        for rank, c in enumerate(np.argsort(-row)[:alpha]):
            mean, smallest, shape, scale = models[c]
            moved = euclidean(row, mean) / 200 + cosine(row, mean) - smallest + 1e4
            weight = weibull_min.cdf(moved, shape, scale=scale) * (alpha - rank) / alpha
            lost = max(row[c], 0) * weight
            known[c] -= lost
            unknown += lost
        found.append(unknown - math.log(sum(np.exp(known))))
    return found


@pytest.mark.parametrize(("alpha", "tail"), [(3, 20), (7, 8)])
def test_openmax_is_the_algorithm_of_the_paper(alpha: int, tail: int) -> None:
    train, test = labelled(rows=400, sure=6.0), labelled(rows=60, seed=1, sure=3.0)
    found = OpenMax(alpha=alpha, tail=tail).fit(train)(test)
    expected = torch.tensor(slow_openmax(train, test, alpha, tail), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # scipy searches less precisely


def test_the_tails_have_the_greatest_likelihood() -> None:
    from ood_logits import weibull

    tails = torch.rand(5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = weibull.fit(tails)

    def log_likelihood(shape: Tensor, log_scale: Tensor) -> Tensor:
        y = ((tails - tails.amin(1, keepdim=True)) / 1e4).log1p() - log_scale[:, None]
        return (shape.log()[:, None] + shape[:, None] * y - (shape[:, None] * y).exp()).sum(1)

    best = log_likelihood(found.shape, found.log_scale)
    for factor in (0.999, 1.001):
        assert (log_likelihood(factor * found.shape, found.log_scale) < best).all()
        assert (log_likelihood(found.shape, factor * found.log_scale) < best).all()


def test_openmax_hands_nothing_of_negative_logits_over() -> None:
    train = labelled(sure=6.0)
    row = torch.full((1, 7), -3.0)
    found = OpenMax().fit(train)(outputs(row)).item()
    assert found == pytest.approx(-row.double().logsumexp(1).item())


def test_a_class_without_a_correctly_classified_image_is_always_unknown(caplog: pytest.LogCaptureFixture) -> None:
    train = labelled(sure=8.0)
    kept = train.labels != 2
    with caplog.at_level(logging.WARNING):
        fitted = OpenMax(alpha=1).fit(outputs(train.logits[kept], train.labels[kept]))
    assert "no training image of 1 classes" in caplog.text
    row = torch.tensor([[0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    assert fitted(outputs(row)).item() == pytest.approx(5 - math.log(7))


def test_tails_that_do_not_vary_are_steps() -> None:
    rows = 5 * torch.eye(3)[torch.arange(9) % 3]
    fitted = OpenMax(alpha=1).fit(outputs(rows, torch.arange(9) % 3))
    near, far = fitted(outputs(torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.5, 0.0]]))).tolist()
    assert near < far == pytest.approx(5 - math.log(2 + math.exp(0.5)))


def test_openmax_needs_an_image_that_is_classified_correctly() -> None:
    message = r"^scorer 'openmax' needs training images that are classified correctly$"
    with pytest.raises(OODError, match=message):
        OpenMax().fit(outputs(torch.eye(3), torch.tensor([1, 2, 0])))


# --------------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("check", scorer_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "scorer",
    [
        Gen(gamma=0.5, top=2),
        Energy(temperature=5.0),
        DoctorAlpha(temperature=100.0),
        DoctorBeta(temperature=0.5),
        Igeood(temperature=10.0),
        OpenMax(alpha=2, tail=3),
    ],
    ids=lambda scorer: scorer.name,
)
def test_other_options_keep_the_contract(scorer: Scorer, check: ScorerCheck) -> None:
    check(scorer)


def test_weighted_energy_counts_each_class_by_its_weight(logits: Tensor) -> None:
    weights = (0.5, 2.0, -3.0, 1.0, 0.0, 1.0, 4.0)
    positive = torch.tensor(weights).double().clamp(min=0)
    expected = -(positive * logits.double().exp()).sum(1).log()
    torch.testing.assert_close(score(WeightedEnergy(weights=weights), logits), expected)
    torch.testing.assert_close(score(WeightedEnergy(), logits), -logits.double().logsumexp(1))
    large = score(WeightedEnergy(weights=weights), 1e4 * logits)  # exp() alone would be infinite
    assert large.isfinite().all()


def test_wrong_weights_are_refused(logits: Tensor) -> None:
    with pytest.raises(OODError, match=r"^scorer 'weighted-energy' needs 7 weights, one a class, not 2$"):
        score(WeightedEnergy(weights=(1.0, 2.0)), logits)
    with pytest.raises(ValueError, match=r"^at least one of the weights must be positive$"):
        WeightedEnergy(weights=(0.0, -1.0))

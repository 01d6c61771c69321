import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest as SklearnForest
from sklearn.mixture import GaussianMixture
from sklearn.svm import OneClassSVM
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Scorer
from ood_density.boundary import OneClassSvm
from ood_density.forest import IsolationForest
from ood_density.mixture import Covariance, Mixture

SCORERS = [Mixture(components=2), OneClassSvm(), IsolationForest(trees=10)]


def outputs(embeddings: Tensor) -> Outputs:
    rows = len(embeddings)
    return Outputs(embeddings, torch.zeros(rows, 0), torch.full((rows,), -1), classes=3)


def clusters(rows: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Three elongated clusters far from the origin, in 5 dimensions."""
    draw = np.random.default_rng(seed)
    centres = 20 + 3 * np.random.default_rng(99).normal(size=(3, 5))
    found = centres[np.arange(rows) % 3] + draw.normal(size=(rows, 5)) * [0.2, 0.5, 1, 1.5, 2]
    return torch.from_numpy(scale * found).float()


# ---------------------------------------------------------------------------------------------------- mixture


def slow_surprise(row: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: list[np.ndarray]) -> float:
    density = 0.0
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        gap = row - mean
        square = gap @ np.linalg.inv(covariance) @ gap
        density += weight * np.exp(-square / 2) / np.sqrt(np.linalg.det(2 * np.pi * covariance))
    return -np.log(density)


def square_matrices(model: GaussianMixture) -> list[np.ndarray]:
    found = model.covariances_
    match model.covariance_type:
        case "full":
            return list(found)
        case "tied":
            return [found] * len(model.means_)
        case "diag":
            return [np.diag(part) for part in found]
    return [part * np.eye(5) for part in found]


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_gmm_is_the_density_that_scikit_learn_finds(covariance: Covariance, scale: float) -> None:
    train, test = clusters(150, scale=scale), clusters(40, seed=1, scale=scale)
    variance = train.double().var(0, correction=0).mean().item()
    model = GaussianMixture(3, covariance_type=covariance, random_state=0, reg_covar=1e-6 * variance)
    model.fit(train.double().numpy())
    found = Mixture(components=3, covariance=covariance).fit(outputs(train))(outputs(test))
    expected = torch.from_numpy(-model.score_samples(test.double().numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    slow = [slow_surprise(row, model.weights_, model.means_, square_matrices(model)) for row in test.double().numpy()]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), rtol=1e-7, atol=1e-7)


def test_gmm_of_tied_components_ranks_like_openood() -> None:
    # OpenOOD: log sum_k weight_k exp(-1/2 (f - m_k)' P (f - m_k)), without the normaliser that all components share
    train, test = clusters(150), clusters(40, seed=1)
    found = Mixture(components=3).fit(outputs(train))(outputs(test))
    model = GaussianMixture(3, covariance_type="tied", random_state=0).fit(train.double().numpy())
    gaps = test.double().numpy()[:, None] - model.means_
    terms = np.exp(-0.5 * np.einsum("nkd,de,nke->nk", gaps, model.precisions_, gaps))
    confidence = torch.from_numpy(np.log(terms @ model.weights_))
    differences = found + confidence  # constant
    assert differences.max() - differences.min() < 1e-3  # scikit-learn's regularisation is relative here


def test_gmm_of_one_component_is_the_log_likelihood_of_a_gaussian() -> None:
    train, test = clusters(150), clusters(40, seed=1)
    covariance = torch.cov(train.double().T, correction=0)
    gaussian = torch.distributions.MultivariateNormal(train.double().mean(0), covariance)
    found = Mixture(components=1).fit(outputs(train))(outputs(test))
    torch.testing.assert_close(found, -gaussian.log_prob(test.double()), rtol=1e-4, atol=1e-4)


def test_gmm_of_the_farthest_embeddings_is_finite_and_in_order() -> None:
    found = Mixture(components=3).fit(outputs(clusters(150)))(outputs(torch.tensor([[1e3] * 5, [1e9] * 5, [1e15] * 5])))
    assert found.isfinite().all()
    assert (found.diff() > 0).all()


def test_gmm_needs_as_many_images_as_components() -> None:
    message = r"^scorer 'gmm': 10 components need at least as many training images, there are 9$"
    with pytest.raises(OODError, match=message):
        Mixture().fit(outputs(clusters(9)))


def test_gmm_that_does_not_converge_says_so(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GaussianMixture.__init__.__kwdefaults__, "max_iter", 1)
    with caplog.at_level(logging.WARNING):
        Mixture(components=3).fit(outputs(clusters(150)))
    assert caplog.messages == ["gmm: not converged after 1 rounds"]
    assert not recwarn.list


# --------------------------------------------------------------------------------------------------- boundary


@pytest.mark.parametrize(("nu", "gamma"), [(0.5, None), (0.1, None), (0.2, 0.3)])
def test_one_class_svm_is_the_log_of_what_scikit_learn_finds(nu: float, gamma: float | None) -> None:
    train, test = clusters(150), clusters(40, seed=1)
    squares = torch.cdist(train.double(), train.double()).square()
    model = OneClassSVM(nu=nu, gamma=gamma or (2 / squares.mean()).item()).fit(train.double().numpy())
    found = OneClassSvm(nu=nu, gamma=gamma).fit(outputs(train))(outputs(test))
    sums = torch.from_numpy(model.score_samples(test.double().numpy()))
    torch.testing.assert_close(found, np.log(model.offset_[0]) - sums.log(), rtol=1e-6, atol=1e-6)
    assert ((found < 0) == torch.from_numpy(model.predict(test.double().numpy()) > 0)).all()


def test_one_class_svm_bounds_the_share_of_training_images_outside() -> None:
    train = outputs(clusters(300))
    outside = (OneClassSvm(nu=0.1).fit(train)(train) > 1e-6).double().mean().item()
    assert 0.05 < outside <= 0.1


def test_one_class_svm_chooses_gamma_as_scikit_learn_does_for_centred_data() -> None:
    train = clusters(150).double()
    train -= train.mean(0)
    model = OneClassSVM(gamma="scale").fit(train.numpy())
    score = OneClassSvm().fit(outputs(train))
    assert score.gamma == pytest.approx(model._gamma, rel=1e-9)
    assert OneClassSvm().fit(outputs(train + 100)).gamma == pytest.approx(score.gamma, rel=1e-9)


def test_one_class_svm_orders_embeddings_whose_kernel_is_zero() -> None:
    found = OneClassSvm().fit(outputs(clusters(150)))(outputs(torch.tensor([[1e3] * 5, [1e4] * 5, [1e15] * 5])))
    assert found.isfinite().all()
    assert (found.diff() > 0).all()


# ----------------------------------------------------------------------------------------------------- forest


@pytest.mark.parametrize("samples", [256, 32, 2])
def test_isolation_forest_is_that_of_scikit_learn(samples: int) -> None:
    train, test = clusters(300), torch.cat([clusters(100, seed=1), 10 * clusters(20, seed=2)])
    model = SklearnForest(n_estimators=20, max_samples=samples, random_state=0)
    trees = 20 if samples * 20 >= 300 else 200  # so that all training images are drawn, as scikit-learn does
    model.set_params(n_estimators=trees).fit(train.numpy())
    found = IsolationForest(trees=trees, samples=samples).fit(outputs(train))(outputs(test))
    torch.testing.assert_close(found, torch.from_numpy(-model.score_samples(test.numpy())), rtol=1e-9, atol=0)


def test_isolation_forest_of_one_image_is_the_same_everywhere() -> None:
    found = IsolationForest().fit(outputs(clusters(1)))(outputs(clusters(20)))
    assert len(found.unique()) == 1
    assert found.isfinite().all()


# ------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_seed_decides_and_the_global_generator_does_not(scorer: Scorer) -> None:
    train, test = outputs(clusters(400)), outputs(clusters(40, seed=1))
    torch.manual_seed(1)
    expected = scorer.fit(train)(test)
    torch.manual_seed(2)
    np.random.seed(3)
    assert torch.equal(scorer.fit(train)(test), expected)


@pytest.mark.parametrize(
    ("scorer", "other", "most"),
    [
        (Mixture(components=2, sample=100), Mixture(components=2, sample=100, seed=1), 100),
        (OneClassSvm(sample=100), OneClassSvm(sample=100, seed=1), 100),
        (IsolationForest(trees=10, samples=10), IsolationForest(trees=10, samples=10, seed=1), 100),
    ],
)
def test_many_images_are_sampled_and_that_is_logged(
    scorer: Scorer, other: Scorer, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = outputs(clusters(400)), outputs(clusters(40, seed=1))
    with caplog.at_level(logging.INFO):
        found = scorer.fit(train)(test)
    assert caplog.messages == [f"{scorer.name} is fitted to a random {most} of 400 training images"]
    assert not torch.equal(other.fit(train)(test), found)


@pytest.mark.parametrize("scorer", SCORERS)
def test_embeddings_that_are_not_finite_are_refused(scorer: Scorer) -> None:
    embeddings = clusters(20)
    embeddings[3, 2] = torch.inf
    with pytest.raises(OODError, match=r"^1 of 20 training embeddings hold NaN or infinite values$"):
        scorer.fit(outputs(embeddings))


@pytest.mark.parametrize("scorer", SCORERS)
def test_no_training_image_is_refused(scorer: Scorer) -> None:
    with pytest.raises(OODError, match=rf"^scorer '{scorer.name}' needs training images, there is none$"):
        scorer.fit(outputs(torch.zeros(0, 5)))


# ------------------------------------------------------------------------------------ formulas, slowly


def test_one_class_svm_is_the_formula_of_the_paper() -> None:
    train, test = clusters(60), clusters(10, seed=1)
    score = OneClassSvm(gamma=0.1).fit(outputs(train))
    vectors, weights = score.vectors + score.centre, score.log_weights.exp()
    for row, found in zip(test.double(), score(outputs(test)), strict=True):
        kernel = sum(a * torch.exp(-0.1 * (row - v).square().sum()) for a, v in zip(weights, vectors, strict=True))
        assert found.item() == pytest.approx((score.log_offset - kernel.log()).item(), rel=1e-9)
    assert weights.sum().item() == pytest.approx(0.5 * 60)  # sum of alpha, scaled to nu N as libsvm does


def test_isolation_forest_is_the_formula_of_the_paper() -> None:
    train, test = clusters(50), clusters(5, seed=1)
    score = IsolationForest(trees=7, samples=20).fit(outputs(train))
    expected_depth = 2 * (np.log(19) + np.euler_gamma) - 2 * 19 / 20
    for row, found in zip(test, score(outputs(test)), strict=True):
        depths = []
        for root in score.roots.tolist():
            node, depth = root, 0
            while score.children[node, 0] != node:
                goes_right = int(row[score.features[node]] > score.thresholds[node])
                node, depth = int(score.children[node, goes_right]), depth + 1
            assert score.lengths[node] >= depth
            depths.append(score.lengths[node].item())
        assert found.item() == pytest.approx(2 ** (-np.mean(depths) / expected_depth), rel=1e-12)


def test_a_forest_is_descended_no_further_than_it_has_nodes():
    train = clusters(1)
    score = IsolationForest(trees=7, samples=20).fit(outputs(train))
    deep = replace(score, depth=10**18)  # as a saved detector may say
    assert torch.equal(score(outputs(train)), deep(outputs(train)))

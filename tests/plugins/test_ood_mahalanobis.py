from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS, LedoitWolf
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Scorer
from ood_core.neighbors import kmeans, nearest
from ood_core.statistics import Estimator
from ood_mahalanobis.classes import ClassDistance, ClassMahalanobis
from ood_mahalanobis.groups import Groups
from ood_mahalanobis.scorers import GlobalMahalanobis, Mahalanobis, RelativeMahalanobis
from ood_mahalanobis.ssd import SSD, FewShotSSD

CLASSES, DIMENSION = 5, 8


def gaussian(rows: int, dimension: int = DIMENSION, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % CLASSES
    mixing = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(rows, dimension, generator=generator) @ mixing
    embeddings = noise + 3 * labels[:, None] + 5
    return Outputs(embeddings, torch.zeros(rows, 0), labels, CLASSES)


def unit(embeddings: Tensor) -> Tensor:
    return embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)


def slow_tied(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """The formula of the paper, with an explicit (pseudo-)inverse and a loop over classes."""
    means = torch.stack([train[labels == index].mean(0) for index in labels.unique()])
    residuals = train - means[torch.searchsorted(labels.unique(), labels)]
    return slow_distance(residuals.T @ residuals / len(train), means, test)


def slow_distance(covariance: Tensor, means: Tensor, test: Tensor) -> Tensor:
    precision = torch.from_numpy(np.linalg.pinv(covariance.numpy(), rcond=1e-10, hermitian=True))
    return torch.stack([((test - mean) @ precision * (test - mean)).sum(1) for mean in means]).amin(0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rows", [400, 23])
@pytest.mark.parametrize("dimension", [DIMENSION, 40])
def test_tied_distance_equals_the_formula(normalize: bool, rows: int, dimension: int) -> None:
    train, test = gaussian(rows, dimension), gaussian(30, dimension, seed=1)
    prepare = unit if normalize else Tensor.double
    expected = slow_tied(prepare(train.embeddings), train.labels, prepare(test.embeddings))
    found = Mahalanobis(normalize=normalize).fit(train)(test)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rows", [400, 23])
@pytest.mark.parametrize("dimension", [DIMENSION, 40])
def test_global_distance_equals_the_formula(normalize: bool, rows: int, dimension: int) -> None:
    train, test = gaussian(rows, dimension), gaussian(30, dimension, seed=1)
    prepare = unit if normalize else Tensor.double
    known = prepare(train.embeddings)
    covariance = torch.from_numpy(np.cov(known.T.numpy(), bias=True))
    expected = slow_distance(covariance, known.mean(0)[None], prepare(test.embeddings))
    found = GlobalMahalanobis(normalize=normalize).fit(train)(test)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_full_rank_distance_equals_the_one_with_a_plain_inverse() -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    known, asked = train.embeddings.double(), test.embeddings.double()
    precision = torch.from_numpy(np.linalg.inv(np.cov(known.T.numpy(), bias=True)))
    gaps = asked - known.mean(0)
    found = GlobalMahalanobis(normalize=False).fit(train)(test)
    torch.testing.assert_close(found, (gaps @ precision * gaps).sum(1), rtol=1e-7, atol=0)


def test_one_class_makes_the_tied_distance_the_global_one() -> None:
    one = Outputs(gaussian(200).embeddings, torch.zeros(200, 0), torch.zeros(200, dtype=torch.int64), 1)
    test = gaussian(30, seed=1)
    found, expected = Mahalanobis().fit(one)(test), GlobalMahalanobis(normalize=False).fit(one)(test)
    torch.testing.assert_close(found, expected)


def test_the_direction_that_layer_normalisation_removes_has_no_say() -> None:
    train, test = gaussian(2000, 32), gaussian(200, 32, seed=1)
    normed = [torch.nn.functional.layer_norm(outputs.embeddings, (32,)) for outputs in (train, test)]
    train, test = (
        Outputs(embeddings, outputs.logits, outputs.labels, CLASSES)
        for embeddings, outputs in zip(normed, (train, test), strict=True)
    )
    score = Mahalanobis().fit(train)
    assert score.rank == 31
    moved = Outputs(test.embeddings + 1e-3, test.logits, test.labels, CLASSES)  # along the direction without variance
    torch.testing.assert_close(score(moved), score(test), rtol=1e-3, atol=0)


def test_a_class_without_rows_attracts_nothing() -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    wider = Outputs(train.embeddings, train.logits, train.labels, CLASSES + 3)
    torch.testing.assert_close(Mahalanobis().fit(wider)(test), Mahalanobis().fit(train)(test))
    assert len(Mahalanobis().fit(wider).means) == CLASSES


@pytest.mark.parametrize("scorer", [Mahalanobis, GlobalMahalanobis])
def test_the_cutoff_leaves_out_directions_with_little_variance(scorer: type[Mahalanobis | GlobalMahalanobis]) -> None:
    train = gaussian(400)
    shrunk = Outputs(train.embeddings * torch.tensor([1e-3] + [1.0] * 7), train.logits, train.labels, CLASSES)
    assert scorer(normalize=False).fit(shrunk).rank == 8
    assert scorer(normalize=False, cutoff=1e-4).fit(shrunk).rank < 8


@pytest.mark.parametrize(
    "scorer", [Mahalanobis(), GlobalMahalanobis(), ClassMahalanobis(), RelativeMahalanobis(), SSD()]
)
def test_constant_embeddings_give_finite_scores_and_a_warning(scorer: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    constant = Outputs(torch.full((20, 3), 0.7), torch.zeros(20, 0), torch.arange(20) % 2, 2)
    assert scorer.fit(constant)(gaussian(9, 3)).isfinite().all()
    assert any("do not vary" in message for message in caplog.messages)


def test_one_row_a_class_makes_the_distance_euclidean() -> None:
    train, test = gaussian(CLASSES), gaussian(30, seed=1)
    expected = torch.cdist(test.embeddings.double(), train.embeddings.double()).square().amin(1)
    torch.testing.assert_close(Mahalanobis().fit(train)(test), expected)


def test_labels_that_were_withheld_are_refused() -> None:
    with pytest.raises(OODError, match=r"^labels of training data must lie in 0\.\.4, there is -1$"):
        Mahalanobis().fit(gaussian(20).without_labels())


@pytest.mark.parametrize("estimator", ["ledoit-wolf", "oas"])
def test_a_shrunk_covariance_is_that_of_scikit_learn(estimator: Estimator) -> None:
    train, test = gaussian(40, 16), gaussian(30, 16, seed=1)
    known = train.embeddings.double()
    means = torch.stack([known[train.labels == index].mean(0) for index in range(CLASSES)])
    cls = {"ledoit-wolf": LedoitWolf, "oas": OAS}[estimator]
    shrunk = cls(assume_centered=True).fit((known - means[train.labels]).numpy()).covariance_
    expected = slow_distance(torch.from_numpy(shrunk), means, test.embeddings.double())
    torch.testing.assert_close(Mahalanobis(covariance=estimator).fit(train)(test), expected, rtol=1e-7, atol=0)


def test_directions_keep_the_largest_principal_components() -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    known, asked = train.embeddings.double(), test.embeddings.double()
    variances, vectors = torch.linalg.eigh(torch.from_numpy(np.cov(known.T.numpy(), bias=True)))
    projected = (asked - known.mean(0)) @ vectors[:, -3:]
    expected = (projected.square() / variances[-3:]).sum(1)
    found = GlobalMahalanobis(normalize=False, directions=3).fit(train)(test)
    torch.testing.assert_close(found, expected)


def test_relative_distance_is_the_difference_of_the_papers_two() -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    known, asked = train.embeddings.double(), test.embeddings.double()
    background = slow_distance(torch.from_numpy(np.cov(known.T.numpy(), bias=True)), known.mean(0)[None], asked)
    expected = slow_tied(known, train.labels, asked) - background
    torch.testing.assert_close(RelativeMahalanobis().fit(train)(test), expected, rtol=1e-7, atol=1e-9)


def test_relative_distance_is_zero_where_there_is_one_class() -> None:
    one = Outputs(gaussian(200).embeddings, torch.zeros(200, 0), torch.zeros(200, dtype=torch.int64), 1)
    found = RelativeMahalanobis().fit(one)(gaussian(30, seed=1))
    torch.testing.assert_close(found, torch.zeros(30, dtype=torch.float64), rtol=0, atol=1e-9)


def test_relative_distance_equals_the_log_likelihood_ratio_of_the_reference_with_balanced_classes() -> None:
    """Fort's notebook averages the classes' numpy covariances, 1/(n_c - 1): for equal n_c a constant factor."""
    train, test = gaussian(400), gaussian(30, seed=1)
    known, asked = train.embeddings.double().numpy(), test.embeddings.double().numpy()
    groups = [known[train.labels.numpy() == index] for index in range(CLASSES)]
    factor = (len(groups[0]) - 1) / len(groups[0])
    tied = np.mean([np.cov(group.T) for group in groups], 0) * factor

    def distances(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        gaps = asked - mean
        return np.einsum("nd,de,ne->n", gaps, np.linalg.inv(covariance), gaps)

    near = np.min([distances(group.mean(0), tied) for group in groups], 0)
    expected = near - distances(known.mean(0), np.cov(known.T) * (len(known) - 1) / len(known))
    np.testing.assert_allclose(RelativeMahalanobis().fit(train)(test).numpy(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("normalize", [False, True])
def test_class_distance_has_a_covariance_for_each_class(normalize: bool) -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    prepare = unit if normalize else Tensor.double
    known, asked = prepare(train.embeddings), prepare(test.embeddings)
    groups = [known[train.labels == index] for index in range(CLASSES)]
    expected = torch.stack(
        [slow_distance(torch.from_numpy(np.cov(g.T.numpy(), bias=True)), g.mean(0)[None], asked) for g in groups]
    ).amin(0)
    found = ClassMahalanobis(normalize=normalize, covariance="empirical").fit(train)(test)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_class_covariances_are_shrunk_by_ledoit_wolf_by_default() -> None:
    train, test = gaussian(30), gaussian(30, seed=1)
    known, asked = unit(train.embeddings), unit(test.embeddings)
    groups = [known[train.labels == index] for index in range(CLASSES)]
    expected = torch.stack(
        [
            slow_distance(torch.from_numpy(LedoitWolf().fit(g.numpy()).covariance_), g.mean(0)[None], asked)
            for g in groups
        ]
    ).amin(0)
    torch.testing.assert_close(ClassMahalanobis().fit(train)(test), expected, rtol=1e-6, atol=1e-9)


def with_few_of_class_0(train: Outputs, count: int) -> Outputs:
    kept = (train.labels != 0) | (torch.arange(len(train)) < CLASSES * count)
    return train[kept]


@pytest.mark.parametrize("estimator", ["empirical", "ledoit-wolf", "oas", "diagonal"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_class_with_one_or_two_images_takes_the_covariance_of_all(
    estimator: Estimator, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    few, test = with_few_of_class_0(gaussian(400), count), gaussian(30, seed=1)
    score = ClassMahalanobis(normalize=False, covariance=estimator).fit(few)
    expected = "1 of 5 groups have fewer than 3 different images and take the covariance within all groups"
    assert caplog.messages == [expected]
    known, asked = few.embeddings.double(), test.embeddings.double()
    means = torch.stack([known[few.labels == index].mean(0) for index in range(CLASSES)])
    residuals = known - means[few.labels]
    slow = slow_distance(residuals.T @ residuals / len(known), means[:1], asked)
    alone = Groups(score.classes.means[:1], score.classes.transforms[:1], 1.0)
    torch.testing.assert_close(alone.nearest(asked), slow, rtol=1e-7, atol=1e-9)
    assert (score(test) <= slow * (1 + 1e-9)).all()


def test_a_class_of_equal_images_takes_the_covariance_of_all_too() -> None:
    train = gaussian(400)
    same = torch.where((train.labels == 0)[:, None], train.embeddings[0], train.embeddings)
    score = ClassMahalanobis(normalize=False).fit(replace(train, embeddings=same))
    one = ClassMahalanobis(normalize=False).fit(with_few_of_class_0(train, 1))
    ratio = (
        score.classes.transforms[0]
        @ score.classes.transforms[0].T
        / (one.classes.transforms[0] @ one.classes.transforms[0].T)
    )
    torch.testing.assert_close(ratio, torch.full_like(ratio, 400 / 321))  # the same scatter over more rows


def test_classes_of_different_rank_are_padded_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    train, test = with_few_of_class_0(gaussian(400), 4), gaussian(30, seed=1)
    score = ClassMahalanobis(normalize=False, covariance="empirical").fit(train)
    assert caplog.messages == ["1 of 5 groups vary in fewer than 8 directions, the least in 3; the others are left out"]
    assert score.classes.transforms.shape == (CLASSES, 8, 8)
    known, asked = train.embeddings.double(), test.embeddings.double()
    groups = [known[train.labels == index] for index in range(CLASSES)]
    slow = [slow_distance(torch.from_numpy(np.cov(g.T.numpy(), bias=True)), g.mean(0)[None], asked) for g in groups]
    torch.testing.assert_close(score(test), torch.stack(slow).amin(0), rtol=1e-6, atol=1e-9)


def test_classes_without_rows_between_others_take_no_place() -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    gaps = replace(train, labels=2 * train.labels + 1, classes=2 * CLASSES + 3)
    for estimator in ("empirical", "ledoit-wolf"):
        scorer = ClassMahalanobis(covariance=estimator)  # type: ignore[arg-type]
        score = scorer.fit(gaps)
        assert len(score.classes.means) == CLASSES
        torch.testing.assert_close(score(test), scorer.fit(train)(test), rtol=1e-9, atol=0)


def standardized(train: Tensor, rows: Tensor) -> np.ndarray:
    known = unit(train)
    return ((unit(rows) - known.mean(0)) / known.std(0, unbiased=False)).numpy()


def test_ssd_is_the_distance_of_its_released_code() -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    known, asked = (standardized(train.embeddings, outputs.embeddings) for outputs in (train, test))
    gaps = asked - known.mean(0)
    expected = np.sum(gaps * (np.linalg.pinv(np.cov(known.T, bias=True)) @ gaps.T).T, -1)
    np.testing.assert_allclose(SSD().fit(train)(test).numpy(), expected, rtol=1e-7)


def test_ssd_takes_the_nearest_of_its_clusters() -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    known, asked = (standardized(train.embeddings, outputs.embeddings) for outputs in (train, test))
    near = nearest(torch.from_numpy(known), kmeans(torch.from_numpy(known).float(), 3, 0, iterations=100))[1].numpy()
    expected = []
    for cluster in range(3):
        mine = known[near == cluster]
        gaps = asked - mine.mean(0)
        expected.append(np.sum(gaps * (np.linalg.pinv(np.cov(mine.T, bias=True)) @ gaps.T).T, -1))
    np.testing.assert_allclose(SSD(clusters=3).fit(train)(test).numpy(), np.min(expected, 0), rtol=1e-6)


def test_ssd_k_is_the_difference_of_its_released_code() -> None:
    train, test, foreign = gaussian(400), gaussian(30, seed=1), gaussian(12, seed=2)
    known, asked, few = (standardized(train.embeddings, o.embeddings) for o in (train, test, foreign))

    def distance(rows: np.ndarray) -> np.ndarray:
        gaps = asked - rows.mean(0)
        return np.sum(gaps * (np.linalg.inv(LedoitWolf().fit(rows).covariance_) @ gaps.T).T, -1)

    found = FewShotSSD().fit(replace(train, known_ood=foreign))(test)
    np.testing.assert_allclose(found.numpy(), distance(known) - distance(few), rtol=1e-7)


@pytest.mark.parametrize("count", [1, 2])
def test_ssd_k_with_one_or_two_known_images_takes_the_covariance_of_the_training_images(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    train, test, foreign = gaussian(400), gaussian(30, seed=1), gaussian(12, seed=2)[:count]
    known, asked, few = (standardized(train.embeddings, o.embeddings) for o in (train, test, foreign))
    precision = np.linalg.inv(LedoitWolf().fit(known).covariance_)
    near, far = (asked - rows.mean(0) for rows in (known, few))
    expected = np.sum(near @ precision * near, 1) - np.sum(far @ precision * far, 1)
    found = FewShotSSD().fit(replace(train, known_ood=foreign))(test)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7)
    assert caplog.messages == ["too few known OOD images have a covariance; that of the training images is taken"]


def test_images_like_the_known_ood_ones_score_higher() -> None:
    train, foreign, test = gaussian(400), gaussian(12, seed=2), gaussian(30, seed=1)
    moved = torch.tensor([8.0] + [0.0] * 7)
    score = FewShotSSD().fit(replace(train, known_ood=replace(foreign, embeddings=foreign.embeddings + moved)))
    alike = replace(test, embeddings=test.embeddings + moved)
    assert (score(alike)[:, None] > score(test)).double().mean() > 0.95


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_constant_dimensions_have_no_say_in_ssd(scale: float) -> None:
    train, test = gaussian(400), gaussian(30, seed=1)
    padded = torch.zeros(400, 2)
    wider = replace(train, embeddings=torch.cat([train.embeddings, padded], 1))
    moved = replace(test, embeddings=torch.cat([test.embeddings, scale * torch.ones(30, 2)], 1))
    score = SSD().fit(wider)
    lengths = moved.embeddings.norm(dim=1, keepdim=True) / test.embeddings.norm(dim=1, keepdim=True)
    shrunk = standardized(train.embeddings, test.embeddings)  # the same directions, of the length that is left
    known = standardized(train.embeddings, train.embeddings)
    mean, deviation = unit(train.embeddings).mean(0), unit(train.embeddings).std(0, unbiased=False)
    shrunk = (((unit(test.embeddings) / lengths) - mean) / deviation).numpy()
    expected = np.sum(shrunk @ np.linalg.inv(np.cov(known.T, bias=True)) * shrunk, 1)
    np.testing.assert_allclose(score(moved).numpy(), expected, rtol=1e-6)


def test_rare_classes_and_few_rows_do_not_break_the_shrunk_distances() -> None:
    train, test = gaussian(12, 40), gaussian(30, 40, seed=1)
    for scorer in (Mahalanobis(covariance="ledoit-wolf"), ClassMahalanobis(), RelativeMahalanobis(), SSD(clusters=3)):
        assert scorer.fit(train)(test).isfinite().all()


def test_scorers_with_several_covariances_say_how_much_they_keep() -> None:
    train = gaussian(300)
    for scorer, covariances in ((ClassMahalanobis(), train.classes), (SSD(clusters=2), 2)):
        fitted = scorer.fit(train)
        groups = fitted.classes if isinstance(fitted, ClassDistance) else fitted.clusters
        kept = sum(transform.nbytes for transform in groups.transforms)
        assert scorer.memory(train.classes, DIMENSION) == kept == 8 * covariances * DIMENSION**2
    assert RelativeMahalanobis().memory(1000, 768) == 0

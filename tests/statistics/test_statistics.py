import logging
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS, EmpiricalCovariance, LedoitWolf
from torch import Tensor

from ood_core.errors import OODError
from ood_core.statistics import ClassMoments, Estimator, Whitening, covariance, covariances, moments, moments_of_each

CLASSES = 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(rows: int, dimension: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.randint(CLASSES, (rows,), generator=torch.Generator().manual_seed(seed))
    return draw(rows, dimension, seed=seed) + 3 * labels[:, None], labels


def assert_same(found: ClassMoments, expected: ClassMoments) -> None:
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.means, expected.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.within, expected.within, rtol=1e-10, atol=1e-10)


def test_moments_equal_numpys() -> None:
    embeddings, labels = labelled(50)
    found = moments([(embeddings, labels)], CLASSES)
    centred = embeddings.clone()
    for index in range(CLASSES):
        mine = embeddings[labels == index]
        assert found.counts[index] == len(mine)
        torch.testing.assert_close(found.means[index], mine.mean(0))
        centred[labels == index] -= mine.mean(0)
    torch.testing.assert_close(found.mean, embeddings.mean(0))
    torch.testing.assert_close(found.covariance, torch.from_numpy(np.cov(embeddings.T, bias=True)))
    torch.testing.assert_close(found.tied_covariance, centred.T @ centred / 50)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any))
def test_any_cut_into_parts_gives_the_moments_of_the_whole(sizes: list[int]) -> None:
    embeddings, labels = labelled(sum(sizes))
    parts = zip(embeddings.split(sizes), labels.split(sizes), strict=True)
    assert_same(moments(parts, CLASSES), ClassMoments.of(embeddings, labels, CLASSES))


def test_parts_merge_in_any_order() -> None:
    embeddings, labels = labelled(30)
    whole = ClassMoments.of(embeddings, labels, CLASSES)
    parts = [ClassMoments.of(embeddings[i::3], labels[i::3], CLASSES) for i in range(3)]
    for first, second, third in permutations(parts):
        assert_same(first.merge(second).merge(third), whole)
        assert_same(first.merge(second.merge(third)), whole)


def test_a_large_offset_costs_no_precision() -> None:
    embeddings, labels = labelled(400)
    found = moments(zip((embeddings + 1e6).split(64), labels.split(64), strict=True), CLASSES)
    expected = moments([(embeddings, labels)], CLASSES)
    torch.testing.assert_close(found.within, expected.within, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-7, atol=1e-6)


def test_float32_embeddings_are_summed_in_float64() -> None:
    embeddings, labels = labelled(400)
    single = embeddings.float()
    assert_same(ClassMoments.of(single, labels, CLASSES), ClassMoments.of(single.double(), labels, CLASSES))


def test_a_class_without_rows_adds_nothing() -> None:
    embeddings, labels = labelled(50)
    found, expected = (ClassMoments.of(embeddings, labels, classes) for classes in (CLASSES + 2, CLASSES))
    assert found.counts[CLASSES:].tolist() == [0, 0]
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.covariance, expected.covariance)


def test_constants_have_exactly_no_scatter() -> None:
    values = torch.tensor([0.1, -1e7 / 3, 3.3], dtype=torch.float64)
    labels = torch.arange(999) % 3
    parts = list(zip(values.repeat(999, 1).split(100), labels.split(100), strict=True))
    assert not moments(parts, 3).covariance.any()
    by_class = moments([(values[part_labels, None], part_labels) for _, part_labels in parts], 3)
    assert not by_class.within.any()


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_label_outside_of_the_classes_is_refused(wrong: int) -> None:
    embeddings, labels = labelled(5)
    labels[2] = wrong
    with pytest.raises(OODError, match=rf"^labels of training data must lie in 0\.\.3, there is {wrong}$"):
        moments([(embeddings, labels)], CLASSES)


def test_broken_embeddings_are_refused_and_counted() -> None:
    embeddings, labels = labelled(5)
    embeddings[1, 0] = embeddings[3, 1] = float("nan")
    embeddings[3, 2] = float("inf")
    with pytest.raises(OODError, match=r"^2 of 5 training embeddings hold NaN or infinite values$"):
        moments([(embeddings, labels)], CLASSES)


@pytest.mark.parametrize("rows", [[], [0]])
def test_no_rows_are_refused(rows: list[int]) -> None:
    with pytest.raises(OODError, match=r"^there is no training image to take statistics of$"):
        moments([labelled(count) for count in rows], CLASSES)


def test_whitened_embeddings_have_unit_covariance() -> None:
    embeddings = draw(500, 5) @ draw(5, 5, seed=1) + 7
    found = ClassMoments.of(embeddings, torch.zeros(500, dtype=torch.int64), 1)
    whitening = Whitening.of(found.mean, found.covariance)
    white = whitening(embeddings)
    torch.testing.assert_close(white.T @ white / 500, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(white.mean(0), torch.zeros(5, dtype=torch.float64))
    assert whitening.rank == 5
    assert whitening.condition == pytest.approx(np.linalg.cond(found.covariance), rel=1e-6)


def test_the_direction_that_layer_normalisation_removes_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    embeddings = torch.nn.functional.layer_norm((draw(2000, 64) @ draw(64, 64, seed=1)).float(), (64,))
    found = ClassMoments.of(embeddings, torch.zeros(2000, dtype=torch.int64), 1)
    with caplog.at_level(logging.WARNING):
        whitening = Whitening.of(found.mean, found.covariance)
    assert whitening.rank == 63
    assert whitening.transform.sum(0).abs().max() < 1e-3 * whitening.transform.norm(dim=0).min()
    assert caplog.messages == ["embeddings vary in 63 of 64 directions; the others are left out"]
    assert whitening(embeddings).square().sum(1).mean().item() == pytest.approx(63)


def test_fewer_rows_than_dimensions_leave_the_span_of_the_rows() -> None:
    embeddings = draw(10, 40)
    found = ClassMoments.of(embeddings, torch.zeros(10, dtype=torch.int64), 1)
    whitening = Whitening.of(found.mean, found.covariance)
    assert whitening.rank == 9
    torch.testing.assert_close(whitening(embeddings).square().sum(1), torch.full((10,), 9.0, dtype=torch.float64))


def test_constant_features_are_left_out() -> None:
    embeddings = torch.cat([draw(50, 3), torch.full((50, 2), 0.1, dtype=torch.float64)], dim=1)
    found = ClassMoments.of(embeddings, torch.zeros(50, dtype=torch.int64), 1)
    whitening = Whitening.of(found.mean, found.covariance)
    assert whitening.rank == 3
    assert whitening(embeddings + 100).isfinite().all()


def test_the_cutoff_is_relative_to_the_largest_variance() -> None:
    covariance = torch.diag(torch.tensor([1e-20, 1e-21, 1e-24], dtype=torch.float64))
    assert Whitening.of(torch.zeros(3), covariance, cutoff=1e-3).rank == 2
    assert Whitening.of(torch.zeros(3), covariance, cutoff=1e-5).rank == 3


def test_a_full_rank_covariance_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Whitening.of(torch.zeros(3), torch.eye(3))
    assert not caplog.messages


@pytest.mark.parametrize("rows", [1, 20])
def test_where_nothing_varies_distances_are_euclidean(rows: int, caplog: pytest.LogCaptureFixture) -> None:
    found = ClassMoments.of(torch.full((rows, 3), 0.1), torch.zeros(rows, dtype=torch.int64), 1)
    whitening = Whitening.of(found.mean, found.covariance)
    assert caplog.messages == ["embeddings do not vary, at least not within classes; distances are Euclidean"]
    torch.testing.assert_close(whitening(found.mean[None] + 2), torch.full((1, 3), 2.0, dtype=torch.float64))


def test_directions_are_those_of_the_largest_variances() -> None:
    covariance_ = torch.diag(torch.tensor([4.0, 1.0, 9.0, 0.25], dtype=torch.float64))
    whitening = Whitening.of(torch.zeros(4, dtype=torch.float64), covariance_, directions=2)
    assert whitening.rank == 2
    assert whitening.condition == pytest.approx(9 / 4)
    torch.testing.assert_close(whitening(torch.tensor([[2.0, 5, 3, 5]])).square().sum(1).item(), 2.0)


def test_a_class_seen_late_is_counted_like_the_others() -> None:
    embeddings, labels = labelled(60)
    order = labels.argsort()  # the last class comes in the last part alone
    parts = zip(embeddings[order].split(20), labels[order].split(20), strict=True)
    assert_same(moments(parts, CLASSES), ClassMoments.of(embeddings, labels, CLASSES))


def test_classes_that_lie_far_apart_cost_no_precision() -> None:
    embeddings, labels = labelled(400)
    far = embeddings + 1e7 * labels[:, None]
    found, expected = moments([(far, labels)], CLASSES), moments([(embeddings, labels)], CLASSES)
    torch.testing.assert_close(found.within, expected.within, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_moments_of_each_group_are_those_of_its_rows(offset: float) -> None:
    embeddings, labels = labelled(90)
    parts = zip((embeddings + offset).split(25), labels.split(25), strict=True)
    found = moments_of_each(parts, CLASSES + 1)
    assert found.counts[CLASSES] == 0
    assert not found.means[CLASSES].any()
    assert not found.scatters[CLASSES].any()
    for index in range(CLASSES):
        mine = embeddings[labels == index]
        one = ClassMoments.of(mine, torch.zeros(len(mine), dtype=torch.int64), 1)
        assert found.counts[index] == len(mine)
        torch.testing.assert_close(found.means[index] - offset, one.means[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.scatters[index], one.within, rtol=1e-8, atol=1e-8)


def test_equal_rows_of_a_group_have_exactly_no_scatter() -> None:
    parts = [(torch.full((7, 3), 0.1), torch.arange(7) % 2), (torch.full((5, 3), 0.1), torch.zeros(5).long())]
    assert not moments_of_each(parts, 2).scatters.any()


# ------------------------------------------------------------------------------------------------ estimators

SKLEARN = {"empirical": EmpiricalCovariance, "ledoit-wolf": LedoitWolf, "oas": OAS}


@pytest.mark.parametrize("estimator", SKLEARN)
@pytest.mark.parametrize(("rows", "dimension"), [(400, 6), (30, 40), (9, 4)])
def test_estimates_are_those_of_scikit_learn(estimator: Estimator, rows: int, dimension: int) -> None:
    embeddings, labels = labelled(rows, dimension)
    parts = list(zip(embeddings.split(50), labels.split(50), strict=True))
    found = moments(parts, CLASSES)
    deviations = (embeddings - found.means[labels]).numpy()
    expected = SKLEARN[estimator](assume_centered=True).fit(deviations).covariance_
    np.testing.assert_allclose(covariance(found, estimator, parts).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_diagonal_estimate_has_the_variances_alone() -> None:
    found = moments([labelled(50)], CLASSES)
    estimate = covariance(found, "diagonal", [])
    assert torch.equal(estimate, torch.diag(found.tied_covariance.diagonal()))


@pytest.mark.parametrize("estimator", SKLEARN)
def test_estimates_of_groups_are_those_of_scikit_learn(estimator: Estimator) -> None:
    embeddings, labels = labelled(40)
    labels = torch.where(labels == 2, 0, labels)  # no row in group 2
    parts = list(zip(embeddings.split(15), labels.split(15), strict=True))
    found = list(covariances(moments_of_each(parts, CLASSES), estimator, parts))
    assert len(found) == CLASSES - 1
    for index, estimate in zip((0, 1, 3), found, strict=True):
        expected = SKLEARN[estimator]().fit(embeddings[labels == index].numpy()).covariance_
        np.testing.assert_allclose(estimate.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ["empirical", "ledoit-wolf", "oas", "diagonal"])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_estimates_of_constants_are_zero(estimator: Estimator, value: float) -> None:
    parts = [(torch.full((5, 3), value), torch.zeros(5, dtype=torch.int64))]
    assert not covariance(moments(parts, 1), estimator, parts).any()


# ------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
def test_moments_and_whitening_on_the_gpu_are_those_on_the_cpu() -> None:
    embeddings, labels = labelled(5000, 32)
    found = moments([(embeddings.cuda(), labels.cuda())], CLASSES)
    expected = moments([(embeddings, labels)], CLASSES)
    assert_same(ClassMoments(found.counts.cpu(), found.means.cpu(), found.within.cpu()), expected)
    rows = embeddings[:100]
    squared = Whitening.of(found.mean, found.tied_covariance)(rows.cuda()).square().sum(1)
    on_cpu = Whitening.of(expected.mean, expected.tied_covariance)(rows).square().sum(1)
    torch.testing.assert_close(squared.cpu(), on_cpu, rtol=1e-9, atol=1e-9)

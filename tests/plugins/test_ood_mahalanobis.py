import numpy as np
import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs
from ood_mahalanobis.scorers import GlobalMahalanobis, Mahalanobis

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
    assert len(Mahalanobis().fit(wider).whitened_means) == CLASSES


@pytest.mark.parametrize("scorer", [Mahalanobis, GlobalMahalanobis])
def test_the_cutoff_leaves_out_directions_with_little_variance(scorer: type[Mahalanobis | GlobalMahalanobis]) -> None:
    train = gaussian(400)
    shrunk = Outputs(train.embeddings * torch.tensor([1e-3] + [1.0] * 7), train.logits, train.labels, CLASSES)
    assert scorer(normalize=False).fit(shrunk).rank == 8
    assert scorer(normalize=False, cutoff=1e-4).fit(shrunk).rank < 8


@pytest.mark.parametrize("scorer", [Mahalanobis(), GlobalMahalanobis()])
def test_constant_embeddings_are_refused(scorer: Mahalanobis | GlobalMahalanobis) -> None:
    constant = Outputs(torch.full((20, 3), 0.7), torch.zeros(20, 0), torch.arange(20) % 2, 2)
    with pytest.raises(OODError, match=r"^the embeddings do not vary, at least not within classes"):
        scorer.fit(constant)


def test_one_row_a_class_is_refused_because_nothing_varies_within() -> None:
    with pytest.raises(OODError, match=r"^the embeddings do not vary, at least not within classes"):
        Mahalanobis().fit(gaussian(CLASSES))


def test_labels_that_were_withheld_are_refused() -> None:
    with pytest.raises(OODError, match=r"^labels of training data must lie in 0\.\.4, there is -1$"):
        Mahalanobis().fit(gaussian(20).without_labels())

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Head, Outputs, Scorer
from ood_prototypes.boundaries import FastBoundaryDistance, NeuralCollapse, SimplifiedHopfield
from ood_prototypes.distances import Chebyshev, CityBlock, Cosine, Euclidean

CLASSES, DIMENSION = 4, 6
DISTANCES = [Cosine(), Euclidean(), CityBlock(), Chebyshev()]
OF_THE_CLASSIFIER = [FastBoundaryDistance(), NeuralCollapse(), SimplifiedHopfield()]


def make(rows: int = 60, seed: int = 0, classes: int = CLASSES) -> Outputs:
    """Overlapping classes and a classifier that is often wrong; embeddings that are not centred."""
    draw = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    centres = 1 + 2 * torch.randn(classes, DIMENSION, generator=fixed)
    head = Head(torch.randn(classes, DIMENSION, generator=fixed), torch.randn(classes, generator=fixed))
    labels = torch.arange(rows) % classes
    embeddings = centres[labels] + torch.randn(rows, DIMENSION, generator=draw)
    return Outputs(embeddings, embeddings @ head.weight.T + head.bias, labels, classes, head)


def slow_means(embeddings: Tensor, labels: Tensor) -> list[Tensor]:
    return [embeddings[labels == label].mean(0) for label in labels.unique()]


def assert_scores(scorer: Scorer, expected: list[Tensor], train: Outputs, test: Outputs) -> None:
    found = scorer.fit(train)(test.without_labels())
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------------------------------------- distances


def test_cosine_is_one_minus_the_largest_cosine_to_the_mean_of_unit_embeddings() -> None:
    train, test = make(), make(seed=1)
    means = slow_means(torch.stack([row / row.norm() for row in train.embeddings.double()]), train.labels)
    expected = [
        1 - torch.stack([row @ mean / row.norm() / mean.norm() for mean in means]).max()
        for row in test.embeddings.double()
    ]
    assert_scores(Cosine(), expected, train, test)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("scorer", "length"),
    [
        (Euclidean, lambda gap: (gap**2).sum().sqrt()),
        (CityBlock, lambda gap: gap.abs().sum()),
        (Chebyshev, lambda gap: gap.abs().max()),
    ],
)
def test_a_distance_is_the_least_length_of_a_gap_to_a_mean(scorer, length, normalize) -> None:  # type: ignore[no-untyped-def]
    train, test = make(), make(seed=1)
    prepared = [
        torch.stack([row / row.norm() if normalize else row for row in outputs.embeddings.double()])
        for outputs in (train, test)
    ]
    means = slow_means(prepared[0], train.labels)
    expected = [min(length(row - mean) for mean in means) for row in prepared[1]]
    assert_scores(scorer(normalize=normalize), expected, train, test)


def test_with_one_class_distances_are_those_of_the_released_code_of_mood() -> None:
    # its features are divided by norm + 1e-10; one mean; np.linalg.norm, np.abs(.).sum and np.abs(.).max of the gap
    train, test = make(classes=1), make(classes=1, seed=1)
    scaled = [
        part.embeddings.double() / (part.embeddings.double().norm(dim=1)[:, None] + 1e-10) for part in (train, test)
    ]
    gaps = scaled[1] - scaled[0].mean(0)
    close = {"rtol": 1e-8, "atol": 1e-9}
    torch.testing.assert_close(Euclidean().fit(train)(test), gaps.norm(dim=1), **close)
    torch.testing.assert_close(CityBlock().fit(train)(test), gaps.abs().sum(1), **close)
    torch.testing.assert_close(Chebyshev().fit(train)(test), gaps.abs().amax(1), **close)


@pytest.mark.parametrize("scorer", DISTANCES)
def test_a_class_without_rows_is_nothing_to_be_near_to(scorer: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    train, test = make(), make(seed=1)
    some = train[train.labels != 2]
    others = replace(some, labels=some.labels - (some.labels == 3).long(), classes=3)
    with caplog.at_level(logging.WARNING):
        found = scorer.fit(some)(test)
    assert caplog.messages == ["1 of 4 classes have no training image to be near to"]
    torch.testing.assert_close(found, scorer.fit(others)(test))


@pytest.mark.parametrize("scorer", DISTANCES)
def test_means_do_not_depend_on_how_the_rows_are_cut(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = make(), make(seed=1)
    expected = scorer.fit(train)(test)
    whole = Outputs.chunks
    monkeypatch.setattr(Outputs, "chunks", lambda self, rows=7: whole(self, 7))
    torch.testing.assert_close(scorer.fit(train)(test), expected, rtol=1e-12, atol=1e-12)


def test_a_zero_embedding_has_cosine_zero() -> None:
    train = make()
    assert Cosine().fit(train)(replace(train, embeddings=torch.zeros(60, DIMENSION))).unique().tolist() == [1]


@pytest.mark.parametrize("scorer", [*DISTANCES, SimplifiedHopfield()])
@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_outside_of_the_classes_are_refused(scorer: Scorer, label: int) -> None:
    train = make()
    train.labels[5] = label
    with pytest.raises(OODError, match=rf"^labels of training data must lie in 0..3, there is {label}$"):
        scorer.fit(train)


@pytest.mark.parametrize("scorer", [*DISTANCES, *OF_THE_CLASSIFIER])
def test_embeddings_that_are_not_finite_are_refused(scorer: Scorer) -> None:
    train = make()
    train.embeddings[3, 2] = torch.nan
    with pytest.raises(OODError, match=r"^1 of 60 training embeddings hold NaN or infinite values$"):
        scorer.fit(train)


@pytest.mark.parametrize("scorer", [*DISTANCES, *OF_THE_CLASSIFIER])
def test_no_training_image_is_refused(scorer: Scorer) -> None:
    with pytest.raises(OODError, match=r"^there is no training image to take the mean of$"):
        scorer.fit(make()[:0])


# ------------------------------------------------------------------------------------------------- boundaries


def test_fdbd_is_the_mean_distance_to_the_boundaries_over_that_to_the_mean() -> None:
    train, test = make(), make(seed=1)
    assert train.head is not None
    weight, mean = train.head.weight.double(), train.embeddings.double().mean(0)
    expected = []
    for row, logits in zip(test.embeddings.double(), test.logits.double(), strict=True):
        best = int(logits.argmax())
        distances = [
            (logits[best] - logits[other]).abs() / (weight[best] - weight[other]).norm()
            for other in range(CLASSES)
            if other != best
        ]
        expected.append(-sum(distances) / (CLASSES - 1) / (row - mean).norm())
    assert_scores(FastBoundaryDistance(), expected, train, test)


def test_fdbd_measures_how_far_an_embedding_can_move_before_the_prediction_changes() -> None:
    train, test = make(), make(seed=1)
    two = replace(train, head=Head(train.head.weight[:2], train.head.bias[:2]))  # type: ignore[union-attr]
    rows = replace(test, logits=test.embeddings @ two.head.weight.T + two.head.bias)  # type: ignore[union-attr]
    weight, bias = two.head.weight.double(), two.head.bias.double()  # type: ignore[union-attr]
    score = FastBoundaryDistance().fit(replace(two, logits=train.logits[:, :2], classes=2))
    lengths = (test.embeddings.double() - train.embeddings.double().mean(0)).norm(dim=1)
    distance = -score(rows) * lengths
    best = rows.logits.argmax(1)
    normal = (weight[1 - best] - weight[best]) / (weight[1] - weight[0]).norm()
    moved = test.embeddings.double() + distance[:, None] * normal
    logits = moved @ weight.T + bias
    torch.testing.assert_close(logits[:, 0], logits[:, 1], rtol=1e-5, atol=1e-5)


def test_fdbd_by_norm_is_the_alternative_of_openood() -> None:
    # OpenOOD: sum(|z - max z| / denominators[k]) / |f|, denominators 1 on the diagonal; a factor 1 / (C - 1) less
    train, test = make(), make(seed=1)
    weight = train.head.weight.double()  # type: ignore[union-attr]
    denominators = (weight[:, None] - weight).norm(dim=2) + torch.eye(CLASSES)
    top, best = test.logits.double().max(1)
    sums = ((test.logits.double() - top[:, None]).abs() / denominators[best]).sum(1)
    expected = -sums / test.embeddings.double().norm(dim=1) / (CLASSES - 1)
    assert_scores(FastBoundaryDistance(scale="norm"), list(expected), train, test)


def test_fdbd_leaves_out_classes_of_equal_weight() -> None:
    train, test = make(), make(seed=1)
    head, best = train.head, int(test.logits.argmax(1).mode()[0])
    assert head is not None
    again = slice(best, best + 1)  # the class that is predicted most often, once more but far less probable
    double = replace(
        train,
        head=Head(torch.cat([head.weight, head.weight[again]]), torch.cat([head.bias, head.bias[again] - 100])),
        logits=torch.cat([train.logits, train.logits[:, again] - 100], 1),
        classes=CLASSES + 1,
    )
    rows = test[test.logits.argmax(1) == best]
    twice = replace(rows, logits=torch.cat([rows.logits, rows.logits[:, again] - 100], 1))
    torch.testing.assert_close(FastBoundaryDistance().fit(double)(twice), FastBoundaryDistance().fit(train)(rows))


def test_fdbd_of_one_class_has_no_boundary_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    train = make(classes=1)
    with caplog.at_level(logging.WARNING):
        found = FastBoundaryDistance().fit(train)(train)
    assert found.tolist() == [0.0] * 60
    assert caplog.messages == ["fdbd: 1 of 1 classes have no decision boundary and score 0"]


def test_fdbd_at_the_mean_is_finite() -> None:
    train = make()
    score = FastBoundaryDistance().fit(train)
    assert score(replace(train[:1], embeddings=train.embeddings.double().mean(0, keepdim=True))).isfinite().all()


@pytest.mark.parametrize("alpha", [0.0, 1e-4, 0.5])
def test_nci_is_the_formula_of_the_paper(alpha: float) -> None:
    train, test = make(), make(seed=1)
    weight, mean = train.head.weight.double(), train.embeddings.double().mean(0)  # type: ignore[union-attr]
    expected = []
    for row, logits in zip(test.embeddings.double(), test.logits, strict=True):
        proximity = (row - mean) @ weight[logits.argmax()] / (row - mean).norm()
        expected.append(-(proximity + alpha * row.abs().sum()))
    assert_scores(NeuralCollapse(alpha=alpha), expected, train, test)


def test_she_is_the_inner_product_with_the_mean_of_what_was_predicted_right() -> None:
    train, test = make(), make(seed=1)
    predicted = train.logits.argmax(1)
    right = predicted == train.labels
    assert 0 < right.sum() < len(right)
    patterns = {k: train.embeddings[right & (train.labels == k)].double().mean(0) for k in predicted[right].tolist()}
    known = torch.tensor([int(k) in patterns for k in test.logits.argmax(1)])
    rows = test[known]
    expected = [
        -(row @ patterns[int(z.argmax())]) for row, z in zip(rows.embeddings.double(), rows.logits, strict=True)
    ]
    assert_scores(SimplifiedHopfield(), expected, train, rows)


def test_she_takes_all_images_of_a_class_that_is_never_predicted_right(caplog: pytest.LogCaptureFixture) -> None:
    train = make()
    logits = torch.zeros(60, CLASSES)
    logits[range(60), train.labels] = 1
    logits[train.labels == 2] = torch.tensor([1.0, 0, 0, 0])
    test = replace(train[:1], logits=torch.tensor([[0.0, 0, 1, 0]]))
    with caplog.at_level(logging.WARNING):
        found = SimplifiedHopfield().fit(replace(train, logits=logits))(test)
    mean = train.embeddings[train.labels == 2].double().mean(0)
    torch.testing.assert_close(found, -(mean @ train.embeddings[0].double())[None])
    assert caplog.messages == ["she: no training image of 1 of 4 classes is predicted right"]

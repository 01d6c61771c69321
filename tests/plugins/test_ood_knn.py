import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor as SklearnFactor
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Scorer
from ood_knn import lof, relation
from ood_knn.lof import LocalOutlierFactor
from ood_knn.neighbours import GuidedByNeighbours, NearestNeighbour
from ood_knn.relation import RelationGraph

CLASSES, DIMENSION = 5, 8
SCORERS = [NearestNeighbour(k=3), GuidedByNeighbours(k=3), RelationGraph(), LocalOutlierFactor(k=3)]


def make(rows: int = 100, seed: int = 0, sharpness: float = 1.0) -> Outputs:
    draw = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    centres = 1 + 2 * torch.randn(CLASSES, DIMENSION, generator=fixed)
    weight = torch.randn(CLASSES, DIMENSION, generator=fixed)
    labels = torch.arange(rows) % CLASSES
    embeddings = centres[labels] + torch.randn(rows, DIMENSION, generator=draw)
    return Outputs(embeddings, sharpness * embeddings @ weight.T, labels, CLASSES)


def scores(scorer: Scorer, train: Outputs, test: Outputs) -> Tensor:
    return scorer.fit(train)(test.without_labels())


# -------------------------------------------------------------------------------------------------------- knn


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("normalize", [True, False])
def test_knn_is_the_distance_to_the_kth_neighbour(k: int, normalize: bool) -> None:
    train, test = make(), make(30, seed=1)
    points, queries = train.embeddings.double(), test.embeddings.double()
    if normalize:
        points, queries = points / points.norm(dim=1, keepdim=True), queries / queries.norm(dim=1, keepdim=True)
    expected = [sorted((query - point).norm().item() for point in points)[k - 1] for query in queries]
    found = scores(NearestNeighbour(k=k, normalize=normalize), train, test)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_knn_ignores_the_length_of_an_embedding_by_default() -> None:
    train, test = make(), make(30, seed=1)
    longer = replace(test, embeddings=3 * test.embeddings)
    torch.testing.assert_close(scores(NearestNeighbour(), train, longer), scores(NearestNeighbour(), train, test))
    lengths_matter = NearestNeighbour(normalize=False)
    assert (scores(lengths_matter, train, longer) > scores(lengths_matter, train, test)).all()


def test_knn_of_a_training_image_itself_is_zero() -> None:
    train = make()
    assert scores(NearestNeighbour(k=1), train, train).max() < 1e-7


def test_knn_of_a_zero_embedding_is_as_far_as_a_right_angle() -> None:
    train = make()
    found = scores(NearestNeighbour(), train, replace(train[:2], embeddings=torch.zeros(2, DIMENSION)))
    assert found.tolist() == pytest.approx([math.sqrt(2)] * 2, rel=1e-15)


def test_knn_through_an_inverted_file_is_nearly_the_same() -> None:
    train, test = make(2000), make(100, seed=1)
    score = NearestNeighbour(k=10, index="ivf").fit(train)
    assert score.index.kind == "ivf"
    exact = scores(NearestNeighbour(k=10), train, test)
    assert (score(test) >= exact - 1e-9).all()
    assert ((score(test) - exact).abs() < 0.02 * exact).double().mean() > 0.9


@pytest.mark.parametrize("scorer", [NearestNeighbour, GuidedByNeighbours, LocalOutlierFactor])
def test_the_kind_of_index_is_passed_on(scorer) -> None:  # type: ignore[no-untyped-def]
    assert scorer(index="ivf").fit(make()).index.kind == "ivf"
    assert scorer().fit(make()).index.kind == "flat"


def test_k_is_cut_to_the_training_images_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    train, test = make(20), make(30, seed=1)
    with caplog.at_level(logging.WARNING):
        found = scores(NearestNeighbour(), train, test)
    assert caplog.messages == ["knn: there are 20 neighbours, k = 50 is cut to that"]
    torch.testing.assert_close(found, scores(NearestNeighbour(k=20), train, test))


# ---------------------------------------------------------------------------------------------------- nnguide


@pytest.mark.parametrize("k", [1, 10])
def test_nnguide_is_energy_times_the_similarity_to_energetic_neighbours(k: int) -> None:
    train, test = make(), make(30, seed=1)
    bank = []
    for row, logits in zip(train.embeddings.double(), train.logits.double(), strict=True):
        bank.append(row / row.norm() * logits.exp().sum().log())
    expected = []
    for row, logits in zip(test.embeddings.double(), test.logits.double(), strict=True):
        products = sorted(((row / row.norm()) @ guide for guide in bank), reverse=True)
        expected.append(-(sum(products[:k]) / k) * logits.exp().sum().log())
    torch.testing.assert_close(
        scores(GuidedByNeighbours(k=k), train, test), torch.stack(expected), rtol=1e-6, atol=1e-6
    )


# --------------------------------------------------------------------------------------------- relation graph


def slow_relations(train: Outputs, test: Outputs, power: float, threshold: float) -> Tensor:
    sums = []
    for row, p in zip(test.embeddings.double(), test.logits.double().softmax(1), strict=True):
        total = 0.0
        for other, q in zip(train.embeddings.double(), train.logits.double().softmax(1), strict=True):
            relation_ = max(0.0, (row @ other / row.norm() / other.norm()).item()) * (p @ q).item()
            total += relation_**power if relation_ > threshold else 0
        sums.append(-total)
    return torch.tensor(sums, dtype=torch.float64)


@pytest.mark.parametrize("power", [1.0, 4.0])
@pytest.mark.parametrize("threshold", [0.03, 0.0, 0.5])
@pytest.mark.parametrize("sharpness", [0.1, 1.0])
@pytest.mark.parametrize("block", [1024, 8])
def test_the_relation_graph_sums_relations_above_the_threshold(
    power: float, threshold: float, sharpness: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relation, "_BLOCK", block)
    monkeypatch.setattr(relation, "_QUERIES", 11)
    train, test = make(60, sharpness=sharpness), make(30, seed=1, sharpness=sharpness)
    found = scores(RelationGraph(power=power, threshold=threshold), train, test)
    torch.testing.assert_close(found, slow_relations(train, test, power, threshold), rtol=1e-5, atol=1e-6)


def test_blocks_without_a_relation_are_not_compared() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(6000) % 10
    logits = 10 * torch.eye(10)[labels] + 1.5 * torch.randn(6000, 10, generator=draw)
    train = Outputs(torch.randn(6000, DIMENSION, generator=draw), logits, labels, 10)
    score = RelationGraph().fit(train)
    possible = logits[:200].double().softmax(1) @ score.maxima.double().T > 0.03
    assert 0.1 <= possible.double().mean() < 0.4


# -------------------------------------------------------------------------------------------------------- lof


@pytest.mark.parametrize("k", [1, 5, 20, 99])
def test_lof_is_that_of_scikit_learn(k: int) -> None:
    train, test = make(), make(30, seed=1)
    model = SklearnFactor(n_neighbors=k, novelty=True).fit(train.embeddings.double().numpy())
    expected = torch.from_numpy(-model.score_samples(test.embeddings.double().numpy()))
    torch.testing.assert_close(scores(LocalOutlierFactor(k=k), train, test), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("copies", [3, 12])
def test_lof_of_many_copies_of_an_image_is_finite_and_that_of_scikit_learn(copies: int) -> None:
    train, test = make(30), make(10, seed=1)
    train.embeddings[:copies] = train.embeddings[0]
    model = SklearnFactor(n_neighbors=5, novelty=True).fit(train.embeddings.double().numpy())
    expected = torch.from_numpy(-model.score_samples(test.embeddings.double().numpy()))
    found = scores(LocalOutlierFactor(k=5), train, test)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_lof_is_about_one_inside_of_a_uniform_cluster() -> None:
    grid = torch.cartesian_prod(torch.arange(30.0), torch.arange(30.0))
    train = Outputs(grid, torch.zeros(900, 0), torch.zeros(900, dtype=torch.int64), 1)
    test = Outputs(torch.tensor([[15.0, 15], [15, 200]]), torch.zeros(2, 0), torch.full((2,), -1), 1)
    inside, outside = scores(LocalOutlierFactor(), train, test).tolist()
    assert inside == pytest.approx(1, abs=0.05)
    assert outside > 10


def test_lof_needs_two_training_images() -> None:
    message = r"^scorer 'lof' needs at least two training images to compare with, there is one$"
    with pytest.raises(OODError, match=message):
        LocalOutlierFactor().fit(make(1))


def test_lof_has_one_neighbour_less_than_training_images(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        score = LocalOutlierFactor().fit(make(10))
    assert score.k == 9
    assert caplog.messages == ["lof: there are 9 neighbours, k = 20 is cut to that"]


# -------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("scorer", SCORERS)
def test_fitting_chunk_by_chunk_is_fitting_at_once(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = make(), make(30, seed=1)
    expected = scores(scorer, train, test)
    whole = Outputs.chunks
    monkeypatch.setattr(Outputs, "chunks", lambda self, rows=7: whole(self, 7))
    monkeypatch.setattr(lof, "_CHUNK_ROWS", 7)
    torch.testing.assert_close(scores(scorer, train, test), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_sample_is_a_share_of_the_training_images_that_the_seed_draws(scorer: Scorer) -> None:
    train, test = make(), make(30, seed=1)
    tenth = replace(scorer, sample=0.1)  # type: ignore[call-arg]
    found = scores(tenth, train, test)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:10].sort().values
    torch.testing.assert_close(found, scores(scorer, train[order], test))
    torch.manual_seed(5)
    assert torch.equal(scores(tenth, train, test), found)
    assert not torch.equal(scores(replace(tenth, seed=1), train, test), found)  # type: ignore[call-arg]


def test_the_smallest_sample_is_one_training_image() -> None:
    train = make()
    assert len(NearestNeighbour(k=1, sample=1e-6).fit(train).index) == 1


def test_the_bank_of_knn_is_the_training_embeddings_themselves() -> None:
    train = make()  # memory-mapped in a run: they are not copied
    assert NearestNeighbour(k=1).fit(train).index.points.data_ptr() == train.embeddings.data_ptr()


@pytest.mark.parametrize("scorer", SCORERS)
def test_embeddings_that_are_not_finite_are_refused(scorer: Scorer) -> None:
    train = make()
    train.embeddings[3, 2] = torch.nan
    with pytest.raises(OODError, match=r"hold NaN or infinite values$"):
        scorer.fit(train)


@pytest.mark.parametrize("scorer", SCORERS)
def test_no_training_image_is_refused(scorer: Scorer) -> None:
    with pytest.raises(OODError, match=r"^there is no training image to compare with$"):
        scorer.fit(make()[:0])


# ------------------------------------------------------------------------------------ formulas, slowly


def test_knn_ranks_like_the_published_code() -> None:
    # knn-ood and OpenOOD: x / (|x| + 1e-10), minus the squared distance to the k-th neighbour
    train, test = make(), make(30, seed=1)
    points, queries = (
        part.embeddings.double() / (part.embeddings.double().norm(dim=1)[:, None] + 1e-10) for part in (train, test)
    )
    confidence = -(queries[:, None] - points).square().sum(2).sort(1).values[:, 49]
    torch.testing.assert_close(scores(NearestNeighbour(), train, test), (-confidence).sqrt(), rtol=1e-8, atol=0)


def test_nnguide_of_all_neighbours_does_not_need_a_search() -> None:
    train, test = make(), make(30, seed=1)
    energy = train.logits.double().logsumexp(1, keepdim=True)
    guide = (torch.nn.functional.normalize(train.embeddings.double()) * energy).mean(0)
    expected = -(torch.nn.functional.normalize(test.embeddings.double()) @ guide) * test.logits.double().logsumexp(1)
    torch.testing.assert_close(scores(GuidedByNeighbours(k=100), train, test), expected, rtol=1e-6, atol=1e-6)


def test_the_relation_graph_is_minus_the_confidence_of_openood() -> None:
    # OpenOOD: f / sqrt(sum f^2 + 1e-10); sum of (|r| > 0.03) sign(r) |r|^pow with r = clamp(f f', 0) (p p')
    train, test = make(), make(30, seed=1)
    ours, theirs = (
        part.embeddings.double() / (part.embeddings.double().square().sum(1) + 1e-10).sqrt()[:, None]
        for part in (test, train)
    )
    relations = (ours @ theirs.T).clamp(min=0) * (test.logits.double().softmax(1) @ train.logits.double().softmax(1).T)
    confidence = ((relations.abs() > 0.03) * relations).sum(1)
    torch.testing.assert_close(scores(RelationGraph(), train, test), -confidence, rtol=1e-6, atol=1e-6)


def test_lof_is_the_formula_of_the_paper() -> None:
    k, train, test = 4, make(40), make(10, seed=1)
    points = train.embeddings.double()

    def neighbours(row: Tensor, among: list[int]) -> list[int]:
        return sorted(among, key=lambda i: (row - points[i]).norm().item())[:k]

    def others(i: int) -> list[int]:
        return [j for j in range(40) if j != i]

    reach = [(points[i] - points[neighbours(points[i], others(i))[-1]]).norm().item() for i in range(40)]

    def density(row: Tensor, near: list[int]) -> float:
        return 1 / np.mean([max((row - points[i]).norm().item(), reach[i]) for i in near])

    densities = [density(points[i], neighbours(points[i], others(i))) for i in range(40)]
    expected = []
    for row in test.embeddings.double():
        near = neighbours(row, list(range(40)))
        expected.append(np.mean([densities[i] for i in near]) / density(row, near))
    found = scores(LocalOutlierFactor(k=k), train, test)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.neighbors import Index, exact, index, vectors

METRICS = ("l2", "cosine", "inner")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_clusters(seed: int = 0) -> Tensor:
    return (8 * draw(40, 1, 24) + draw(40, 100, 24, seed=seed + 1)).reshape(-1, 24)


def slow_search(queries: Tensor, points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    values, indices = [], []
    for query in queries.double().numpy():
        rows = points.double().numpy()
        if metric == "l2":
            row = ((query - rows) ** 2).sum(1)
        else:
            row = rows @ query
            if metric == "cosine":
                norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
                row = np.where(norms > 0, row / np.where(norms > 0, norms, 1), 0)
        order = np.argsort(row if metric == "l2" else -row, kind="stable")[:k]
        values.append(row[order])
        indices.append(order)
    return torch.tensor(np.array(values)).reshape(-1, k), torch.tensor(np.array(indices)).reshape(-1, k)


@pytest.fixture(params=["float32", "float64"])
def every_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find candidates as usual, and by products in float64 for all queries."""
    if request.param == "float64":
        monkeypatch.setattr(exact, "_UNDERFLOW", torch.inf)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "ROWS", 300)
    monkeypatch.setattr(exact, "_QUERIES", 7)
    monkeypatch.setattr(exact, "_QUERIES_FLOAT64", 3)
    monkeypatch.setattr(exact, "_POINTS_FLOAT64", 200)
    monkeypatch.setattr(vectors, "_PAIR_NUMBERS", 100)


@pytest.mark.usefixtures("every_format")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "k", "points", "d"), [(60, 50, 5000, 32), (9, 3, 1000, 300), (5, 1, 1, 3), (7, 4, 4, 1)])
def test_the_search_equals_sorting_all_values(metric: Any, n: int, k: int, points: int, d: int) -> None:
    queries, among = draw(n, d), draw(points, d, seed=1) + 1
    values, indices = Index.build(among, metric).search(queries, k)
    expected, where = slow_search(queries, among, k, metric)
    torch.testing.assert_close(values, expected, rtol=1e-11, atol=1e-13)
    assert torch.equal(indices, where)


@pytest.mark.usefixtures("every_format", "small_parts")
@pytest.mark.parametrize("metric", METRICS)
def test_searching_part_by_part_gives_the_same(metric: Any) -> None:
    queries, points = draw(40, 16), draw(2000, 16, seed=1).sort(0).values  # sorted: each part is better than the last
    values, indices = Index.build(points, metric).search(queries, 20)
    expected, where = slow_search(queries, points, 20, metric)
    torch.testing.assert_close(values, expected, rtol=1e-11, atol=1e-13)
    assert torch.equal(indices, where)


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_does_not_feel_the_others(metric: Any) -> None:
    queries, built = draw(50, 24), Index.build(draw_clusters(), metric)
    together = built.search(queries, 10)
    for row in range(0, 50, 7):
        alone = built.search(queries[row : row + 1], 10)
        assert torch.equal(alone[0][0], together[0][row])
        assert torch.equal(alone[1][0], together[1][row])


@pytest.mark.usefixtures("every_format")
@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("metric", METRICS)
def test_points_too_close_for_the_format_are_told_apart(metric: Any, spread: float) -> None:
    queries, points = draw(8, 64), 1 + spread * draw(4000, 64, seed=1)
    indices = Index.build(points, metric).search(queries, 5)[1]
    assert torch.equal(indices, slow_search(queries, points, 5, metric)[1])


@pytest.mark.usefixtures("every_format")
@pytest.mark.parametrize("metric", METRICS)
def test_equal_points_come_in_the_order_of_their_indices(metric: Any) -> None:
    points = draw(10, 8, seed=1).repeat(30, 1)
    values, indices = Index.build(points, metric).search(draw(6, 8), 35)
    assert torch.equal(values, values.sort(1, descending=metric != "l2").values)
    assert all(row[:30].tolist() == list(range(row[0] % 10, 300, 10)) for row in indices)


@pytest.mark.usefixtures("every_format")
def test_points_that_are_all_the_same_are_borne() -> None:
    values, indices = Index.build(torch.ones(5000, 4)).search(torch.zeros(3, 4), 6)
    assert torch.equal(values, torch.full((3, 6), 4.0, dtype=torch.float64))
    assert indices.tolist() == [[0, 1, 2, 3, 4, 5]] * 3


@pytest.mark.parametrize("metric", METRICS)
def test_a_point_much_larger_than_the_others_leaves_the_order_exact(metric: Any) -> None:
    points = draw(3000, 12, seed=1)
    points[17] *= 1e6
    queries = draw(20, 12)
    assert torch.equal(Index.build(points, metric).search(queries, 9)[1], slow_search(queries, points, 9, metric)[1])


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e18, 1e30, 3e37])
@pytest.mark.parametrize("metric", METRICS)
def test_any_size_of_float32_is_searched(metric: Any, size: float) -> None:
    queries, points = draw(20, 6) * size, draw(500, 6, seed=1) * size
    assert torch.equal(Index.build(points, metric).search(queries, 5)[1], slow_search(queries, points, 5, metric)[1])


def test_zero_vectors_have_cosine_zero_with_everything() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    values, indices = Index.build(points, "cosine").search(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), 3)
    assert values.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]]
    assert indices.tolist() == [[0, 1, 2], [1, 0, 2]]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_broken_query_has_broken_values_and_leaves_the_others_alone(metric: Any, kind: Any) -> None:
    built, queries = Index.build(draw_clusters(), metric, kind), draw(4, 24)
    expected = built.search(queries, 3)
    queries[1, 0], queries[2, 1] = float("nan"), float("inf")
    values, indices = built.search(queries, 3)
    assert values.isfinite().all(1).tolist() == [True, False, False, True]
    assert ((indices >= 0) & (indices < len(built))).all()
    torch.testing.assert_close(values[[0, 3]], expected[0][[0, 3]], rtol=0, atol=0)


def test_more_neighbours_than_points_are_cut() -> None:
    built = Index.build(draw(5, 3))
    assert len(built) == 5
    assert built.search(draw(2, 3), 9)[0].shape == (2, 5)


def test_points_that_lie_in_a_file_are_not_copied(tmp_path: Path) -> None:
    points = draw(1000, 8, seed=1)
    np.save(tmp_path / "points.npy", points.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "points.npy", mmap_mode="c"))
    built = Index.build(mapped)
    assert built.points.data_ptr() == mapped.data_ptr()
    assert torch.equal(built.search(draw(9, 8), 4)[1], slow_search(draw(9, 8), points, 4, "l2")[1])


def test_points_too_many_to_keep_are_read_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    centred = vectors.Points.centred

    def watch(self: Any, rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return centred(self, rows)

    monkeypatch.setattr(exact, "ROWS", 100)
    monkeypatch.setattr(index, "_CACHED_NUMBERS", 1000)
    monkeypatch.setattr(vectors.Points, "centred", watch)
    built = Index.build(draw(950, 8))
    for _ in range(2):
        built.search(draw(3, 8), 2)
    assert sizes == ([3] + [100] * 9 + [50]) * 2  # the queries, then the points


def test_kept_points_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Index.build(draw(3000, 8))
    built.search(draw(3, 8), 2)
    monkeypatch.setattr(exact, "make_shards", None)
    built.search(draw(3, 8), 2)


def test_float64_searches_where_float32_is_not_certain_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    found = exact._find_in_float64
    monkeypatch.setattr(exact, "_find_in_float64", lambda *given: rows.append(len(given[1])) or found(*given))
    clusters = torch.cat([draw(100, 8), 100 + 1e-3 * draw(100, 8, seed=1)])
    built = Index.build(clusters)
    built.search(draw(7, 8), 5)
    built.search(torch.cat([draw(7, 8), 100 + 1e-3 * draw(4, 8)]), 5)
    assert rows == [4]


def test_no_points_are_refused() -> None:
    with pytest.raises(OODError, match=r"^nearest neighbours: there are no points to search among$"):
        Index.build(torch.empty(0, 3))


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_points_that_are_not_finite_are_refused(kind: Any) -> None:
    points = draw(100, 3)
    points[50, 1] = float("nan")
    with pytest.raises(OODError, match=r"^nearest neighbours: the points hold NaN or infinite values$"):
        Index.build(points, kind=kind)


def test_more_lists_than_points_are_refused() -> None:
    with pytest.raises(OODError, match=r"^nearest neighbours: 9 lists need at least as many points, there are 5$"):
        Index.build(draw(5, 3), kind="ivf", lists=9)

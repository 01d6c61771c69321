from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.neighbors import Index, exact, index

METRICS = ("l2", "cosine", "inner")
FORMATS = {
    "bfloat16": (torch.bfloat16, torch.float32, torch.float64),
    "float32": (torch.float32, torch.float64),
    "float64": (torch.float64,),
}


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


@pytest.fixture(params=list(FORMATS))
def every_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin in each format; bfloat16 is slow where the CPU lacks it, and as right."""
    monkeypatch.setattr(exact, "formats", lambda place: FORMATS[request.param])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_SHARD_ROWS", 300)
    monkeypatch.setattr(exact, "_QUERIES", 7)
    monkeypatch.setattr(exact, "_PAIR_NUMBERS", 100)


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
    shard = exact.Frame.shard

    def watch(self: Any, first: int, last: int, form: torch.dtype) -> Any:
        sizes.append(last - first)
        return shard(self, first, last, form)

    monkeypatch.setattr(exact, "_SHARD_ROWS", 100)
    monkeypatch.setattr(index, "_KEPT_NUMBERS", 1000)
    monkeypatch.setattr(exact.Frame, "shard", watch)
    built = Index.build(draw(950, 8))
    built.search(draw(3, 8), 2)
    assert sizes[:10] == [100] * 9 + [50]
    assert built._kept == ()


def test_kept_points_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Index.build(draw(3000, 8))
    built.search(draw(3, 8), 2)
    monkeypatch.setattr(exact, "cut", None)
    built.search(draw(3, 8), 2)


def test_a_cpu_without_bfloat16_begins_with_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "has_bfloat16", lambda: False)
    assert exact.formats("cpu") == (torch.float32, torch.float64)


def check_bounds(queries: Tensor, points: Tensor, metric: Any, form: torch.dtype) -> Tensor:
    """Return how much of its bound the error of each product takes up."""
    frame = exact.Frame(points, metric)
    shard = frame.shard(0, len(points), form)
    side = frame.side(queries, shard)
    products = (side.rows @ shard.rows.T).double()
    every = torch.arange(len(points)).repeat(len(queries), 1)
    true = exact.measure(queries, frame, every)
    off = products - (-true / 2 if metric == "l2" else true) / side.unit[:, None]
    bound = side.error[:, None] + side.result * products.abs()
    least, most = (off - bound).amax(1), (off + bound).amin(1)  # what depends on the query only may be added to all
    assert (least <= most).all()
    return (off - off.mean(1, keepdim=True)).abs() / bound


@pytest.mark.parametrize("form", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_the_bounds_hold_for_every_pair_and_are_not_idle(form: torch.dtype, metric: Any, offset: float) -> None:
    queries = draw(64, 100) * torch.logspace(-3, 3, 64)[:, None]
    used = check_bounds(queries, draw(500, 100, seed=1) + offset, metric, form)
    if form == torch.bfloat16:
        assert used.max() > 0.05


@pytest.mark.parametrize("form", [torch.bfloat16, torch.float32])
def test_the_bounds_hold_where_only_the_bias_needs_rounding(form: torch.dtype) -> None:
    whole = torch.randint(-3, 4, (500, 64), generator=torch.Generator().manual_seed(0)).float()
    check_bounds(whole[:64] / 2, torch.cat([whole, -whole]), "l2", form)  # the centre is 0


def test_one_wide_pair_is_summed_as_it_is_among_others() -> None:
    queries, points = draw(3, 50_000), draw(1, 50_000, seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone, together = (Index.build(points).search(some, 1)[0] for some in (queries[:1], queries))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[0], together[0])


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

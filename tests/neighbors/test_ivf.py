import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from ood_core.neighbors import Index, exact, faiss_backend, index

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


@pytest.mark.parametrize("kind", ["ivf", "ivf-pq"])
@pytest.mark.parametrize("metric", METRICS)
def test_what_an_inverted_file_finds_has_its_exact_value(metric: Any, kind: Any) -> None:
    points, queries = draw_clusters(), draw_clusters(seed=7)[::50]
    values, indices = Index.build(points, metric, kind).search(queries, 10)
    expected = slow_search(queries, points, len(points), metric)
    for row in range(len(queries)):
        true = torch.empty(len(points), dtype=torch.float64).scatter(0, expected[1][row], expected[0][row])
        torch.testing.assert_close(values[row], true[indices[row]], rtol=1e-11, atol=1e-13)
    assert torch.equal(values, values.sort(1, descending=metric != "l2").values)


def test_the_recall_is_the_part_of_the_true_neighbours_that_is_found() -> None:
    points = draw(4000, 16)
    few, many = (Index.build(points, kind="ivf", lists=64, probes=probes) for probes in (1, 64))
    assert (many.recall, many.far_recall) == (1.0, 1.0)
    assert 0.05 < few.recall < 0.8
    queries = draw(300, 16, seed=5)
    found, true = few.search(queries, 50)[1], slow_search(queries, points, 50, "l2")[1]
    share = np.mean([len(set(a.tolist()) & set(b.tolist())) / 50 for a, b in zip(found, true, strict=True)])
    assert abs(share - few.recall) < 0.15


def test_clustered_points_need_few_probes() -> None:
    built = Index.build(draw_clusters(), kind="ivf", lists=40)
    assert built.recall >= index.RECALL
    assert built.probes <= 5
    assert Index.build(draw_clusters(), kind="ivf", lists=40, probes=built.probes // 2).recall < index.RECALL


def test_a_low_recall_is_a_warning_and_a_high_one_a_note(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ood_core.neighbors.index"):
        Index.build(draw(4000, 16), kind="ivf", lists=64, probes=1)
        Index.build(draw(4000, 16), kind="ivf", lists=64, probes=64)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "ivf: 1 of 64 lists hold" in caplog.text
    assert "kind 'flat' finds all" in caplog.text


def test_queries_whose_lists_hold_too_few_points_are_searched_exactly() -> None:
    points = draw(300, 4)
    values, indices = Index.build(points, kind="ivf", lists=100, probes=1).search(draw(9, 4), 200)
    expected, where = slow_search(draw(9, 4), points, 200, "l2")
    torch.testing.assert_close(values, expected)
    assert torch.equal(indices, where)


def test_equal_seeds_give_equal_files() -> None:
    one, same, other = (Index.build(draw_clusters(), kind="ivf", seed=seed).code for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-pq"])
def test_an_index_survives_its_fields(kind: Any) -> None:
    built, queries = Index.build(draw_clusters(), "cosine", kind), draw(30, 24)
    plain = {field.name: getattr(built, field.name) for field in fields(built)}
    assert all(isinstance(value, (Tensor, int, float, str)) for value in plain.values())
    tensors = {name: value.clone() for name, value in plain.items() if isinstance(value, Tensor)}
    rest = json.loads(json.dumps({name: value for name, value in plain.items() if name not in tensors}))
    again = Index(**tensors, **rest).search(queries, 5)
    assert torch.equal(again[0], built.search(queries, 5)[0])
    assert torch.equal(again[1], built.search(queries, 5)[1])


def test_the_file_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Index.build(draw_clusters(), kind="ivf")
    built = Index(**{field.name: getattr(built, field.name) for field in fields(built)})
    opened = []
    deserialize = faiss.deserialize_index
    monkeypatch.setattr(faiss, "deserialize_index", lambda code: opened.append(1) or deserialize(code))
    for _ in range(3):
        built.search(draw(4, 24), 2)
    assert opened == [1]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_threads_can_share_an_index(kind: Any) -> None:
    built, queries = Index.build(draw_clusters(), kind=kind), draw(100, 24)
    expected = built.search(queries, 5)
    fresh = Index(**{field.name: getattr(built, field.name) for field in fields(built)})
    with ThreadPoolExecutor(4) as pool:
        for values, indices in pool.map(lambda _: fresh.search(queries, 5), range(12), timeout=60):
            assert torch.equal(values, expected[0])
            assert torch.equal(indices, expected[1])


# ---------------------------------------------------------------------------------------------------- GPUs


class FakeGpuIndex:
    """Stand in for an index on GPUs, which returns the last of equal points first."""

    def __init__(self, index: Any) -> None:
        self.index, self.ntotal, self.searches = index, index.ntotal, []

    def search(self, queries: Any, count: int) -> Any:
        self.searches.append(count)
        points = np.ascontiguousarray(self.index.reconstruct_n(0, self.ntotal)[::-1])
        values, indices = faiss.knn(queries, points, count, metric=self.index.metric_type)
        return values, self.ntotal - 1 - indices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[FakeGpuIndex]:
    made: list[FakeGpuIndex] = []

    def to_gpus(resources: Any, index: Any, options: Any) -> FakeGpuIndex:
        assert (len(resources), options.shard) == (2, True)
        made.append(FakeGpuIndex(index))
        return made[-1]

    monkeypatch.setattr(faiss_backend, "gpus", lambda: 2)
    monkeypatch.setattr(faiss_backend, "_gpu_resources", lambda: ["first", "second"])
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu_multiple_py", to_gpus, raising=False)
    return made


@pytest.mark.parametrize("metric", METRICS)
def test_gpus_give_what_the_cpu_gives(
    metric: Any, two_gpus: list[FakeGpuIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "ROWS", 700)
    queries, points = draw(50, 16), draw(2000, 16, seed=1)
    values, indices = Index.build(points, metric, device="gpu").search(queries, 30)
    expected, where = Index.build(points, metric, device="cpu").search(queries, 30)
    assert [shard.searches for shard in two_gpus] == [[48]] * 3
    assert torch.equal(values, expected)
    assert torch.equal(indices, where)


def test_ties_that_a_gpu_cannot_break_are_broken_on_the_cpu(two_gpus: list[FakeGpuIndex]) -> None:
    points = draw(2, 8).repeat(500, 1)
    assert Index.build(points).search(points[:1], 5)[1].tolist() == [[0, 2, 4, 6, 8]]
    assert two_gpus[0].searches


def test_more_neighbours_than_a_gpu_finds_are_searched_on_the_cpu(two_gpus: list[FakeGpuIndex]) -> None:
    queries, points = draw(3, 8), draw(5000, 8, seed=1)
    assert torch.equal(Index.build(points).search(queries, 2500)[1], slow_search(queries, points, 2500, "l2")[1])
    assert not any(shard.searches for shard in two_gpus)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-pq"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_gpu_gives_what_the_cpu_gives(metric: Any, kind: Any) -> None:
    if not faiss_backend.gpus():
        pytest.skip("no GPU that faiss can use: parity of CPU and GPU is not checked")
    queries, points = draw(2000, 64), draw(20_000, 64, seed=1)
    on_cpu = Index.build(points, metric, kind, lists=64, probes=8, device="cpu")
    on_gpu = Index(**{field.name: getattr(on_cpu, field.name) for field in fields(on_cpu)} | {"device": "gpu"})
    values, indices = on_gpu.search(queries, 50)
    expected, where = on_cpu.search(queries, 50)
    if kind == "flat":
        assert torch.equal(values, expected)
        assert torch.equal(indices, where)
    else:  # float32 decides which lists are near, and which codes
        assert (indices == where).double().mean() > 0.99

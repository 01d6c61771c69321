import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.neighbors import faiss_backend, kmeans, nearest


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    distances = (queries[:, None] - points[None]).square().sum(2)
    return distances.min(1).values, distances.argmin(1)


@pytest.mark.parametrize(("n", "k", "d"), [(200, 50, 16), (5, 1, 3), (7, 3, 1), (0, 4, 2)])
def test_nearest_equals_the_search_through_all_distances(n: int, k: int, d: int) -> None:
    queries, points = draw(n, d), draw(k, d, seed=1)
    distance, index = nearest(queries, points)
    expected, where = slow_nearest(queries, points)
    torch.testing.assert_close(distance, expected, rtol=1e-12, atol=0)
    assert torch.equal(index, where)


def test_a_large_common_offset_costs_no_precision() -> None:
    queries, points = draw(100, 8), draw(20, 8, seed=1)
    distance, index = nearest(queries + 1e9, points + 1e9)  # float32 has steps of 64 there
    expected, where = slow_nearest(queries, points)
    torch.testing.assert_close(distance, expected, rtol=1e-5, atol=0)
    assert torch.equal(index, where)


def test_a_near_tie_that_float32_cannot_see_is_decided_in_float64() -> None:
    points = torch.tensor([[1.0], [1.0 - 1e-9], [1.0 + 1e-9], [9.0], [-9.0], [5.0]], dtype=torch.float64)
    assert nearest(torch.zeros(3, 1), points)[1].tolist() == [1, 1, 1]


def test_the_first_of_equally_near_points_wins() -> None:
    points = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    distance, index = nearest(torch.zeros(1, 2), points)
    assert (distance.item(), index.item()) == (1.0, 1)


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e100])
def test_sizes_outside_of_float32_are_measured(size: float) -> None:
    queries, points = draw(50, 4), draw(9, 4, seed=1)
    distance, index = nearest(queries * size, points * size)
    assert torch.equal(index, slow_nearest(queries, points)[1])
    torch.testing.assert_close(distance / size**2, slow_nearest(queries, points)[0], rtol=1e-9, atol=0)


def test_a_query_far_outside_has_its_true_distance() -> None:
    distance, index = nearest(draw(1, 4) * 1e60, draw(9, 4, seed=1))
    assert 0 <= index.item() < 9
    torch.testing.assert_close(distance, (draw(1, 4) * 1e60).square().sum(1))


def test_a_broken_query_has_a_broken_distance_and_leaves_its_neighbours_alone() -> None:
    queries, points = draw(4, 3), draw(6, 3, seed=1)
    expected = nearest(queries, points)[0]
    queries[1, 0], queries[2, 1] = float("nan"), float("inf")
    distance, _ = nearest(queries, points)
    assert distance.isfinite().tolist() == [True, False, False, True]
    torch.testing.assert_close(distance[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("points", [1, 2, 50])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 1e4])
def test_the_distance_is_exact_however_close_the_points_are(points: int, spread: float) -> None:
    centres, queries = 1 + spread * draw(points, 8, seed=1), 1 + draw(700, 8)
    torch.testing.assert_close(nearest(queries, centres)[0], slow_nearest(queries, centres)[0], rtol=1e-13, atol=0)


def test_a_query_on_a_point_has_distance_zero() -> None:
    centres = 1e3 * draw(40, 8)
    assert not nearest(centres, centres)[0].any()


def test_the_distance_has_a_gradient() -> None:
    queries, points = draw(4, 3).requires_grad_(), draw(5, 3, seed=1)
    distance, index = nearest(queries, points)
    distance.sum().backward()
    torch.testing.assert_close(queries.grad, 2 * (queries - points[index]).detach())


def test_kmeans_finds_separate_groups() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + 0.1 * draw(3, 100, 2).float()).reshape(-1, 2)
    found = kmeans(points, 3, seed=0)
    assert found.dtype == torch.float32
    assert nearest(centres, found)[0].max() < 0.01


def test_equal_seeds_give_equal_centroids_and_other_seeds_others() -> None:
    points = draw(3000, 12)  # more than 256 a cluster, so that the subsample is drawn too
    first = kmeans(points, 8, seed=3)
    assert torch.equal(first, kmeans(points, 8, seed=3))
    assert not torch.equal(first, kmeans(points, 8, seed=4))


def test_more_iterations_fit_better() -> None:
    points = draw(800, 6)
    spread = [nearest(points, kmeans(points, 16, seed=0, iterations=rounds))[0].sum() for rounds in (1, 25)]
    assert spread[1] < spread[0]


def test_clusters_that_run_empty_leave_finite_centroids() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(50, 1)  # two different points, ten clusters
    found = kmeans(points, 10, seed=0)
    assert found.shape == (10, 2)
    assert found.isfinite().all()
    assert nearest(points, found)[0].max() < 0.01


def test_as_many_clusters_as_points_gives_the_points() -> None:
    points = draw(5, 3)
    assert nearest(points, kmeans(points, 5, seed=0))[0].max() < 1e-12


def test_kmeans_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    kmeans(draw(20, 3), 10, seed=0)
    assert capfd.readouterr() == ("", "")


def test_fewer_points_than_clusters_are_refused() -> None:
    with pytest.raises(OODError, match=r"^k-means: 8 clusters need at least as many points, there are 5$"):
        kmeans(draw(5, 3), 8, seed=0)


def test_points_that_are_not_finite_are_refused() -> None:
    points = draw(5, 3)
    points[2, 1] = float("nan")
    with pytest.raises(OODError, match=r"^k-means: the points hold NaN or infinite values$"):
        kmeans(points, 2, seed=0)


def test_spherical_centroids_have_norm_one_and_size_of_points_does_not_count() -> None:
    points = draw(600, 5)
    found = kmeans(points, 4, seed=0, spherical=True)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(found, kmeans(points * draw(600, 1, seed=1).abs().exp(), 4, seed=0, spherical=True))


def test_spherical_clusters_separate_directions_that_plain_ones_mix() -> None:
    size = torch.tensor([[0.1], [10.0]]).repeat(50, 1)
    points = torch.cat([size * torch.tensor([[1.0, 0.0]]), size * torch.tensor([[0.0, 1.0]])])
    directions = torch.eye(2)
    assert nearest(directions, kmeans(points, 2, seed=0, spherical=True))[0].max() < 1e-6


def test_a_large_common_offset_does_not_move_clusters() -> None:
    points = draw(300, 4)
    found = kmeans(points + 1e6, 5, seed=0).double() - 1e6  # float32 has steps of 0.06 there
    torch.testing.assert_close(found, kmeans(points, 5, seed=0).double(), rtol=0, atol=0.1)


def test_zero_vectors_among_spherical_points_are_borne() -> None:
    points = torch.cat([torch.zeros(10, 3), draw(50, 3).float()])
    assert kmeans(points, 4, seed=0, spherical=True).isfinite().all()


def test_the_best_of_several_starts_is_returned() -> None:
    points = (10 * draw(12, 1, 4) + 0.1 * draw(12, 30, 4, seed=1)).reshape(-1, 4)
    single = [nearest(points, kmeans(points, 12, seed=seed))[0].sum().item() for seed in range(8)]
    several = [nearest(points, kmeans(points, 12, seed=seed, restarts=8))[0].sum().item() for seed in range(8)]
    assert max(several) < max(single)
    assert sum(several) < sum(single)


@pytest.mark.parametrize("spherical", [False, True])
def test_one_round_is_lloyds(spherical: bool) -> None:
    points = draw(300, 4) + (0.0 if spherical else 100.0)
    before, after = (kmeans(points, 6, seed=0, iterations=n, spherical=spherical).double() for n in (3, 4))
    rows = points / points.norm(dim=1, keepdim=True) if spherical else points
    owner = torch.cdist(rows, before).argmin(1)
    expected = torch.stack([rows[owner == cluster].mean(0) for cluster in range(6)])
    if spherical:
        expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_two_builds_of_faiss_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_backend, "distributions", lambda name: iter({"faiss-cpu", "faiss-gpu"} & {name}))
    faiss_backend.faiss.cache_clear()
    message = (
        r"^faiss-cpu and faiss-gpu are installed and overwrite each other's folder faiss; "
        r"run: pip uninstall -y faiss-cpu faiss-gpu, then: pip install faiss-gpu \(or faiss-cpu\)$"
    )
    with pytest.raises(OODError, match=message):
        kmeans(draw(2, 2), 1, seed=0)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_backend, "gpus", lambda: 0)
    message = r"^neighbours: device 'gpu', but faiss has no GPU here; install faiss-gpu, or say 'auto' or 'cpu'$"
    with pytest.raises(OODError, match=message):
        faiss_backend.choose_device("gpu")
    assert (faiss_backend.choose_device("auto"), faiss_backend.choose_device("cpu")) == ("cpu", "cpu")


def test_a_gpu_is_used_unless_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_backend, "gpus", lambda: 2)
    assert [faiss_backend.choose_device(wanted) for wanted in ("auto", "gpu", "cpu")] == ["gpu", "gpu", "cpu"]


def test_importing_the_module_does_not_import_faiss() -> None:
    code = "import sys, ood_core.neighbors; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_faiss_and_torch_work_side_by_side_in_threads() -> None:
    queries, points = draw(400, 64), draw(100, 64, seed=1)
    expected = nearest(queries, points)[0]

    def work(_: int) -> Tensor:
        (queries @ queries.T).softmax(1)
        return nearest(queries, points)[0]

    with ThreadPoolExecutor(4) as pool:
        for distance in pool.map(work, range(16), timeout=60):
            torch.testing.assert_close(distance, expected)

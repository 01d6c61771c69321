"""Search for nearest neighbours, beside a bare flat search by faiss, scikit-learn's brute force, and ourselves.

python benchmarks/neighbors.py
"""

import time

import faiss
import torch
from sklearn.neighbors import NearestNeighbors

from ood_core.neighbors import Index, exact, nearest

POINTS, QUERIES, CLASSES, DIMENSIONS, NEIGHBOURS, REPETITIONS = 100_000, 2048, 1000, 768, 50, 3


def draw(kind, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, DIMENSIONS, generator=generator)
    if kind == "noise":
        return noise
    centres = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(9))
    return centres[torch.randint(CLASSES, (rows,), generator=generator)] + 0.5 * noise


def best(actions):
    """Return the best time of each action, taken in turn."""
    times = {name: [] for name in actions}
    for _ in range(REPETITIONS):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - begun)
    return {name: min(taken) for name, taken in times.items()}


def show(what, times, beside):
    print(f"  {what:34} {times[what]:7.3f} s  {times[beside] / times[what]:5.2f} x as fast as {beside}")


def compare(kind):
    points, queries = draw(kind, POINTS, 0), draw(kind, QUERIES, 1)
    print(f"{kind}: {QUERIES} queries, {POINTS} points, {DIMENSIONS} dimensions, {NEIGHBOURS} neighbours")
    indices = {metric: Index.build(points, metric) for metric in ("l2", "cosine")}
    brute = NearestNeighbors(algorithm="brute").fit(points.numpy())
    bare, slow = "faiss.knn", "scikit-learn brute"
    actions = {
        bare: lambda: faiss.knn(queries.numpy(), points.numpy(), NEIGHBOURS),
        slow: lambda: brute.kneighbors(queries.numpy(), NEIGHBOURS),
        "exact, points new": lambda: exact.search(queries, exact.Frame(points, "l2"), NEIGHBOURS),
        "exact": lambda: indices["l2"].search(queries, NEIGHBOURS),
        "exact, cosine": lambda: indices["cosine"].search(queries, NEIGHBOURS),
    }
    if kind == "classes":
        for name in ("ivf", "ivf-pq"):
            indices[name] = built = Index.build(points, kind=name)
            found = f"recall {built.recall:.3f}, of far queries {built.far_recall:.3f}"
            print(f"  {name}: {built.probes} of {built.lists} lists, {found}")
            actions[name] = lambda built=built: built.search(queries, NEIGHBOURS)
    for index in indices.values():
        index.search(queries[:10], NEIGHBOURS)  # kept points are prepared at the first search
    times = best(actions)
    narrow, exact.has_bfloat16 = exact.has_bfloat16, lambda: False
    wide = Index.build(points)
    times |= best({"exact, without bfloat16": lambda: wide.search(queries, NEIGHBOURS)})
    exact.has_bfloat16 = narrow
    for what in times:
        show(what, times, bare)
    show("exact", times, slow)
    if kind == "classes":
        show("ivf", times, "exact")


def compare_one():
    queries, points = draw("classes", 8192, 0), draw("classes", CLASSES, 1)
    print(f"{len(queries)} queries, {len(points)} points, {DIMENSIONS} dimensions, 1 neighbour")
    times = best(
        {
            "faiss.knn": lambda: faiss.knn(queries.numpy(), points.numpy(), 1),
            "nearest, float32": lambda: nearest(queries, points),
            "nearest, float64": lambda: nearest(queries.double(), points.double()),
        }
    )
    for what in times:
        show(what, times, "faiss.knn")


def main():
    compare_one()
    compare("classes")
    compare("noise")


if __name__ == "__main__":
    main()

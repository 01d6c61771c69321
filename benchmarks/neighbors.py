"""Search for nearest neighbours, beside a bare flat search by faiss and scikit-learn's brute force.

OMP_NUM_THREADS=1 python benchmarks/neighbors.py
"""

import time

import faiss
import torch
from sklearn.neighbors import NearestNeighbors

from ood_core.neighbors import Index, nearest

POINTS, QUERIES, CLASSES, DIMENSIONS, NEIGHBOURS, REPETITIONS = 50_000, 2000, 500, 768, 50, 3
SPREADS = {"classes": 0.5, "narrow classes": 0.05, "noise": None}


def draw(kind, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, DIMENSIONS, generator=generator)
    if SPREADS[kind] is None:
        return noise
    centres = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(9))
    return centres[torch.randint(CLASSES, (rows,), generator=generator)] + SPREADS[kind] * noise


def best(actions):
    """Return the best CPU time of each action, taken in turn, on which other work on the machine has little effect."""
    times = {name: [] for name in actions}
    for _ in range(REPETITIONS):
        for name, action in actions.items():
            begun = time.process_time()
            action()
            times[name].append(time.process_time() - begun)
    return {name: min(taken) for name, taken in times.items()}


def show(times, beside):
    for what, taken in times.items():
        print(f"  {what:34} {taken:7.3f} s  {taken / times[beside]:5.2f} of the time of {beside}")


def compare(kind):
    points, queries = draw(kind, POINTS, 0), draw(kind, QUERIES, 1)
    print(f"{kind}: {QUERIES} queries, {POINTS} points, {DIMENSIONS} dimensions, {NEIGHBOURS} neighbours")
    indices = {metric: Index.build(points, metric) for metric in ("l2", "cosine")}
    flat = faiss.IndexFlatL2(DIMENSIONS)
    flat.add(points.numpy())
    brute = NearestNeighbors(algorithm="brute").fit(points.numpy())
    bare = "faiss.IndexFlatL2"
    actions = {
        bare: lambda: flat.search(queries.numpy(), NEIGHBOURS),
        "scikit-learn brute": lambda: brute.kneighbors(queries.numpy(), NEIGHBOURS),
        "Index, l2": lambda: indices["l2"].search(queries, NEIGHBOURS),
        "Index, cosine": lambda: indices["cosine"].search(queries, NEIGHBOURS),
    }
    if kind == "classes":
        for name in ("ivf", "ivf-pq"):
            indices[name] = built = Index.build(points, kind=name)
            found = f"recall {built.recall:.3f}, of far queries {built.far_recall:.3f}"
            print(f"  {name}: {built.probes} of {built.lists} lists, {found}")
            actions[f"Index, {name}"] = lambda built=built: built.search(queries, NEIGHBOURS)
    for index in indices.values():
        index.search(queries[:10], NEIGHBOURS)  # shards are prepared at the first search
    show(best(actions), bare)
    squares, places = (torch.from_numpy(part) for part in flat.search(queries.numpy(), NEIGHBOURS))
    values, found = indices["l2"].search(queries, NEIGHBOURS)
    order = (places == found).double().mean()
    same = (places[:, :, None] == found[:, None]).any(2).double().mean()
    print(f"  the same neighbours as {bare}: {same:.4%}, at the same rank {order:.4%}; ", end="")
    print(f"squared distances differ by at most {((squares - values).abs() / values).max():.1e} of themselves")


def compare_one():
    queries, points = draw("classes", 8192, 0), draw("classes", CLASSES, 1)
    print(f"{len(queries)} queries, {len(points)} points, {DIMENSIONS} dimensions, 1 neighbour")
    actions = {
        "faiss.knn": lambda: faiss.knn(queries.numpy(), points.numpy(), 1),
        "nearest, float32": lambda: nearest(queries, points),
        "nearest, float64": lambda: nearest(queries.double(), points.double()),
    }
    show(best(actions), "faiss.knn")


def main():
    compare_one()
    for kind in SPREADS:
        compare(kind)


if __name__ == "__main__":
    main()

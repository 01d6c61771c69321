"""Bootstrap intervals beside loops over resamples, DeLong's test beside the kernel of every pair, and their memory.

OMP_NUM_THREADS=1 python benchmarks/inference.py
"""

import time
import tracemalloc

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from ood_core.evaluation.metrics import measure
from ood_core.evaluation.significance import bootstrap, delong, placements

SCORES = 10_000
"""Of each set, in the comparison."""

RESAMPLES = 1000

MANY = 1_000_000
"""Of each set, in the last lines."""


def best(function, repeats=3):
    """Return the shortest of some runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def peak(function):
    """Return the memory that the function allocates at most, in MB; tracing makes it slower, so it is not timed."""
    tracemalloc.start()
    function()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found / 1e6


def loop(function, id_scores, ood_scores, resamples):
    """Resample and call the function on each, as one would write it down."""
    random = np.random.default_rng(0)
    for _ in range(resamples):
        function(random.choice(id_scores, len(id_scores)), random.choice(ood_scores, len(ood_scores)))


def by_measure(id_scores, ood_scores):
    measure(torch.from_numpy(id_scores), torch.from_numpy(ood_scores))


def area(id_scores, ood_scores):
    roc_auc_score(np.repeat([0, 1], [len(id_scores), len(ood_scores)]), np.concatenate([id_scores, ood_scores]))


def by_scikit_learn(id_scores, ood_scores):
    scores, is_ood = np.concatenate([id_scores, ood_scores]), np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    roc_auc_score(is_ood, scores)
    average_precision_score(is_ood, scores)
    average_precision_score(1 - is_ood, -scores)
    np.mean(ood_scores <= np.quantile(id_scores, 0.95))


def kernel(id_scores, ood_scores):
    """The components of DeLong's variance from the N x M matrix of the kernel."""
    psi = (ood_scores > id_scores[:, None]) + 0.5 * (ood_scores == id_scores[:, None])
    return psi.mean(0), psi.mean(1)


def intervals(id_scores, ood_scores):
    """Print the cost of the intervals of one row, beside the loops; those run a tenth of the resamples."""
    tenth, both = RESAMPLES // 10, (id_scores, ood_scores)
    rows = {
        "bootstrap": best(lambda: bootstrap(id_scores, ood_scores, RESAMPLES)),
        "... scores rounded to two digits": best(lambda: bootstrap(id_scores.round(2), ood_scores.round(2), RESAMPLES)),
        "loop over ood_core.evaluation.metrics.measure": best(lambda: loop(by_measure, *both, tenth), 2) * 10,
        "loop over scikit-learn, AUROC alone": best(lambda: loop(area, *both, tenth), 2) * 10,
        "loop over scikit-learn, the same numbers": best(lambda: loop(by_scikit_learn, *both, tenth), 1) * 10,
    }
    print(f"{RESAMPLES} resamples of {len(id_scores)} + {len(ood_scores)} scores")
    for name, seconds in rows.items():
        print(f"  {name:42} {seconds:8.3f} s  {seconds / rows['bootstrap']:7.1f}")
    print(f"  memory at most {peak(lambda: bootstrap(id_scores, ood_scores, tenth)):.1f} MB")


def difference(id_scores, ood_scores):
    """Print what DeLong's test of two detectors costs, beside their matrices of pairs."""

    def ours():
        delong(placements(id_scores, ood_scores), placements(-id_scores, -ood_scores))

    seconds, slow = best(ours), best(lambda: (kernel(id_scores, ood_scores), kernel(-id_scores, -ood_scores)), 1)
    print(f"DeLong's test of two detectors, {len(id_scores)} + {len(ood_scores)} scores")
    print(f"  {'placements and delong':42} {seconds:8.3f} s  {1:7.1f}  {peak(ours):8.1f} MB")
    memory = peak(lambda: kernel(id_scores, ood_scores))
    print(f"  {'the kernel of every pair':42} {slow:8.3f} s  {slow / seconds:7.1f}  {memory:8.1f} MB")


def main():
    """Print seconds, ratios and megabytes."""
    random = np.random.default_rng(0)
    many = random.standard_normal(MANY), random.standard_normal(MANY) + 1
    id_scores, ood_scores = (scores[:SCORES] for scores in many)
    intervals(id_scores, ood_scores)
    difference(id_scores, ood_scores)
    few = best(lambda: bootstrap(*many, 10), 2) - best(lambda: bootstrap(*many, 1), 2)
    print(f"{MANY} + {MANY} scores")
    print(f"  each resample {few / 9:.3f} s, memory at most {peak(lambda: bootstrap(*many, 2)):.0f} MB")
    pair = best(lambda: delong(placements(*many), placements(*many)), 1)
    print(f"  DeLong's test {pair:.2f} s, memory at most {peak(lambda: placements(*many)):.0f} MB")


if __name__ == "__main__":
    main()

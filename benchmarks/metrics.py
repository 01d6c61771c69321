"""All metrics of ten million scores, beside one sort of them, and scikit-learn for the same numbers.

python benchmarks/metrics.py
"""

import time

import numpy as np
import torch
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from ood_core.evaluation.metrics import measure

SCORES = 5_000_000
"""Of each set."""


def best(function, repeats=3):
    """Return the shortest of some runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def scikit_learn(id_scores, ood_scores):
    """Compute what `measure` does, without ties, out of scikit-learn's parts."""
    scores, is_ood = (
        np.concatenate([id_scores, ood_scores]),
        np.repeat([False, True], [len(id_scores), len(ood_scores)]),
    )
    roc_auc_score(is_ood, scores)
    roc_curve(is_ood, scores)
    for positive, sign in ((is_ood, 1), (~is_ood, -1)):
        average_precision_score(positive, sign * scores)
        precision, recall, _ = precision_recall_curve(positive, sign * scores)
        auc(recall, precision)
    np.quantile(id_scores, 0.95)


def main():
    """Print seconds and ratios."""
    random = np.random.default_rng(0)
    id_scores, ood_scores = random.standard_normal(SCORES), random.standard_normal(SCORES) + 1
    together = np.concatenate([id_scores, ood_scores])
    one_sort = best(lambda: np.sort(together))
    ours = best(lambda: measure(torch.from_numpy(id_scores), torch.from_numpy(ood_scores)))
    tied = [torch.from_numpy(np.round(scores, 3)) for scores in (id_scores, ood_scores)]
    rows = {
        "np.sort of all scores": one_sort,
        "np.argsort, stable, as scikit-learn sorts": best(lambda: np.argsort(together, kind="stable"), 1),
        "ood_core.evaluation.metrics.measure": ours,
        "the same, scores rounded to three digits": best(lambda: measure(*tied)),
        "scikit-learn, the same numbers": best(lambda: scikit_learn(id_scores, ood_scores), 1),
    }
    for name, seconds in rows.items():
        print(f"{name:45} {seconds:7.2f} s  {seconds / one_sort:6.2f} sorts")


if __name__ == "__main__":
    main()

"""Isolation forest: random trees of scikit-learn, in which outliers are isolated after few splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.interfaces import NonNegativeInt, Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_density.sample import sample_embeddings


@dataclass(frozen=True)
class Isolation(Score):
    """2^(-h / c) in (0, 1]: h the mean depth of an embedding's leaves, c the mean depth in a random search tree.

    The nodes of all trees are concatenated; the children of a leaf are the leaf itself.
    """

    roots: Tensor  # int64 [T]
    features: Tensor  # int64 [M], the dimension that a node compares
    thresholds: Tensor  # float64 [M]; embeddings up to it go left
    children: Tensor  # int64 [M, 2], left and right
    lengths: Tensor  # float64 [M], depth of a leaf plus the expected depth of the subtree that was not grown
    depth: int  # of the deepest tree
    scale: float  # c

    def __call__(self, outputs: Outputs) -> Tensor:
        embeddings = outputs.embeddings.float()  # as the thresholds were drawn
        nodes = self.roots.expand(len(embeddings), -1)
        for _ in range(min(self.depth, len(self.features))):  # no tree is deeper than it has nodes
            right = embeddings.gather(1, self.features[nodes]) > self.thresholds[nodes]
            nodes = self.children[nodes, right.long()]
        return 2 ** (-self.lengths[nodes].mean(1) / self.scale)


@dataclass(frozen=True, kw_only=True)
class IsolationForest(Scorer):
    """How soon random splits leave an embedding alone (isolation forest, Liu et al., 2008).

    Attributes:
        trees: Number of trees; 100 in scikit-learn.
        samples: Training images that each tree is grown from; 256 in the paper and scikit-learn.
        seed: Draws the trees.
    """

    name = "isolation-forest"
    scores = Isolation
    info = ScorerInfo(
        paper="Liu, Ting and Zhou, 2008, Isolation forest",
        formula="2^(-mean depth / c)",
        fit="trees samples log samples",
        score="trees log samples",
    )

    trees: PositiveInt = 100
    samples: PositiveInt = 256
    seed: NonNegativeInt = 0

    def fit(self, train: Outputs) -> Isolation:
        """Grow the trees; no more training images are read than all trees together can use."""
        from sklearn.ensemble import IsolationForest as Forest

        rows = sample_embeddings(train, self.trees * self.samples, self.seed, self.name).float()
        samples = min(self.samples, len(rows))
        forest = Forest(n_estimators=self.trees, max_samples=samples, random_state=self.seed).fit(rows.numpy())
        trees = [estimator.tree_ for estimator in forest.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])], dtype=np.int64)
        children, lengths = [], []
        for root, tree in zip(roots, trees, strict=True):
            pairs = np.stack([tree.children_left, tree.children_right], 1)
            leaf = pairs[:, 0] < 0
            children.append(root + np.where(leaf[:, None], np.arange(len(pairs))[:, None], pairs))
            depths = tree.compute_node_depths() - 1.0
            lengths.append(np.where(leaf, depths + _mean_leaf_depth(tree.n_node_samples), 0))
        return Isolation(
            torch.from_numpy(roots),
            torch.from_numpy(np.concatenate([tree.feature for tree in trees]).clip(min=0)),
            torch.from_numpy(np.concatenate([tree.threshold for tree in trees])),
            torch.from_numpy(np.concatenate(children)),
            torch.from_numpy(np.concatenate(lengths)),
            depth=max(tree.max_depth for tree in trees),
            scale=_mean_leaf_depth(np.array([samples])).item() or 1.0,
        )


def _mean_leaf_depth(leaves: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean depth of a leaf in random binary search trees with so many leaves."""
    harmonic = np.log(np.maximum(leaves - 1.0, 1)) + np.euler_gamma
    many = 2 * harmonic - 2 * (leaves - 1) / np.maximum(leaves, 1)
    return np.where(leaves <= 1, 0, np.where(leaves == 2, 1, many))

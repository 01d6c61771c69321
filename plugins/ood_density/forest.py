"""An isolation forest: random trees, grown by scikit-learn, in which what is unlike the rest is soon alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_core.interfaces import NonNegativeInt, Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_density.sample import draw


@dataclass(frozen=True)
class Isolation(Score):
    """2^(-h / c) in (0, 1], where h is the mean depth at which an embedding ends, and c what it would be at random.

    The nodes of all trees stand in one list; the children of a leaf are the leaf itself.

    Attributes:
        roots: int64 [T].
        features: int64 [M], the dimension that a node looks at.
        thresholds: float64 [M]; embeddings up to it go left.
        children: int64 [M, 2], left and right.
        lengths: float64 [M], the depth of a leaf, and what it lacks because the tree stopped there.
        depth: Of the deepest tree.
        scale: c.
    """

    roots: Tensor
    features: Tensor
    thresholds: Tensor
    children: Tensor
    lengths: Tensor
    depth: int
    scale: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        embeddings = outputs.embeddings.float()  # as the thresholds were drawn
        nodes = self.roots.expand(len(embeddings), -1)
        for _ in range(self.depth):
            right = embeddings.gather(1, self.features[nodes]) > self.thresholds[nodes]
            nodes = self.children[nodes, right.long()]
        return 2 ** (-self.lengths[nodes].mean(1) / self.scale)


@dataclass(frozen=True, kw_only=True)
class IsolationForest(Scorer):
    """How soon random splits leave an embedding alone (isolation forest, Liu et al., 2008).

    2^(-h / c), where h is the mean depth of its leaves in all trees and c that of a random binary search tree.

    Attributes:
        trees: How many; 100 is scikit-learn's.
        samples: Training images that each tree is grown from; 256 in the paper and scikit-learn.
        seed: Draws the trees.
    """

    name = "isolation-forest"
    needs = frozenset({"embeddings"})
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
        """Return the score; no more training images are read than all trees together can use.

        Raises:
            OODError: Embeddings are unusable.
        """
        rows = draw(train, self.trees * self.samples, self.seed, self.name).float()
        samples = min(self.samples, len(rows))
        return _flatten(self._estimate(rows, samples), samples)

    def _estimate(self, rows: Tensor, samples: int) -> list[Any]:
        from sklearn.ensemble import IsolationForest as Forest

        forest = Forest(n_estimators=self.trees, max_samples=samples, random_state=self.seed).fit(rows.numpy())
        return [tree.tree_ for tree in forest.estimators_]


def _flatten(trees: list[Any], samples: int) -> Isolation:
    counts = [tree.node_count for tree in trees]
    roots = np.concatenate([[0], np.cumsum(counts[:-1])]).astype(np.int64)
    children, lengths = [], []
    for root, tree in zip(roots, trees, strict=True):
        pairs = np.stack([tree.children_left, tree.children_right], 1)
        leaf = pairs[:, 0] < 0
        itself = np.arange(len(pairs))[:, None]
        children.append(root + np.where(leaf[:, None], itself, pairs))
        lengths.append(np.where(leaf, _depths(pairs) + _random_depth(tree.n_node_samples), 0))
    return Isolation(
        torch.from_numpy(roots),
        torch.from_numpy(np.concatenate([tree.feature for tree in trees]).clip(min=0)),
        torch.from_numpy(np.concatenate([tree.threshold for tree in trees])),
        torch.from_numpy(np.concatenate(children)),
        torch.from_numpy(np.concatenate(lengths)),
        depth=max(tree.max_depth for tree in trees),
        scale=float(_random_depth(np.array([samples]))[0]) or 1.0,
    )


def _depths(pairs: Any) -> Any:
    """Return the depth of every node; children stand behind their parents."""
    depths = np.zeros(len(pairs))
    for node, pair in enumerate(pairs):
        if pair[0] >= 0:
            depths[pair] = depths[node] + 1
    return depths


def _random_depth(counts: Any) -> Any:
    """Return the mean depth of a leaf in random binary search trees of so many leaves."""
    harmonic = np.log(np.maximum(counts - 1.0, 1)) + np.euler_gamma
    many = 2 * harmonic - 2 * (counts - 1) / np.maximum(counts, 1)
    return np.where(counts <= 1, 0, np.where(counts == 2, 1, many))

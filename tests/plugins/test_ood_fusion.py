"""Fusion of scores on a common scale."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ood_core.errors import OODError
from ood_core.interfaces import FormulaScorer, Scorer
from ood_core.plugins import find
from ood_core.store.artifacts import SCORE, load_score, save_score
from ood_core.testing import make_far_outputs, make_outputs
from ood_core.testing import scorer_checks as checks
from ood_fusion.scorers import RankFusion, Ranks, ZScoreFusion

PLUGINS = find()
TRAIN, TEST, FAR = make_outputs(), make_outputs(rows=40, seed=1), make_far_outputs(rows=40)


@dataclass(frozen=True, kw_only=True)
class OfTheNetwork(Scorer):
    name = "of-the-network"
    needs = frozenset({"network"})

    def fit(self, train):
        raise AssertionError("never asked")


BOTH = (PLUGINS.get("scorer", "energy")(), PLUGINS.get("scorer", "mahalanobis")())
FUSIONS = [RankFusion, ZScoreFusion]


def held_out(scorer):
    return scorer.fit(TRAIN)(TRAIN.held_out).numpy()


@dataclass(frozen=True, kw_only=True)
class Silent(FormulaScorer):
    name = "silent"

    def score(self, outputs):
        return None


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_scorer_whose_scores_are_none_is_named(fusion):
    with pytest.raises(OODError, match=r"^scorer 'silent' gave nothing, not a tensor, float64 \["):
        fusion(scorers=(*BOTH, Silent())).fit(TRAIN)


@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
def test_z_scores_are_averaged(weights):
    shares = np.array(weights or (1, 1)) / sum(weights or (1, 1))
    expected = 0
    for scorer, share in zip(BOTH, shares, strict=True):
        known = held_out(scorer)
        expected = expected + share * (scorer.fit(TRAIN)(TEST).numpy() - known.mean()) / known.std()
    found = ZScoreFusion(scorers=BOTH, weights=weights).fit(TRAIN)(TEST)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_ranks_are_shares_of_lower_held_out_scores_to_one_image():
    found = RankFusion(scorers=BOTH).fit(TRAIN)(TEST).numpy()
    expected = np.mean([[np.mean(held_out(s) < x) for x in s.fit(TRAIN)(TEST).numpy()] for s in BOTH], 0)
    assert np.abs(found - expected).max() <= 2 / len(TRAIN.held_out)


def test_ranks_rise_without_an_end_and_without_a_tie():
    ranks = Ranks.of(torch.tensor([3.0, 1.0, 2.0, 2.0], dtype=torch.float64))
    asked = torch.tensor([-1e9, 0, 1, 1.5, 2, 2.5, 3, 4, 1e9, 1e300], dtype=torch.float64)
    assert (ranks(asked).diff() > 0).all()
    torch.testing.assert_close(ranks(asked[[2, 4, 6]]), torch.tensor([0.125, 0.5, 0.875], dtype=torch.float64))
    assert Ranks.of(torch.ones(3, dtype=torch.float64))(asked).isfinite().all()


@pytest.mark.parametrize("cls", FUSIONS)
def test_a_monotone_or_a_linear_change_of_scale_does_not_matter(cls):
    """Energy at T and at 1 differ; the same scorer twice is the scorer once."""
    once, twice = cls(scorers=BOTH[:1]), cls(scorers=(BOTH[0], BOTH[0]))
    torch.testing.assert_close(once.fit(TRAIN)(TEST), twice.fit(TRAIN)(TEST))


@pytest.mark.parametrize("cls", FUSIONS)
@pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
def test_fusion_keeps_the_contract(cls, check):
    check(cls(scorers=BOTH))


@pytest.mark.parametrize("cls", FUSIONS)
def test_fusion_is_saved_with_its_scores(cls, tmp_path):
    fusion = cls(scorers=(*BOTH, cls(scorers=BOTH)))
    score = fusion.fit(TRAIN)
    save_score(tmp_path, score)
    assert torch.equal(load_score(tmp_path / SCORE, fusion)(TEST), score(TEST))


@pytest.mark.parametrize("cls", FUSIONS)
def test_mistakes_are_told(cls):
    with pytest.raises(ValueError, match="scorers must name at least one"):
        cls(scorers=())
    with pytest.raises(ValueError, match="as many weights as scorers, 2, not 1"):
        cls(scorers=BOTH, weights=(1.0,))
    with pytest.raises(ValueError, match="scorer 'of-the-network' needs the network, and cannot score held-out images"):
        cls(scorers=(OfTheNetwork(),))


@pytest.mark.parametrize("cls", FUSIONS)
def test_what_both_find_far_is_far(cls):
    score = cls(scorers=BOTH).fit(TRAIN)
    assert score(FAR).min() > score(TEST).max()

"""Checks that every scorer should pass, to be run over your own ones.

    @pytest.mark.parametrize("check", ood_core.testing.scorer_checks())
    def test_my_scorer_keeps_the_contract(check):
        check(MyScorer())

Scorers that need "layers" or "network" are checked on the images and the small network of `ood_core.testing.data`.
A check raises AssertionError and says what is wrong. All of them together take a fraction of a second for a scorer that
is a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score, Scorer
from ood_core.interfaces.checks import fit_scorer
from ood_core.store.artifacts import SCORE, load_score, save_score
from ood_core.testing.data import make_far_image_outputs, make_far_outputs, make_image_outputs, make_outputs, rotate

__all__ = (
    "ScorerCheck",
    "make_far_image_outputs",
    "make_far_outputs",
    "make_image_outputs",
    "make_outputs",
    "rotate",
    "scorer_checks",
)

ScorerCheck: TypeAlias = Callable[[Scorer], None]

_CLOSE = 1e-5  # of the largest score: what float32 inside a scorer may cost


def scorer_checks() -> tuple[ScorerCheck, ...]:
    """Return all checks, for `pytest.mark.parametrize`."""
    return tuple(check for name, check in globals().items() if name.startswith("check_"))


def check_what_is_fitted_is_what_is_declared(scorer: Scorer) -> None:
    """`fit` returns an object of the class `scores`, through which it is saved and loaded."""
    fitted = _fit(scorer, _made(scorer))
    expected, found = scorer.scores.__name__, type(fitted).__name__
    assert type(fitted) is scorer.scores, f"fit should return the {expected} that 'scores' declares, not a {found}"


def check_one_finite_float64_score_a_row(scorer: Scorer) -> None:
    """A score is float64 [N] and finite."""
    _assert_finite(scorer, _made(scorer), _made(scorer, seed=1))


def check_rows_are_scored_one_by_one(scorer: Scorer) -> None:
    """The order of rows and the chunks they come in do not matter."""
    score, test = _fit(scorer, _made(scorer)), _made(scorer, rows=60, seed=1)
    expected = score(test)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    _assert_close(score(test[order]), expected[order], "the order of rows changes scores")
    for rows in (1, 7):
        parts = torch.cat([score(part) for part in test.chunks(rows)])
        _assert_close(parts, expected, f"scoring in chunks of {rows} changes scores")


def check_far_away_data_scores_higher(scorer: Scorer) -> None:
    """Higher means more out-of-distribution: an AUROC of at least 95 %, where that is easy.

    Some methods are made for embeddings without negative entries, as behind a ReLU, and some fail where neurons and
    classes are one to one; so it is enough to be right with one of the two kinds of embeddings.
    """
    distant = make_far_image_outputs(scorer) if _reads_images(scorer) else make_far_outputs()
    sets, aurocs = (_made(scorer), _made(scorer, seed=1), distant), []
    for train, test, far in (sets, map(rotate, sets)):
        score = _fit(scorer, train)
        aurocs.append((score(far)[:, None] > score(test)).double().mean().item())
    best = max(aurocs)
    assert best >= 0.95, f"far-away data should score higher than ID data, AUROC is {best:.3f}"


def check_labels_of_scored_data_are_not_read(scorer: Scorer) -> None:
    """Scores are the same whether labels are known or -1."""
    score, test = _fit(scorer, _made(scorer)), _made(scorer, seed=1)
    _assert_close(score(test.without_labels()), score(test), "labels of scored data change scores")


def check_nothing_undeclared_is_read(scorer: Scorer) -> None:
    """Scores are the same without the parts of the outputs that `needs` does not name, as the core gives them."""
    train, test = _made(scorer), _made(scorer, seed=1).without_labels()
    complaint = f"more is read than needs = {sorted(scorer.all_needs())} says"
    expected = _fit(scorer, train)(test)
    try:
        bare = _fit(scorer, train.declared_by(scorer))(test.declared_by(scorer).without_labels())
    except Exception as error:
        raise AssertionError(f"{complaint}: {type(error).__name__}: {error}") from error
    _assert_close(bare, expected, complaint)


def check_missing_outputs_are_refused(scorer: Scorer) -> None:
    """Without logits, head, held-out or known OOD images a scorer is fitted, or one line says that it needs them."""
    train = _made(scorer)
    for name, without in {
        "logits": replace(train, logits=train.logits[:, :0], head=None),
        "head": replace(train, head=None),
        "held_out": replace(train, held_out=None),
        "known_ood": replace(train, known_ood=None),
    }.items():
        try:
            fit_scorer(scorer.name, scorer, without)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            refused = said.startswith(f"OODError: scorer '{scorer.name}' needs ")
            assert refused, f"without {name} the scorer should say that it needs them, not {said}"


def check_inputs_are_left_unchanged(scorer: Scorer) -> None:
    """Neither fitting nor scoring writes to the outputs, which other scorers share."""
    outputs, untouched = _made(scorer), _made(scorer)
    _fit(scorer, outputs)(outputs)
    for name in ("embeddings", "logits", "labels"):
        assert torch.equal(getattr(outputs, name), getattr(untouched, name)), f"{name} were overwritten"


def check_refit_forgets(scorer: Scorer) -> None:
    """A scorer keeps nothing of the data it was fitted to before."""
    test = _made(scorer, seed=1)
    expected = _fit(replace(scorer), _made(scorer, seed=2))(test)
    _fit(scorer, _made(scorer, rows=100, seed=3))
    _assert_close(_fit(scorer, _made(scorer, seed=2))(test), expected, "fitting again remembers the fit before")


def check_two_fitted_scores_are_independent(scorer: Scorer) -> None:
    """A second fit does not disturb the score of the first."""
    test = _made(scorer, seed=1)
    first = _fit(scorer, _made(scorer, seed=2))
    expected = first(test)
    _fit(scorer, _made(scorer, rows=100, seed=3))(_made(scorer, seed=4))
    _assert_close(first(test), expected, "a second fit changes the scores of the first")


def check_float32_and_float64_agree(scorer: Scorer) -> None:
    """Scores do not depend on the type in which the same numbers arrive."""
    train, test = _made(scorer), _made(scorer, seed=1)
    double = _fit(scorer, _double(train))(_double(test))
    _assert_close(double, _fit(scorer, train)(test), "float32 and float64 inputs differ")


def check_saturated_logits(scorer: Scorer) -> None:
    """Probabilities of exactly 0 and 1 are scored."""
    train, test = (replace(outputs, logits=1e4 * outputs.logits) for outputs in (_made(scorer), _made(scorer, seed=1)))
    _assert_finite(scorer, train, test)


def check_zero_embeddings(scorer: Scorer) -> None:
    """Embeddings and layers that are all zero are scored."""
    test = _made(scorer, seed=1)
    layers = {name: torch.zeros_like(layer) for name, layer in test.layers.items()}
    _assert_finite(scorer, _made(scorer), replace(test, embeddings=torch.zeros_like(test.embeddings), layers=layers))


def check_one_class(scorer: Scorer) -> None:
    """There may be one ID class only."""
    _assert_finite(scorer, _made(scorer, classes=1), _made(scorer, classes=1, seed=1))


def check_a_class_without_rows(scorer: Scorer) -> None:
    """A class may have no training image."""
    train = _made(scorer)
    _assert_finite(scorer, train[train.labels != 3], _made(scorer, seed=1))


def check_one_row_a_class(scorer: Scorer) -> None:
    """One training image a class is enough, or refused as a mistake of the user."""
    try:
        _assert_finite(scorer, _made(scorer, rows=5, classes=5), _made(scorer, seed=1))
    except OODError:
        return


def check_more_dimensions_than_rows(scorer: Scorer) -> None:
    """There may be fewer training images than dimensions."""
    _assert_finite(scorer, _made(scorer, rows=20, dimension=64), _made(scorer, dimension=64, seed=1))


def check_saved_and_loaded_is_the_same(scorer: Scorer) -> None:
    """A score comes back from its file as it was."""
    score, test = _fit(scorer, _made(scorer)), _made(scorer, seed=1)
    with TemporaryDirectory() as folder:
        save_score(Path(folder), score)
        loaded = load_score(Path(folder) / SCORE, scorer)
    assert torch.equal(loaded(test), score(test)), "a saved and loaded score gives other numbers"


def _made(scorer: Scorer, rows: int = 300, classes: int = 5, dimension: int = 16, seed: int = 0) -> Outputs:
    """Return ID outputs of the kind that the scorer reads."""
    if _reads_images(scorer):
        return make_image_outputs(scorer, min(rows, 100), classes, seed)
    return make_outputs(rows, classes, dimension, seed)


def _fit(scorer: Scorer, train: Outputs) -> Score:
    """Fit as the core does: only what is scored comes with the network."""
    return scorer.fit(replace(train, network=None, images=None))


def _reads_images(scorer: Scorer) -> bool:
    return bool(scorer.all_needs() & {"layers", "network"})


def _double(outputs: Outputs) -> Outputs:
    held_out, known_ood = outputs.held_out, outputs.known_ood
    return replace(
        outputs,
        embeddings=outputs.embeddings.double(),
        logits=outputs.logits.double(),
        layers={name: layer.double() for name, layer in outputs.layers.items()},
        held_out=None if held_out is None else _double(held_out),
        known_ood=None if known_ood is None else _double(known_ood),
    )


def _assert_finite(scorer: Scorer, train: Outputs, test: Outputs) -> None:
    scores = _fit(scorer, train)(test)
    assert isinstance(scores, Tensor), f"scores should be a tensor, they are a {type(scores).__name__}"
    assert scores.dtype == torch.float64, f"scores should be float64, they are {scores.dtype}"
    assert scores.shape == (len(test),), f"there should be one score a row, [{len(test)}], not {list(scores.shape)}"
    broken = int((~scores.isfinite()).sum())
    assert not broken, f"{broken} of {len(test)} scores are not finite"


def _assert_close(found: Tensor, expected: Tensor, complaint: str) -> None:
    gap = (found - expected).abs().max().item()
    assert gap <= _CLOSE * expected.abs().max().item(), f"{complaint}, by up to {gap:.2g}"

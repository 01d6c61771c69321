"""Checks that every scorer should pass, to be run over your own ones.

    @pytest.mark.parametrize("check", ood_core.testing.scorer_checks())
    def test_my_scorer_keeps_the_contract(check):
        check(MyScorer())

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
from ood_core.interfaces import Head, Outputs, Scorer
from ood_core.store import load_score, save_score

ScorerCheck: TypeAlias = Callable[[Scorer], None]

_CLOSE = 1e-5  # of the largest score: what float32 inside a scorer may cost
_OFFSET, _SPREAD, _FAR = 10.0, 4.0, 6.0  # in standard deviations of a class


def make_outputs(rows: int = 300, classes: int = 5, dimension: int = 16, seed: int = 0) -> Outputs:
    """Return outputs like those of a trained network: a Gaussian for each class, and the classifier that fits them.

    The class means depend on `dimension` alone, so outputs of different seeds are training and test data of one task.
    Labels are balanced and in turn: 0, 1, ..., C-1, 0, ...
    """
    basis = _basis(classes, dimension)
    labels = torch.arange(rows) % classes
    centres = _OFFSET * basis[0] + _SPREAD * basis[1 : classes + 1]
    return _outputs(centres[labels] + _noise(rows, dimension, seed), labels, classes)


def make_far_outputs(rows: int = 300, classes: int = 5, dimension: int = 16, seed: int = 0) -> Outputs:
    """Return outputs that are OOD by any account, for what `make_outputs` is ID.

    The embeddings lie in directions that no class uses and the classifier does not see, far from all classes, and
    are shorter than those of ID images; so the logits are flat and small.
    """
    unused = _basis(classes, dimension)[classes + 1 :]
    directions = torch.nn.functional.normalize(_noise(rows, len(unused), seed))
    return _outputs(_FAR * directions @ unused, torch.full((rows,), -1), classes)


def scorer_checks() -> tuple[ScorerCheck, ...]:
    """Return all checks, for `pytest.mark.parametrize`."""
    return (
        check_one_finite_float64_score_a_row,
        check_rows_are_scored_one_by_one,
        check_far_away_data_scores_higher,
        check_labels_of_scored_data_are_not_read,
        check_nothing_undeclared_is_read,
        check_inputs_are_left_unchanged,
        check_refit_forgets,
        check_two_fitted_scores_are_independent,
        check_float32_and_float64_agree,
        check_saturated_logits,
        check_zero_embeddings,
        check_one_class,
        check_a_class_without_rows,
        check_one_row_a_class,
        check_more_dimensions_than_rows,
        check_saved_and_loaded_is_the_same,
    )


def check_one_finite_float64_score_a_row(scorer: Scorer) -> None:
    """A score is float64 [N] and finite."""
    _assert_finite(scorer, make_outputs(), make_outputs(seed=1))


def check_rows_are_scored_one_by_one(scorer: Scorer) -> None:
    """The order of rows and the chunks they come in do not matter."""
    score, test = scorer.fit(make_outputs()), make_outputs(rows=60, seed=1)
    expected = score(test)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    _assert_close(score(test[order]), expected[order], "the order of rows changes scores")
    for rows in (1, 7):
        parts = torch.cat([score(part) for part in test.chunks(rows)])
        _assert_close(parts, expected, f"scoring in chunks of {rows} changes scores")


def check_far_away_data_scores_higher(scorer: Scorer) -> None:
    """Higher means more out-of-distribution: an AUROC of at least 95 %, where that is easy."""
    score = scorer.fit(make_outputs())
    known, far = score(make_outputs(seed=1)), score(make_far_outputs())
    auroc = (far[:, None] > known).double().mean().item()
    assert auroc >= 0.95, f"far-away data should score higher than ID data, AUROC is {auroc:.3f}"


def check_labels_of_scored_data_are_not_read(scorer: Scorer) -> None:
    """Scores are the same whether labels are known or -1."""
    score, test = scorer.fit(make_outputs()), make_outputs(seed=1)
    _assert_close(score(test.without_labels()), score(test), "labels of scored data change scores")


def check_nothing_undeclared_is_read(scorer: Scorer) -> None:
    """Scores are the same without the parts of the outputs that `needs` does not name."""
    train, test = make_outputs(), make_outputs(seed=1).without_labels()
    bare = scorer.fit(_only(train, scorer.needs))(_only(test, scorer.needs))
    _assert_close(bare, scorer.fit(train)(test), f"more is read than needs = {sorted(scorer.needs)} says")


def check_inputs_are_left_unchanged(scorer: Scorer) -> None:
    """Neither fitting nor scoring writes to the outputs, which other scorers share."""
    outputs, untouched = make_outputs(), make_outputs()
    scorer.fit(outputs)(outputs)
    for name in ("embeddings", "logits", "labels"):
        assert torch.equal(getattr(outputs, name), getattr(untouched, name)), f"{name} were overwritten"


def check_refit_forgets(scorer: Scorer) -> None:
    """A scorer keeps nothing of the data it was fitted to before."""
    test = make_outputs(seed=1)
    expected = replace(scorer).fit(make_outputs(seed=2))(test)
    scorer.fit(make_outputs(rows=100, seed=3))
    _assert_close(scorer.fit(make_outputs(seed=2))(test), expected, "fitting again remembers the fit before")


def check_two_fitted_scores_are_independent(scorer: Scorer) -> None:
    """A second fit does not disturb the score of the first."""
    test = make_outputs(seed=1)
    first = scorer.fit(make_outputs(seed=2))
    expected = first(test)
    scorer.fit(make_outputs(rows=100, seed=3))(make_outputs(seed=4))
    _assert_close(first(test), expected, "a second fit changes the scores of the first")


def check_float32_and_float64_agree(scorer: Scorer) -> None:
    """Scores do not depend on the type in which the same numbers arrive."""
    train, test = make_outputs(), make_outputs(seed=1)
    double = scorer.fit(_double(train))(_double(test))
    _assert_close(double, scorer.fit(train)(test), "float32 and float64 inputs differ")


def check_saturated_logits(scorer: Scorer) -> None:
    """Probabilities of exactly 0 and 1 are scored."""
    train, test = (replace(outputs, logits=1e4 * outputs.logits) for outputs in (make_outputs(), make_outputs(seed=1)))
    _assert_finite(scorer, train, test)


def check_zero_embeddings(scorer: Scorer) -> None:
    """Embeddings that are all zero are scored."""
    test = make_outputs(seed=1)
    _assert_finite(scorer, make_outputs(), replace(test, embeddings=torch.zeros_like(test.embeddings)))


def check_one_class(scorer: Scorer) -> None:
    """There may be one ID class only."""
    _assert_finite(scorer, make_outputs(classes=1), make_outputs(classes=1, seed=1))


def check_a_class_without_rows(scorer: Scorer) -> None:
    """A class may have no training image."""
    train = make_outputs()
    _assert_finite(scorer, train[train.labels != 3], make_outputs(seed=1))


def check_one_row_a_class(scorer: Scorer) -> None:
    """One training image a class is enough, or refused as a mistake of the user."""
    try:
        _assert_finite(scorer, make_outputs(rows=5, classes=5), make_outputs(seed=1))
    except OODError:
        return


def check_more_dimensions_than_rows(scorer: Scorer) -> None:
    """There may be fewer training images than dimensions."""
    _assert_finite(scorer, make_outputs(rows=20, dimension=64), make_outputs(dimension=64, seed=1))


def check_saved_and_loaded_is_the_same(scorer: Scorer) -> None:
    """A score comes back from its file as it was."""
    score, test = scorer.fit(make_outputs()), make_outputs(seed=1)
    with TemporaryDirectory() as folder:
        save_score(Path(folder), score)
        loaded = load_score(Path(folder), scorer.scores)
    assert torch.equal(loaded(test), score(test)), "a saved and loaded score gives other numbers"


def _basis(classes: int, dimension: int) -> Tensor:
    """Return orthonormal rows [D, D]: the direction all embeddings share, one for each class, and the unused ones."""
    assert classes + 2 <= dimension, "make_outputs needs at least two dimensions more than classes"
    columns: Tensor = torch.linalg.qr(_noise(dimension, dimension, seed=0))[0]
    return columns.T


def _noise(rows: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed))


def _outputs(embeddings: Tensor, labels: Tensor, classes: int) -> Outputs:
    # Of Gaussians with unit covariance, this is the best linear classifier.
    weight = _SPREAD * _basis(classes, embeddings.shape[1])[1 : classes + 1]
    head = Head(weight, torch.full((classes,), -(_SPREAD**2) / 2))
    return Outputs(embeddings, embeddings @ weight.T + head.bias, labels, classes, head)


def _only(outputs: Outputs, needs: frozenset[str]) -> Outputs:
    """Return the outputs without what is not needed."""
    return replace(
        outputs if "labels" in needs else outputs.without_labels(),
        embeddings=outputs.embeddings if "embeddings" in needs else torch.full_like(outputs.embeddings, torch.nan),
        logits=outputs.logits if "logits" in needs else outputs.logits[:, :0],
        head=outputs.head if "head" in needs else None,
    )


def _double(outputs: Outputs) -> Outputs:
    return replace(outputs, embeddings=outputs.embeddings.double(), logits=outputs.logits.double())


def _assert_finite(scorer: Scorer, train: Outputs, test: Outputs) -> None:
    scores = scorer.fit(train)(test)
    assert scores.dtype == torch.float64, f"scores should be float64, they are {scores.dtype}"
    assert scores.shape == (len(test),), f"there should be one score a row, [{len(test)}], not {list(scores.shape)}"
    broken = int((~scores.isfinite()).sum())
    assert not broken, f"{broken} of {len(test)} scores are not finite"


def _assert_close(found: Tensor, expected: Tensor, complaint: str) -> None:
    gap = (found - expected).abs().max().item()
    assert gap <= _CLOSE * expected.abs().max().item(), f"{complaint}, by up to {gap:.2g}"

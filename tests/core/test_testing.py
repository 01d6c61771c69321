"""The contract checks pass a right scorer, and each of them catches the mistake it is there for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_core import testing
from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score, Scorer
from ood_core.testing import ScorerCheck, make_far_outputs, make_outputs, scorer_checks


@dataclass(frozen=True)
class MeanDistance(Score):
    mean: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        return (outputs.embeddings.double() - self.mean).square().sum(1)


@dataclass(frozen=True, kw_only=True)
class Right(Scorer):
    name = "right"
    scores = MeanDistance

    def fit(self, train: Outputs) -> Score:
        return MeanDistance(train.embeddings.double().mean(0))


@pytest.mark.parametrize("check", scorer_checks())
def test_a_right_scorer_passes(check: ScorerCheck) -> None:
    check(Right())


def test_every_check_of_the_module_is_listed() -> None:
    assert {check.__name__ for check in scorer_checks()} == {name for name in dir(testing) if name.startswith("check_")}


@dataclass(frozen=True)
class Computed(Score):
    """Whatever the test says; a function cannot be saved."""

    rule: Callable[[Outputs], Tensor]

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.rule(outputs)


def distance(train: Outputs, test: Outputs) -> Tensor:
    return Right().fit(train)(test)


def single_precision(train: Outputs, test: Outputs) -> Tensor:
    return distance(train, test).float()


def as_an_array(train: Outputs, test: Outputs) -> Any:
    return distance(train, test).numpy()


def one_score_too_many(train: Outputs, test: Outputs) -> Tensor:
    return torch.cat([distance(train, test), torch.zeros(1)])


def relative_to_the_batch(train: Outputs, test: Outputs) -> Tensor:
    found = distance(train, test)
    return found - found.mean()


def sorted_by_score(train: Outputs, test: Outputs) -> Tensor:
    return distance(train, test).sort().values


def inverted(train: Outputs, test: Outputs) -> Tensor:
    return -distance(train, test)


def indifferent(train: Outputs, test: Outputs) -> Tensor:
    return torch.zeros(len(test), dtype=torch.float64)


def peeking_at_labels(train: Outputs, test: Outputs) -> Tensor:
    return distance(train, test) + test.labels


def reading_logits_in_secret(train: Outputs, test: Outputs) -> Tensor:
    return distance(train, test) - test.logits.double().sum(1)


def reading_the_head_in_secret(train: Outputs, test: Outputs) -> Tensor:
    return distance(train, test) - train.head.weight.double().sum()  # type: ignore[union-attr]


def overwriting(train: Outputs, test: Outputs) -> Tensor:
    test.embeddings.sub_(train.embeddings.mean(0))
    return test.embeddings.double().square().sum(1)


def rounding_to_the_input_type(train: Outputs, test: Outputs) -> Tensor:
    shift = torch.tensor(1e9, dtype=test.embeddings.dtype)
    return ((test.embeddings.square().sum(1) + shift) - shift).double()


def naive_entropy(train: Outputs, test: Outputs) -> Tensor:
    probabilities = test.logits.double().softmax(1)
    return -(probabilities * probabilities.log()).sum(1)


def dividing_by_the_length(train: Outputs, test: Outputs) -> Tensor:
    return (test.embeddings / test.embeddings.norm(dim=1, keepdim=True)).double().sum(1)


def comparing_the_best_two_classes(train: Outputs, test: Outputs) -> Tensor:
    best = test.logits.double().topk(2, dim=1).values
    return best[:, 1] - best[:, 0]


def mean_of_each_class(train: Outputs, test: Outputs) -> Tensor:
    means = torch.stack([train.embeddings[train.labels == index].mean(0) for index in range(train.classes)])
    return torch.cdist(test.embeddings, means).double().mean(1)


def spread_of_each_class(train: Outputs, test: Outputs) -> Tensor:
    first = train.embeddings[train.labels == 0]
    variance = (first - first.mean(0)).square().sum(0) / (len(first) - 1)
    return ((test.embeddings - first.mean(0)).square() / variance).double().sum(1)


def factor_of_the_covariance(train: Outputs, test: Outputs) -> Tensor:
    factor = torch.linalg.cholesky(torch.cov(train.embeddings.double().T))
    gaps = test.embeddings.double() - train.embeddings.double().mean(0)
    return torch.linalg.solve_triangular(factor, gaps.T, upper=False).square().sum(0)


MISTAKES = [
    (distance, testing.check_what_is_fitted_is_what_is_declared, "the MeanDistance that 'scores' declares, not a Comp"),
    (single_precision, testing.check_one_finite_float64_score_a_row, "scores should be float64"),
    (as_an_array, testing.check_one_finite_float64_score_a_row, "scores should be a tensor, they are a ndarray"),
    (one_score_too_many, testing.check_one_finite_float64_score_a_row, "one score a row"),
    (relative_to_the_batch, testing.check_rows_are_scored_one_by_one, "in chunks of 1 changes"),
    (sorted_by_score, testing.check_rows_are_scored_one_by_one, "order of rows changes"),
    (inverted, testing.check_far_away_data_scores_higher, r"AUROC is 0\.000"),
    (indifferent, testing.check_far_away_data_scores_higher, "AUROC is"),
    (peeking_at_labels, testing.check_labels_of_scored_data_are_not_read, "labels of scored data change"),
    (reading_logits_in_secret, testing.check_nothing_undeclared_is_read, r"more is read than needs = \['embeddings'\]"),
    (
        reading_the_head_in_secret,
        testing.check_nothing_undeclared_is_read,
        r"\['embeddings'\] says: .*has no attribute",
    ),
    (overwriting, testing.check_inputs_are_left_unchanged, "embeddings were overwritten"),
    (rounding_to_the_input_type, testing.check_float32_and_float64_agree, "float32 and float64 inputs differ"),
    (naive_entropy, testing.check_saturated_logits, "not finite"),
    (dividing_by_the_length, testing.check_zero_embeddings, "300 of 300 scores are not finite"),
    (mean_of_each_class, testing.check_a_class_without_rows, "not finite"),
    (spread_of_each_class, testing.check_one_row_a_class, "not finite"),
]


def scorer_with(rule: Callable[[Outputs, Outputs], Tensor]) -> Scorer:
    class Wrong(Right):
        def fit(self, train: Outputs) -> Score:
            return Computed(lambda test: rule(train, test))

    return Wrong()


@pytest.mark.parametrize(("rule", "check", "complaint"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_is_caught(rule: Callable[[Outputs, Outputs], Tensor], check: ScorerCheck, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check(scorer_with(rule))


def test_an_error_on_a_borderline_case_is_let_through() -> None:
    with pytest.raises(RuntimeError):
        testing.check_one_class(scorer_with(comparing_the_best_two_classes))
    with pytest.raises(torch.linalg.LinAlgError):
        testing.check_more_dimensions_than_rows(scorer_with(factor_of_the_covariance))


def test_a_scorer_that_adds_up_all_it_was_ever_fitted_to_is_caught() -> None:
    seen: list[Tensor] = []

    class Hoarding(Right):
        def fit(self, train: Outputs) -> Score:
            seen.append(train.embeddings.double())
            return MeanDistance(torch.cat(seen).mean(0))

    with pytest.raises(AssertionError, match="fitting again remembers the fit before"):
        testing.check_refit_forgets(Hoarding())


def test_a_scorer_that_keeps_its_first_fit_is_caught() -> None:
    class Stubborn(Right):
        def fit(self, train: Outputs) -> Score:
            kept = self.__dict__.setdefault("kept", super().fit(train))
            assert isinstance(kept, Score)
            return kept

    with pytest.raises(AssertionError, match="fitting again remembers the fit before"):
        testing.check_refit_forgets(Stubborn())


def test_scores_that_share_what_they_were_fitted_to_are_caught() -> None:
    latest: dict[str, Score] = {}

    class Sharing(Right):
        def fit(self, train: Outputs) -> Score:
            latest["score"] = super().fit(train)
            return Computed(lambda test: latest["score"](test))

    with pytest.raises(AssertionError, match="a second fit changes the scores of the first"):
        testing.check_two_fitted_scores_are_independent(Sharing())


def test_a_score_that_is_not_restored_is_caught() -> None:
    @dataclass(frozen=True)
    class Forgetful(MeanDistance):
        def __post_init__(self) -> None:
            object.__setattr__(self, "mean", self.mean + 1)

    class Wrong(Right):
        scores = Forgetful

        def fit(self, train: Outputs) -> Score:
            return Forgetful(train.embeddings.double().mean(0))

    with pytest.raises(AssertionError, match="a saved and loaded score gives other numbers"):
        testing.check_saved_and_loaded_is_the_same(Wrong())


def test_a_scorer_that_fails_without_what_it_does_not_declare_is_caught() -> None:
    class Failing(Right):
        def fit(self, train: Outputs) -> Score:
            assert train.head is not None
            return super().fit(train)

    with pytest.raises(AssertionError, match="without logits the scorer should say that it needs them, not Assertion"):
        testing.check_missing_outputs_are_refused(Failing())

    class Declaring(Failing):
        needs = frozenset({"embeddings", "head"})

    testing.check_missing_outputs_are_refused(Declaring())


def test_a_clear_refusal_of_one_row_a_class_is_accepted() -> None:
    class Refusing(Right):
        def fit(self, train: Outputs) -> Score:
            raise OODError("too few images")

    testing.check_one_row_a_class(Refusing())


def test_made_outputs_are_those_of_a_trained_network() -> None:
    train, test = make_outputs(), make_outputs(seed=1)
    assert train.head is not None
    torch.testing.assert_close(train.logits, train.embeddings @ train.head.weight.T + train.head.bias)
    assert (test.logits.argmax(1) == test.labels).double().mean() > 0.95
    assert not torch.equal(train.embeddings, test.embeddings)
    torch.testing.assert_close(train.head.weight, replace(test).head.weight)


def test_far_outputs_are_far_short_and_flat() -> None:
    known, far = make_outputs(), make_far_outputs()
    assert torch.cdist(far.embeddings, known.embeddings).min() > 8
    assert far.embeddings.norm(dim=1).max() < known.embeddings.norm(dim=1).median()
    assert (far.logits.amax(1) - far.logits.amin(1)).max() < 1e-3
    assert (far.labels == -1).all()

"""Fitting in a run: a scorer is given what it declares, and gives back what it declares."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score, Scorer
from ood_core.pipeline import fit, score
from ood_core.store.store import Store

from ..conftest import QUIET


@dataclass(frozen=True)
class FirstEntry(Score):
    shift: float = 0.0

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.embeddings[:, 0].double() + self.shift


@dataclass(frozen=True)
class Derived(FirstEntry):
    pass


@dataclass(frozen=True, kw_only=True)
class First(Scorer):
    name = "first"
    scores = FirstEntry
    seen: ClassVar[list[Outputs]] = []

    def fit(self, train: Outputs) -> FirstEntry:
        self.seen.append(train)
        return FirstEntry()


@pytest.fixture
def carry_out(tiny_run, tmp_path):
    """`carry_out(scorer)`: fit it to what the tiny run has extracted, and score its OOD images."""
    store = Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "extract").symlink_to(tiny_run.store.root / "extract")
    (store.root / "train").symlink_to(tiny_run.store.root / "train")

    def call(scorer):
        fitted = next(stage for stage in tiny_run.plan.stages if stage.kind == "fit")
        scored = next(stage for stage in tiny_run.plan.stages if stage.kind == "score" and stage.fit == fitted)
        fitted = replace(fitted, key="mine", name="mine", scorer=scorer)
        scored = replace(scored, key="scored", fit=fitted)
        fit.execute(fitted, store, QUIET)
        score.execute(scored, store, QUIET)

    return call


def test_a_scorer_is_given_what_it_declares_alone(carry_out):
    First.seen.clear()
    carry_out(First())
    (given,) = First.seen
    assert given.embeddings.shape[1] == 16
    assert given.head is None
    with pytest.raises(OODError, match="scorer 'first' reads 'logits'"):
        given.logits.max()


def test_fitting_with_an_undeclared_part_is_refused(carry_out):
    class Reading(First):
        def fit(self, train: Outputs) -> FirstEntry:
            return FirstEntry(float(train.logits.double().max()))

    with pytest.raises(OODError, match="scorer 'first' reads 'logits', which its 'needs' does not name"):
        carry_out(Reading())


@pytest.mark.parametrize(
    ("fitted", "what"),
    [(None, "nothing"), (Derived(), "a Derived"), (torch.zeros(3), "a Tensor"), ((FirstEntry(),), "a tuple")],
)
def test_a_scorer_that_fits_something_else_than_it_declares_is_named(carry_out, fitted, what):
    class Wrong(First):
        def fit(self, train: Outputs):
            return fitted

    with pytest.raises(OODError) as caught:
        carry_out(Wrong())
    assert str(caught.value) == f"scorer 'mine' fitted {what}, not the FirstEntry that 'scores' declares"


GIVEN = [
    (lambda outputs: None, "nothing, not a tensor, float64 [120]"),
    (lambda outputs: outputs.embeddings[:, 0].tolist(), "a list, not a tensor, float64 [120]"),
    (lambda outputs: outputs.embeddings[:, 0].double().numpy(), "a ndarray, not a tensor, float64 [120]"),
    (lambda outputs: outputs.embeddings[:, :1].double(), "float64 [120, 1], not float64 [120]"),
    (lambda outputs: outputs.embeddings[:, 0], "float32 [120], not float64 [120]"),
    (lambda outputs: outputs.embeddings[1:, 0].double(), "float64 [119], not float64 [120]"),
    (lambda outputs: outputs.embeddings[:, 0].double() * torch.nan, "nan for row 0"),
]


@pytest.mark.parametrize(("rule", "what"), GIVEN)
def test_what_is_no_score_for_each_row_is_refused_with_its_type_and_shape(carry_out, rule, what):
    @dataclass(frozen=True)
    class Giving(Score):
        def __call__(self, outputs: Outputs):
            return rule(outputs)

    class Wrong(First):
        scores = Giving

        def fit(self, train: Outputs) -> Giving:
            return Giving()

    with pytest.raises(OODError) as caught:
        carry_out(Wrong())
    assert str(caught.value) == f"scorer 'mine' gave {what}"


def test_scores_of_an_undeclared_part_are_refused(carry_out):
    @dataclass(frozen=True)
    class Confidence(Score):
        def __call__(self, outputs: Outputs) -> Tensor:
            return -outputs.logits.double().amax(1)

    class Wrong(First):
        scores = Confidence

        def fit(self, train: Outputs) -> Confidence:
            return Confidence()

    with pytest.raises(OODError, match="scorer 'first' reads 'logits', which its 'needs' does not name"):
        carry_out(Wrong())

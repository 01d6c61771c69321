import pytest

from ood_core.interfaces import Scorer
from ood_core.plugins import find
from ood_core.testing import ScorerCheck, scorer_checks

from .required import required

SCORERS = find().classes("scorer")


@pytest.mark.parametrize("check", scorer_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SCORERS)
def test_every_installed_scorer_keeps_the_contract(name: str, check: ScorerCheck) -> None:
    scorer = SCORERS[name](**required(SCORERS[name]))
    assert isinstance(scorer, Scorer)
    check(scorer)

"""Defaults of scorers beside those of OpenOOD: configs/postprocessors and openood/postprocessors of commit 3c35632.

Whoever changes a default changes this table, and the notes on the scorer's card, which the documentation shows.
"""

from dataclasses import fields

import pytest

from ood_core.plugins import find

SCORERS = find().classes("scorer")

OPTIONS = {  # scorer: option: (ours, OpenOOD's)
    "ash-b": {"percentile": (0.65, 0.9)},
    "dice": {"sparsity": (0.9, 0.9)},
    "energy": {"temperature": (1, 1)},
    "fdbd": {"scale": ("distance", "distance")},
    "gen": {"gamma": (0.1, 0.1), "top": (100, 100)},
    "gmm": {"components": (10, 50), "covariance": ("tied", "tied")},
    "gradnorm": {"temperature": (1, 1), "target": ("uniform", "ones")},
    "gram": {"powers": (10, 5)},
    "iodin": {"temperature": (1000, 1000), "epsilon": (0.0014, 0.0014)},
    "kl-matching": {"fit_to": ("held-out", "held-out")},
    "knn": {"k": (50, 50), "normalize": (True, True), "sample": (1, 1)},
    "mahalanobis": {"normalize": (False, False), "covariance": ("empirical", "empirical"), "directions": (None, None)},
    "mahalanobis-ensemble": {"layers": ((), "first")},
    "mahalanobis-perturbed": {"epsilon": (0.0014, 0.0014)},
    "max-logit": {},
    "mc-dropout": {"passes": (100, 5)},
    "nci": {"alpha": (0.0001, 0.0001)},
    "nnguide": {"k": (10, 100), "sample": (1, 0.01)},
    "odin": {"temperature": (1000, 1000), "epsilon": (0.0014, 0.0014)},
    "openmax": {"alpha": (10, 3), "tail": (20, 20)},
    "rankfeat": {"temperature": (1, 1)},
    "react": {"quantile": (0.9, 0.9)},
    "relation-graph": {"power": (1, 1), "threshold": (0.03, 0.03), "sample": (1, 1)},
    "relative-mahalanobis": {"normalize": (False, False)},
    "residual": {"directions": (None, 512)},
    "scale": {"percentile": (0.85, 0.85)},
    "she": {},
    "softmax": {},
    "ssd": {"clusters": (1, 1)},
    "temperature-scaling": {},
    "vim": {"directions": (None, 256)},
    "vra": {"lower": (0.6, 0.1), "upper": (0.95, 0.9)},
}

SWEEPS = {  # where OpenOOD reports the value that does best on validation OOD images: the least and the largest
    "ash-b": (0.65, 0.95),
    "fdbd": ("distance", "norm"),
    "gen": (0.01, 10),
    "iodin": (0.0014, 0.0028),
    "knn": (50, 1000),
    "nci": (0.0001, 0.1),
    "odin": (0.0014, 0.0028),
    "react": (0.85, 0.99),
    "relation-graph": (1, 8),
    "scale": (0.65, 0.95),
    "vim": (256, 1000),
    "vra": (0.85, 0.99),
}

ABSENT = {  # scorers that OpenOOD does not have
    *("ash-p", "ash-s", "cosine", "doctor-alpha", "doctor-beta", "entropy", "euclidean", "few-shot-head"),
    *("grad-uncertainty", "gradnorm-network", "igeood", "isolation-forest", "l1", "linf", "lof", "lts"),
    *("mahalanobis-class", "mahalanobis-global", "mahalanobis-layers", "margin", "nac", "one-class-svm", "pnml"),
    *("rank-fusion", "ssd-k", "weighted-energy", "z-score-fusion"),
}


def test_every_scorer_is_compared_or_known_to_be_absent_there():
    assert OPTIONS.keys() | ABSENT == SCORERS.keys()
    assert not OPTIONS.keys() & ABSENT
    assert OPTIONS.keys() >= SWEEPS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_that_differ_from_those_of_openood_are_noted(name):
    cls = SCORERS[name]
    defaults = {option.name: option.default for option in fields(cls)}
    for option, (ours, theirs) in OPTIONS[name].items():
        assert defaults[option] == ours, f"{option} has another default: change this table and the notes on the card"
        if ours != theirs:
            assert str(theirs) in cls.card.notes.partition("OpenOOD")[2], f"the notes lack OpenOOD's {option}"


@pytest.mark.parametrize("name", SWEEPS)
def test_values_that_openood_tunes_on_validation_images_are_noted(name):
    for end in SWEEPS[name]:
        assert f"{end}" in SCORERS[name].card.notes
    assert "on validation OOD images" in SCORERS[name].card.notes

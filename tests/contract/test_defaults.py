"""Defaults of scorers beside those of their authors' code and of OpenOOD.

OpenOOD: configs/postprocessors and openood/postprocessors of commit 3c35632. Whoever changes a default changes these
tables, and the notes of its `ScorerInfo`, which the documentation shows.
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

AUTHORS = {  # scorer: where it was read; option: the value in the code of its authors, or in the paper
    "ash-b": ("andrijazz/ash 0528fd2, ash.py", {"percentile": 0.65}),
    "ash-p": ("andrijazz/ash 0528fd2, ash.py", {"percentile": 0.65}),
    "ash-s": ("andrijazz/ash 0528fd2, config/imagenet_config.yml", {"percentile": 0.9}),
    "dice": ("deeplearning-wisc/dice 8acfb8d, demo-cifar.sh", {"sparsity": 0.9}),
    "doctor-alpha": ("doctor-public-submission/DOCTOR 8e24e7e, README.md: T_tbb", {"temperature": 1}),
    "doctor-beta": ("doctor-public-submission/DOCTOR 8e24e7e, README.md: T_tbb", {"temperature": 1}),
    "energy": ("wetliu/energy_ood 77f3c09, CIFAR/test.py", {"temperature": 1}),
    "euclidean": ("dvlab-research/MOOD 06be45f, MOODv1/eval_with_features.py", {"normalize": True}),
    "fdbd": ("litianliu/fDBD-OOD 961621e, run_cifar.py", {"scale": "distance"}),
    "gen": ("XixiLiu95/GEN 1e792b5, benchmark.py", {"gamma": 0.1, "top": 100}),
    "gradnorm": ("deeplearning-wisc/gradnorm_ood 18d5d33, test_ood.py", {"temperature": 1, "target": "ones"}),
    "gram": ("VectorInstitute/gram-ood-detection e15126c, ResNet_Cifar10.ipynb", {"powers": 10}),
    "igeood": ("edadaltocg/Igeood db532b1, eval.py", {"temperature": 1}),
    "iodin": (
        "sudarshanregmi/ASCOOD f351789, configs/postprocessors/iodin.yml",
        {"temperature": 1000, "epsilon": 0.0014},
    ),
    "isolation-forest": ("scikit-learn, IsolationForest", {"trees": 100, "samples": 256}),
    "kl-matching": ("Mahalanobis++, arXiv 2505.18032, appendix G, of Hendrycks et al.", {"fit_to": "held-out"}),
    "knn": ("deeplearning-wisc/knn-ood 2afb2bb, run_cifar.py", {"k": 50, "normalize": True, "sample": 1}),
    "lof": ("scikit-learn, LocalOutlierFactor", {"k": 20}),
    "lts": ("andrijazz/lts 9509d96, config", {"percentile": 0.95}),
    "mahalanobis-class": (
        "dvlab-research/MOOD 06be45f, MOODv1/ood_utils.py",
        {"normalize": True, "covariance": "empirical"},
    ),
    "mahalanobis-global": (
        "dvlab-research/MOOD 06be45f, MOODv1/ood_utils.py",
        {"normalize": True, "covariance": "empirical"},
    ),
    "mc-dropout": ("Gal and Ghahramani, 2016, section 5.2", {"passes": 100}),
    "nac": (
        "BierOne/ood_coverage b002780, configs/postprocessors/nac/resnet/nac_cifar10.yml: avgpool",
        {"steepness": 100, "bins": 50, "filled": 50},
    ),
    "nci": ("litianliu/NCI-OOD dfb9e6a, configs/postprocessors/nci.yml", {"alpha": 0.0001}),
    "nnguide": ("roomo7time/nnguide c123cac, configs/detector, dataloaders/factory.py", {"k": 10, "sample": 0.01}),
    "odin": ("facebookresearch/odin 64e9796, README.md: densenet10", {"temperature": 1000, "epsilon": 0.0014}),
    "one-class-svm": ("scikit-learn, OneClassSVM", {"nu": 0.5}),
    "openmax": ("abhijitbendale/OSDN c13b769, compute_openmax.py", {"alpha": 10, "tail": 20}),
    "rankfeat": ("KingJamesSong/RankFeat 1c0de9c, test_ood_resnetv2.py", {"temperature": 1}),
    "react": ("deeplearning-wisc/react 2aa35d9, compute_threshold.py", {"quantile": 0.9}),
    "relation-graph": (
        "snu-mllab/Neural-Relation-Graph 915cc61, README.md, relation.py",
        {"power": 1, "threshold": 0.03},
    ),
    "scale": ("kai422/SCALE 6a6ab91, configs/postprocessors/scale.yml", {"percentile": 0.85}),
    "ssd": ("inspire-group/SSD cf2e162, eval_ssd.py", {"clusters": 1}),
    "vra": ("zeroQiaoba/VRA 4dad931, readme.md: CIFAR-100", {"lower": 0.6, "upper": 0.95}),
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
        assert defaults[option] == ours, f"{option} has another default: change this table and the notes"
        if ours != theirs:
            assert str(theirs) in cls.info.notes.partition("OpenOOD")[2], f"the notes lack OpenOOD's {option}"


@pytest.mark.parametrize("name", AUTHORS)
def test_defaults_that_differ_from_those_of_the_authors_are_noted(name):
    cls = SCORERS[name]
    defaults = {option.name: option.default for option in fields(cls)}
    for option, theirs in AUTHORS[name][1].items():
        assert defaults[option] == theirs or str(theirs) in cls.info.notes, f"the notes lack the authors' {option}"


@pytest.mark.parametrize("name", SWEEPS)
def test_values_that_openood_tunes_on_validation_images_are_noted(name):
    for end in SWEEPS[name]:
        assert f"{end}" in SCORERS[name].info.notes
    assert "on validation OOD images" in SCORERS[name].info.notes

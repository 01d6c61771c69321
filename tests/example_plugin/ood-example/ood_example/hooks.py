"""Registration, nothing else."""

from __future__ import annotations

from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Backbone, Scorer
from ood_example.backbone import CifarResNet20
from ood_example.scorer import ClassMeanCosine


@hookimpl
def ood_register_backbones() -> list[type[Backbone]]:
    """Return the CIFAR ResNet-20."""
    return [CifarResNet20]


@hookimpl
def ood_register_scorers() -> list[type[Scorer]]:
    """Return the cosine to the class means."""
    return [ClassMeanCosine]

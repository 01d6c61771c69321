"""Moments of classes in one pass over the data, estimators of covariance, and the whitening made of them; float64."""

from ood_core.statistics.estimators import Estimator, covariance, covariances
from ood_core.statistics.moments import ClassMoments, GroupMoments, Parts, moments, moments_of_each
from ood_core.statistics.whitening import Whitening, principal

__all__ = (
    "ClassMoments",
    "Estimator",
    "GroupMoments",
    "Parts",
    "Whitening",
    "covariance",
    "covariances",
    "moments",
    "moments_of_each",
    "principal",
)

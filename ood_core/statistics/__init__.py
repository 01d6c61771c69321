"""Moments of classes in one pass over the data, estimators of covariance, and the whitening made of them; float64."""

from ood_core.statistics.estimators import Estimator as Estimator
from ood_core.statistics.estimators import covariance as covariance
from ood_core.statistics.estimators import covariances as covariances
from ood_core.statistics.moments import ClassMoments as ClassMoments
from ood_core.statistics.moments import GroupMoments as GroupMoments
from ood_core.statistics.moments import Parts as Parts
from ood_core.statistics.moments import moments as moments
from ood_core.statistics.moments import moments_of_each as moments_of_each
from ood_core.statistics.whitening import Whitening as Whitening
from ood_core.statistics.whitening import principal as principal

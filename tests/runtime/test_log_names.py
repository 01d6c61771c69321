"""Log messages say which scorer they are about."""

import logging
import threading

import torch

from ood_core.interfaces import Outputs
from ood_core.interfaces.checks import fit_scorer
from ood_core.runtime.log_names import fit_named
from ood_mahalanobis.scorers import Mahalanobis

LOG = logging.getLogger("ood_gmm.mixture")


def test_directions_without_variance_are_said_with_the_scorer_that_leaves_them_out(caplog):
    embeddings = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embeddings[:, 3] = 1
    train = Outputs(embeddings=embeddings, logits=torch.zeros(40, 2), labels=torch.arange(40) % 2, classes=2)
    fit_scorer("distance", Mahalanobis(), train)
    assert caplog.messages == ["fit distance: embeddings vary in 3 of 4 directions; the others are left out"]


def test_a_message_that_names_the_scorer_stays_as_it_is(caplog):
    with fit_named("gmm"):
        LOG.warning("gmm: not converged after %d rounds", 5)
    with fit_named("react(score=gmm, percent=90%)"):
        LOG.warning("gmm: not converged after %d rounds", 5)
    LOG.warning("%d%% done", 100)
    assert caplog.messages == [
        "gmm: not converged after 5 rounds",
        "fit react(score=gmm, percent=90%): gmm: not converged after 5 rounds",
        "100% done",
    ]


def test_messages_of_other_threads_and_after_an_error_stay_as_they_are(caplog):
    try:
        with fit_named("gmm"):
            thread = threading.Thread(target=LOG.warning, args=("of a request",))
            thread.start()
            thread.join()
            raise ValueError
    except ValueError:
        LOG.warning("later")
    assert caplog.messages == ["of a request", "later"]

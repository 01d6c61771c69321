"""The threads of OpenMP: how long idle ones spin, set before a library loads it, and their loss in a fork."""

from __future__ import annotations

import os

from ood_core.errors import OODError

SETTINGS = {
    "GOMP_SPINCOUNT": "1000",  # of GNU's, which torch, faiss and scikit-learn bring on Linux
    "KMP_BLOCKTIME": "1",  # milliseconds; of Intel's and LLVM's, which conda and macOS bring
}
"""By default idle threads spin for milliseconds, which takes the cores from whatever runs beside."""

OWN = (*SETTINGS, "OMP_WAIT_POLICY")
"""Variables of which the user's own setting decides alone."""


def limit_spinning() -> None:
    """Have idle threads of this process and of those that it starts spin only shortly, unless the user has chosen."""
    if not any(name in os.environ for name in OWN):
        os.environ.update(SETTINGS)


_COMPUTED: list[int] = []  # the number of the first process that computed


def require_own_threads(threads: int) -> None:
    """Raise OODError in a forked process, which would wait for its parent's threads for ever, unless it uses one."""
    if not _COMPUTED:
        _COMPUTED.append(os.getpid())
    if _COMPUTED[0] != os.getpid() and threads > 1:
        raise OODError(
            "this process was forked from one that has computed, and lacks its threads: start it by "
            "multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) in it before anything else"
        )

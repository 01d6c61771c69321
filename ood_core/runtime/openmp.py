"""How long OpenMP's idle threads spin, set before a library loads it; afterwards it has no effect."""

from __future__ import annotations

import os

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

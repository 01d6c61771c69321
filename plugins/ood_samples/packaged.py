"""The data files that come with scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def packaged(name: str) -> Path:
    """Return the path of a file in scikit-learn's `datasets` package, such as "images/china.jpg"."""
    # Data is opened in every run, also when all results are stored. `import sklearn.datasets` takes 2 to 4 s on top
    # of torch, reading the same file takes 0.03 s; a test compares the two.
    spec = find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations, "scikit-learn is a dependency of this package"
    return Path(spec.submodule_search_locations[0], "datasets", name)

"""The names of the package itself."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import ood_core
from ood_core import Detector, detector


def test_the_package_has_its_version_and_the_detector():
    assert ood_core.__version__ == version("ood-framework")
    assert Detector is detector.Detector
    with pytest.raises(AttributeError, match="module 'ood_core' has no attribute 'Detectr'"):
        _ = ood_core.Detectr


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, ood_core\n"
        "ood_core.__version__\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'timm', 'faiss', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

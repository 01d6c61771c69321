"""torchvision and timm can be imported beside whichever build of torch is installed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["torchvision", "timm"])
def test_an_import_works_after_the_declaration(module):
    declare = "from ood_core.runtime.torchvision_compat import prepare_torchvision as prepare; prepare(); prepare()"
    code = f"{declare}; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_declaration_is_made_only_where_torchvisions_library_does_not_load():
    code = (
        "import torch\n"
        "from ood_core.runtime.torchvision_compat import prepare_torchvision\n"
        "declared = prepare_torchvision() is not None\n"
        "import torchvision.extension as extension\n"
        "assert declared != extension._has_ops(), declared\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

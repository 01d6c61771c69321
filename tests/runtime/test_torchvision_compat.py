"""torchvision and timm can be imported beside whichever build of torch is installed."""

import subprocess
import sys

import pytest

from ood_core.runtime import torchvision_hook


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


def test_a_script_in_an_environment_with_the_hook_imports_torchvision_first(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_hook, "prepare_torchvision", lambda: "a library")
    assert torchvision_hook.write_hook(tmp_path) == tmp_path / "ood_torchvision.pth"
    code = (
        "import importlib.util, site, sys\n"
        "names = lambda: [getattr(finder, '__module__', '') for finder in sys.meta_path]\n"
        "if 'ood_core.runtime.torchvision_finder' in names(): del sys.meta_path[0]\n"  # make has written it
        f"site.addsitedir({str(tmp_path)!r})\n"
        "assert names()[0] == 'ood_core.runtime.torchvision_finder'\n"
        "assert importlib.util.find_spec('torchvision') and 'torch' not in sys.modules\n"
        "from torchvision.models import resnet18\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_hook_of_an_uninstalled_framework_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_hook, "prepare_torchvision", lambda: "a library")
    line = torchvision_hook.write_hook(tmp_path).read_text()
    monkeypatch.setitem(sys.modules, "ood_core.runtime.torchvision_finder", None)
    exec(line, {})


def test_where_the_library_loads_no_hook_is_written_and_an_older_one_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_hook, "prepare_torchvision", lambda: None)
    (tmp_path / "ood_torchvision.pth").touch()
    assert torchvision_hook.write_hook(tmp_path) is None
    assert not list(tmp_path.iterdir())

"""The wheel in a fresh environment, with a third party's package beside it, used from another folder."""

import email
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from ood_core.plugins import core_version
from ood_core.runtime.source_digest import source_digest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_plugin" / "ood-example"
FOREIGN = ("plugins", "recipes", "tests")

RECIPE = """\
data:
  image_size: 32
  id: {use: digits, classes: [0, 1], limit: 10}
  near:
    - {use: digits, name: unseen, classes: [8], limit: 10}
  far:
    - {use: noise, count: 10}
backbone: {use: resnet20-cifar, weights: weights.safetensors}
training: []
scorers: [class-mean-cosine, mahalanobis]
"""


def call(command, folder):
    """Return what a command prints, called from a folder, without this process's paths; it must succeed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OOD_", "COV_"))}
    environment = kept | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(project, folder):
    """Return the wheel of a project, made by the build backend of the running environment."""
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def files(wheel):
    """The names of all files in the wheel."""
    return zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with both wheels; `python`, `ood_run`, and a `folder` that is not the project's.

    What the project depends on comes from the running environment, through a line in a .pth file. The .pth files of
    the folder named there are not read, so an editable installation of the project stays outside, and its metadata
    stands behind that of the wheel.
    """
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    scripts = root / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    site = Path(call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], root).strip())
    wheels = [wheel, build(EXAMPLE, tmp_path_factory.mktemp("example"))]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    call([*pip, "--disable-pip-version-check", *wheels], root)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return SimpleNamespace(
        python=python, ood_run=scripts / "ood-run", site=site, folder=tmp_path_factory.mktemp("elsewhere")
    )


# --------------------------------------------------------------------------------------------------- what is in it


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(files):
    packages = {"ood_core", *(folder.name for folder in (ROOT / "plugins").glob("ood_*"))}
    assert {name.partition("/")[0] for name in files if ".dist-info/" not in name} == packages


@pytest.mark.slow
def test_the_wheel_holds_every_recipe_in_the_core_and_no_readme(files):
    shipped = (path for path in (ROOT / "recipes").rglob("*") if path.suffix in (".yaml", ".csv"))
    recipes = {path.relative_to(ROOT / "recipes").as_posix() for path in shipped}
    assert {f"ood_core/recipes/{name}" for name in recipes} == {
        name for name in files if name.startswith("ood_core/recipes/")
    }
    assert [name for name in files if name.endswith(".md")] == []


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(files):
    sources = {ROOT / "ood_core": ROOT, ROOT / "plugins": ROOT / "plugins"}
    kinds = (".py", ".typed", ".j2", ".css", ".js", ".yaml", ".txt")
    wanted = {
        path.relative_to(base).as_posix()
        for folder, base in sources.items()
        for path in folder.rglob("*")
        if path.suffix in kinds
    }
    shipped = {name for name in files if Path(name).suffix in kinds and ".dist-info/" not in name}
    assert wanted == {name for name in shipped if not name.startswith("ood_core/recipes/")}
    assert any(name.startswith("ood_core/report/templates/") for name in files)
    assert "ood_core/py.typed" in files


@pytest.mark.slow
def test_the_metadata_say_who_made_it_under_which_licence_and_where_it_is(wheel, files):
    (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    found = email.message_from_string(zipfile.ZipFile(wheel).read(name).decode())
    assert (found["Name"], found["Version"]) == ("ood-framework", version(ROOT))
    assert (found["Author"], found["License-Expression"]) == ("The ood-framework developers", "Apache-2.0")
    assert found.get_all("License-File") == ["LICENSE"]
    assert name.replace("METADATA", "licenses/LICENSE") in files
    assert {line.partition(",")[0] for line in found.get_all("Project-URL")} >= {"Homepage", "Documentation", "Issues"}
    assert found.get_payload() == (ROOT / "README.md").read_text()


# ------------------------------------------------------------------------------------------------------- in use


@pytest.mark.slow
def test_the_installed_package_is_the_one_in_use(installed):
    program = "import ood_core, ood_mim, ood_example; print(ood_core.__file__, ood_mim.__file__, ood_example.__file__)"
    paths = call([installed.python, "-c", program], installed.folder).split()
    assert [Path(path).parent.parent for path in paths] == [installed.site] * 3


@pytest.mark.slow
def test_no_foreign_name_becomes_importable_by_the_wheel(installed):
    assert importable(installed.python, installed.folder) == []


def test_no_foreign_name_becomes_importable_in_the_running_environment(tmp_path):
    assert importable(sys.executable, tmp_path) == []


def importable(python, folder):
    program = f"from importlib.util import find_spec; print(*(n for n in {FOREIGN} if find_spec(n)))"
    return call([python, "-c", program], folder).split()


@pytest.mark.slow
def test_the_version_is_shown(installed):
    assert call([installed.ood_run, "--version"], installed.folder) == f"ood-framework {version(ROOT)}\n"


def version(project):
    lines = (project / "pyproject.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version = "))


@pytest.mark.slow
def test_every_package_is_listed_with_its_own_version(installed):
    listed = call([installed.ood_run, "--plugins"], installed.folder).splitlines()
    assert f"example (ood-example {version(EXAMPLE)})" in listed
    assert f"mahalanobis (ood-framework {version(ROOT)})" in listed
    assert any(line.split()[:2] == ["scorer", "class-mean-cosine"] for line in listed)
    assert any(line.split()[:2] == ["backbone", "resnet20-cifar"] for line in listed)


@pytest.mark.slow
def test_a_recipe_uses_scorer_and_backbone_of_the_other_package(installed, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from ood_example.resnet import ResNet20

    torch.manual_seed(0)
    save_file(ResNet20(10).state_dict(), installed.folder / "weights.safetensors")
    (installed.folder / "own.yaml").write_text(RECIPE)
    call([installed.ood_run, "own.yaml", "--out", "reports"], installed.folder)
    report = json.loads((installed.folder / "reports" / "report.json").read_text())
    assert [(row["scorer"], row["group"]) for row in report["rows"]] == [
        ("class-mean-cosine", "near"),
        ("class-mean-cosine", "far"),
        ("mahalanobis", "near"),
        ("mahalanobis", "far"),
    ]
    assert all(0 <= row["auroc"] <= 1 for row in report["rows"])
    assert report["versions"]["plugin example"].startswith(f"ood-example {version(EXAMPLE)}+")
    # what is installed from a wheel has the keys of an editable install of the same files
    shared = f"ood-framework {version(ROOT)}+{source_digest('ood_mahalanobis')}"
    assert report["versions"]["plugin mahalanobis"] == shared
    assert report["versions"]["ood-framework"] == core_version()
    assert "class-mean-cosine" in (installed.folder / "reports" / "report.md").read_text()


@pytest.mark.slow
def test_a_shipped_recipe_is_found_by_name_from_any_folder(installed):
    shown = call([installed.ood_run, "mood", "--plan"], installed.folder).splitlines()
    trained = [line.strip(" └─").partition(" on ")[0] for line in shown[1:3]]
    assert trained == ["train mim", "train mim > classification"]

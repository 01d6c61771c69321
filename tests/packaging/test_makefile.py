"""`make` installs what its targets need, and shows that it does."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def commands(tmp_path, *targets):
    """Return what make would call where there is no environment yet."""
    command = ["make", "--dry-run", f"VENV={tmp_path}/new", *targets]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("target", "installed"), [("mood", "."), ("test", ".[dev]"), ("check", ".[dev]"), ("gpu", ".[dev]")]
)
def test_a_target_installs_what_it_needs_shows_it_and_lets_torchvision_be_imported(tmp_path, target, installed):
    lines = commands(tmp_path, target).splitlines()
    (place,) = (place for place, line in enumerate(lines) if line.endswith(f"install --editable '{installed}'"))
    assert lines[place - 1].startswith(
        f'echo "Installing {installed} and the packages that it needs into {tmp_path}/new'
    )
    assert "--quiet" not in lines[place]
    assert lines[place + 1].endswith("python -m ood_core.runtime.torchvision_hook")


def test_the_tests_do_not_install_anew_what_recipes_need(tmp_path):
    (tmp_path / "new" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".ready-dev", ".ready"):
        (tmp_path / "new" / name).touch()
    assert "--editable" not in commands(tmp_path, "mood", "check")
    (tmp_path / "new" / ".ready-dev").unlink()
    assert "--editable" not in commands(tmp_path, "mood")
    assert "'.[dev]'" in commands(tmp_path, "check")

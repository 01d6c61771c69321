"""What tests share: command lines in this process; of the page an installed browser, and findings without a run."""

import resource
import runpy
import shutil
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from ood_core.store import store

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def command_line(tmp_path, monkeypatch, capsys):
    """`command_line(name, run)`: makes what calls it, in this process and a folder of its own.

    What it makes takes the arguments, and gives exit code, stdout, stderr.
    """
    monkeypatch.chdir(tmp_path)

    def named(name, run):
        def call(*arguments):
            monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
            with pytest.raises(SystemExit) as caught:
                run()
            captured = capsys.readouterr()
            return int(caught.value.code or 0), captured.out, captured.err

        return call

    return named


@pytest.fixture
def ood(command_line):
    """`ood(*arguments)`: exit code, stdout, stderr of `ood`."""
    from ood_core import cli

    return command_line("ood", cli.main)


@pytest.fixture
def ood_run(command_line):
    """`ood_run(*arguments)`: exit code, stdout, stderr of `ood-run`."""
    from ood_core.cli import run

    return command_line("ood-run", run.main)


@pytest.fixture
def fake_stages(monkeypatch):
    """Stages without plugins and images, whose costs are those of no other, can be put into a store."""
    monkeypatch.setattr(store, "cost_key", lambda stage: "alike")
    monkeypatch.setattr(store, "image_count", lambda stage: 1)


@pytest.fixture(scope="session")
def disk_full():
    """`with disk_full(size):` no file can grow beyond so many bytes, as on a disk that is full."""

    @contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def rounded():
    """`rounded(scores)`: equals scores of the same images in other batches, whatever the processor.

    The network rounds to float32, and scorers magnify that: of AVX2 the largest relative difference seen is 3e-5.
    """
    return partial(pytest.approx, rel=1e-4, abs=0)


@pytest.fixture(scope="session")
def synthetic():
    """`synthetic(folder, variants=1, scorers=2, ...)`: findings whose pictures lie in the folder."""
    return runpy.run_path(str(Path(__file__).with_name("synthetic_report.py")))["synthetic"]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; the one that is installed, as nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()

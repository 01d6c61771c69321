"""What many tests share: the installed plugins, found once, and a recipe small enough to run in seconds."""

import os
import resource
import runpy
import shutil
import signal
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from ood_core.detector import Detector, bundle
from ood_core.detector.from_run import build_detector
from ood_core.pipeline.events import Observer
from ood_core.plan import make
from ood_core.plugins import find, hook_manager
from ood_core.recipe.read import Recipe, read_recipes
from ood_core.records.plan import Plan
from ood_core.records.results import Results
from ood_core.run.schedule import run
from ood_core.store import store
from ood_core.store.store import Store

from .packaging.packages import write_package

TINY = """\
seed: 0
data:
  image_size: 8
  id: {use: digits, classes: [0, 1, 2], limit: 40}
  near:
    - {use: digits, name: unseen, classes: [8, 9], limit: 20}
  far:
    - {use: noise, size: 8, count: 30}
backbone: {use: timm, model: vit_tiny_patch16_224, options: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}}
training:
  - {use: classification, epochs: 2, batch_size: 16, crop_scale: 1, flip: false}
scorers: [energy, mahalanobis]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no process ends with one of them while the others are idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


QUIET = Observer(hook_manager().hook, None)
"""For stages that a test carries out without a run."""


def planned(path: Path, *overrides: str) -> tuple[list[Recipe], Plan]:
    """Return the variants of a recipe file and their plan."""
    recipes = read_recipes(path, overrides)
    return recipes, make.make_plan(recipes, find())


def other_notes(plan: Plan) -> tuple[str, ...]:
    """Return the notes of a plan without that on few held-out images, which small recipes have."""
    return tuple(note for note in plan.notes if "can vouch for a TPR" not in note)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep the user's cache out of the tests, and the tests out of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OOD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Leave files in the memory of the system, which a killed process does not take along: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def plugins():
    return find()


@pytest.fixture(scope="session")
def tiny_text():
    """A recipe that trains, extracts and scores in about a second."""
    return TINY


@pytest.fixture
def tiny(tmp_path, tiny_text):
    """The path of that recipe."""
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_text)
    return path


@pytest.fixture
def make_plan(plugins):
    """`make_plan(path, *overrides)`: the plan of a recipe file."""
    return lambda path, *overrides: make.make_plan(read_recipes(path, overrides), plugins)


class TinyRun(NamedTuple):
    """A run that is done, and its detector; shared by all tests, so none may change a file of it."""

    plan: Plan
    store: Store
    results: Results
    detector: Path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, plugins) -> TinyRun:
    """That recipe with the five scorers of the paper, carried out."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    changes = ["scorers=[mahalanobis, softmax, entropy, energy, gradnorm]", "data.holdout=0.2"]
    made, store = make.make_plan(read_recipes(folder / "tiny.yaml", changes), plugins), Store(folder / "store")
    results = run(made, store)
    bundle.save_detector(build_detector(made, store), folder / "detector", plugins)
    return TinyRun(made, store, results, folder / "detector")


@pytest.fixture(scope="session")
def tiny_detector(tiny_run) -> Detector:
    """Its detector, loaded."""
    return Detector.load(tiny_run.detector)


@pytest.fixture(scope="module")
def serving(tiny_detector):
    """`with serving(timeout=0.4) as address:` a service of that detector in this process, with these limits."""

    @contextmanager
    def listening(**limits):
        from ood_serve.limits import Limits
        from ood_serve.server import listen, make_server
        from ood_serve.service import Service

        server = make_server(Service(tiny_detector.state, Limits(**limits)))
        with listen("127.0.0.1", 0) as opened:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
            thread.start()
            yield opened.getsockname()[:2]
            server.handle_exit(signal.SIGINT, None)
            thread.join(10)
            assert not thread.is_alive()

    return listening


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
    return runpy.run_path(str(Path(__file__).parent / "report" / "synthetic_report.py"))["synthetic"]


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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(distribution, hooks_source)` puts a package on the path; its modules are forgotten after the test."""
    before = set(sys.modules)

    def write(name, hooks_source):
        root = write_package(tmp_path, name, hooks_source)
        monkeypatch.syspath_prepend(root)
        return root / name.replace("-", "_")

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]

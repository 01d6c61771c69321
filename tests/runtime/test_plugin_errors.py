"""Exceptions of plugins: one line with package, stage, file and line, and a traceback in a file."""

import json
from pathlib import Path

import pytest

from ood_core.data import cache, loaders
from ood_core.records.results import Results
from ood_core.report import write_failures
from ood_core.runtime.plugin_errors import named

from ..packaging.packages import VERSION

SOURCE = """\
from dataclasses import dataclass
from PIL import Image
import torch
from ood_core.hookspecs import hookimpl
from ood_core.interfaces import DatasetSource, ImageSet, Score, Scorer

def fail(place):
    if place == "":
        raise KeyError(place)

@dataclass(frozen=True)
class Norm(Score):
    def __call__(self, outputs):
        fail("score")
        return outputs.embeddings.double().norm(dim=1)

@dataclass(frozen=True, kw_only=True)
class Broken(Scorer):
    name = "broken"
    scores = Norm
    def __post_init__(self): fail("__post_init__")
    def check(self): fail("check")
    def own_needs(self):
        fail("own_needs")
        return self.needs
    def probe(self): fail("probe")
    def memory(self, classes, dimensions):
        fail("memory")
        return 0
    def fit(self, train):
        fail("fit")
        return Norm()

class Squares(ImageSet):
    classes, labels, fingerprint = ("square",), [0] * 9, "squares"
    def image(self, index):
        fail("image")
        return Image.new("L", (8, 8), 20 * index)

@dataclass(frozen=True, kw_only=True)
class Source(DatasetSource):
    name = "squares"
    def open(self, split):
        fail("open")
        return Squares()

@hookimpl
def ood_register_scorers():
    return [Broken]

@hookimpl
def ood_register_datasets():
    return [Source]
"""

RAISES, EXITS = "raise KeyError(place)", "exit(3)"
MISTAKES = "from ood_core.errors import OODError; raise OODError('no picture')"
KEY_ERROR = "KeyError: '{0}'"
LINE = f"plugin broken (ood-broken {VERSION}): KeyError: '{{0}}' (ood_broken/hooks.py:9, in fail)"


def run_broken(install, ood_run, tiny, place, *overrides, raises=RAISES):
    """Run the tiny recipe with a plugin that raises at this place."""
    install("ood-broken", SOURCE.replace('place == ""', f"place == {place!r}").replace(RAISES, raises))
    return ood_run(tiny, "--set", "training=[]", *(word for of in overrides for word in ("--set", of)), "--out", "out")


SCORERS = "scorers=[mahalanobis, broken]"
SQUARES = "data.far=[{use: squares}]"


@pytest.mark.parametrize("place", ["own_needs", "probe", "memory"])
def test_an_exception_while_a_recipe_is_planned_is_one_line_with_a_traceback_in_the_cache(
    install, ood_run, tiny, place
):
    code, out, err = run_broken(install, ood_run, tiny, place, SCORERS)
    traceback = cache.folder() / "traceback.txt"
    assert (code, out, err) == (2, "", f"{LINE.format(place)}; traceback: {traceback}\n")
    assert f"in {place}\n    " in traceback.read_text()


@pytest.mark.parametrize(
    ("place", "raises"),
    [("__post_init__", EXITS), ("check", RAISES), ("open", EXITS), ("open", RAISES)],
)
def test_an_exception_of_options_or_a_source_is_one_line(install, ood_run, tiny, place, raises):
    code, _, err = run_broken(install, ood_run, tiny, place, SCORERS, SQUARES, raises=raises)
    line = LINE.format(place) if raises == RAISES else LINE.replace(KEY_ERROR, "SystemExit: 3")
    traceback = cache.folder() / "traceback.txt"
    assert code == 2
    assert err.count("\n") == 1
    assert err.endswith(f"{line}; traceback: {traceback}\n")
    assert place == "open" or err.startswith("--set scorers=[mahalanobis, broken]: ")
    assert f"in {place}\n    " in traceback.read_text()


def test_a_source_that_raises_is_not_left_out_as_one_that_is_missing(install, ood_run, tiny):
    overrides = (SQUARES, "data.missing_files=leave-out", "scorers=[mahalanobis]")
    code, _, err = run_broken(install, ood_run, tiny, "open", *overrides)
    assert (code, err.partition(";")[0]) == (2, LINE.format("open"))


def test_a_scorer_that_fails_beside_others_is_one_line_for_all_image_sets_with_its_traceback_in_the_runs_folder(
    install, ood_run, tiny
):
    code, _, err = run_broken(install, ood_run, tiny, "score", SCORERS)
    line = (
        f"score digits by broken: {LINE.format('score')}; 3 more stages failed alike: score digits holdout by broken, "
        "score unseen by broken, score noise(size=8, count=30) by broken"
    )
    assert code == 1
    assert f"\nfailed: {line}; traceback: out/failures.txt\n" in err
    assert "Traceback" not in err
    text = Path("out/failures.txt").read_text()
    assert text.startswith(f"{line}\n\nTraceback (most recent call last):\n")
    assert "in __call__\n    fail(" in text
    (failed,) = json.loads(Path("out/report.json").read_text())["failures"]
    assert (failed["message"], failed["traceback"]) == (line, "failures.txt")
    assert "traceback: [failures.txt](failures.txt)\n" in Path("out/report.md").read_text()
    assert 'traceback: <a href="failures.txt">failures.txt</a>' in Path("out/report.html").read_text()
    write_failures(Results((), (), 1.0), Path("out"))  # of a run without failures
    assert not Path("out/failures.txt").exists()


@pytest.mark.parametrize(("place", "raises"), [("fit", EXITS), ("score", EXITS), ("fit", RAISES)])
def test_where_nothing_could_be_measured_the_same_line_ends_the_command(install, ood_run, tiny, place, raises):
    code, _, err = run_broken(install, ood_run, tiny, place, "scorers=[broken]", raises=raises)
    last = err.splitlines()[-1]
    assert code == 2
    assert "Traceback" not in err
    assert (
        f"plugin broken (ood-broken {VERSION}): {f'KeyError: {place!r}' if raises == RAISES else 'SystemExit: 3'}"
        in last
    )
    assert last.endswith("; traceback: out/failures.txt")
    assert f"in {'__call__' if place == 'score' else 'fit'}\n    fail(" in Path("out/failures.txt").read_text()


def test_a_score_that_is_no_tensor_is_a_mistake_that_is_reported_once(install, ood_run, tiny):
    install("ood-broken", SOURCE.replace("return outputs.embeddings.double().norm(dim=1)", "pass"))
    code, _, err = ood_run(tiny, "--set", "training=[]", "--set", "scorers=[broken]", "--out", "out")
    last = err.splitlines()[-1]
    assert code == 2
    assert last.startswith("score digits by broken: scorer 'broken' gave nothing, not a tensor, float64 [")
    assert "; 3 more stages failed alike: " in last
    assert not Path("out/failures.txt").exists()


@pytest.mark.parametrize(
    ("raises", "inline", "line"),
    [
        (RAISES, 1000, f"{LINE.format('image')}; traceback: out/failures.txt"),
        (EXITS, 0, f"{LINE.replace(KEY_ERROR, 'SystemExit: 3')}; traceback: out/failures.txt"),
        (MISTAKES, 0, "no picture; 'unreadable: skip' in 'data' goes on without such pictures"),
    ],
)
def test_an_image_that_raises_is_one_line_in_whatever_process_it_is_read(
    install, ood_run, tiny, monkeypatch, raises, inline, line
):
    monkeypatch.setattr(loaders, "INLINE_IMAGES", inline)
    overrides = (SQUARES, "data.near=[]", "scorers=[mahalanobis]")
    code, _, err = run_broken(install, ood_run, tiny, "image", *overrides, raises=raises)
    assert code == 2
    assert err.splitlines()[-1] == f"extract squares (timm): {line}"
    assert not inline or "in image\n    fail(" in Path("out/failures.txt").read_text()


def test_an_exception_of_the_core_keeps_its_name_alone():
    try:
        {}["here"]
    except KeyError as error:
        assert named(error) == "KeyError: 'here'"


@pytest.mark.parametrize("text", ["operator torchvision::nms does not exist", "Couldn't load custom C++ ops."])
def test_an_operator_that_torchvision_lacks_names_the_page_about_it(text):
    line = named(RuntimeError(text))
    section = line.removeprefix(f'RuntimeError: {text}; see "').removesuffix('" in docs/installation.md')
    assert f"## {section}\n" in (Path(__file__).parents[2] / "docs" / "installation.md").read_text()

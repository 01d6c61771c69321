"""The command line `ood`: reports of runs, exit codes, one line for a mistake."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from ood_core.report.formats.run_folder import load, save

from ..report.test_run_folder import findings


@pytest.fixture
def runs(tmp_path):
    """Two runs in `runs/`, without pictures."""
    for name, variants in (("one", ("a", "b")), ("two", ("b",))):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        save(replace(findings(name, variants), pictures=(), gallery=()), folder)
    return tmp_path / "runs"


def test_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['ood', 'report', '--help']\n"
        "from ood_core import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'timm', 'faiss', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Make one report of finished runs" in done.stdout


def test_runs_become_one_report(ood, runs):
    code, out, _ = ood("report", "one", runs / "two")
    assert code == 0
    assert out.rstrip().endswith("report: runs/report/report.html")
    assert re.search(r"one: b +energy +noise +far +80\.00", out)
    merged = load(runs / "report")
    assert [row.variant for row in merged.rows] == ["a", "one: b", "two"]
    assert "| two | energy | noise | far |" in (runs / "report" / "report.md").read_text()
    assert "two" in (runs / "report" / "report.html").read_text()
    assert {file.name for file in (runs / "report").iterdir()} == {
        "accepted.csv",
        "classes.csv",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
        "report.tex",
        "scores.safetensors",
        "summary.csv",
    }


def test_the_baseline_can_be_chosen(ood, runs):
    assert ood("report", "one", "--baseline", "b", "--out", "here")[0] == 0
    assert load(runs.parent / "here").baseline.variant == "b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["oen"], "no run 'oen', neither a folder nor below runs/. Did you mean 'one'?"),
        (["one", "runs/one"], "a run is named twice"),
        (["one", "two", "--out", "runs/two"], "--out runs/two: is one of the runs; name another folder"),
        (["one", "two", "--baseline", "c"], "--baseline c: no variant is called so. There is: a, one: b, two"),
        (["runs"], "runs: no run lies there: it has no report.json; `ood-run RECIPE --out runs` makes one"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(ood, runs, arguments, message):
    before = sorted(runs.parent.rglob("*"))
    code, out, err = ood("report", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert sorted(runs.parent.rglob("*")) == before


def test_a_plan_is_shown_by_a_command_of_its_own(ood):
    code, out, _ = ood("plan", "mood")
    assert code == 0
    assert "mood" in out
    code, _, err = ood("run", "moood")
    assert code == 2
    assert "Did you mean 'mood'?" in err

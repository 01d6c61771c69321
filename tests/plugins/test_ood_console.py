"""What a person sees on the console: lines for the stages, the table, an error that leaves the screen in order."""

import io
import subprocess
import sys

import pytest
from rich.console import Console as Screen

from ood_console.hooks import Console
from ood_core.errors import OODError
from ood_core.run import run
from ood_core.store import Store

from ..conftest import TINY


@pytest.fixture
def watched(plugins, monkeypatch):
    """The console among the installed plugins, writing its progress into a string."""
    console = plugins.manager.get_plugin("console")
    text = io.StringIO()
    monkeypatch.setattr(console, "_screen", Screen(file=text, width=200))
    monkeypatch.setattr(console, "_reused", 0)
    return text


def test_stages_worth_a_line_get_one_and_the_table_ends_it(make_plan, tiny, tmp_path, watched, capsys):
    run(make_plan(tiny), Store(tmp_path / "store"))
    progress = watched.getvalue()
    assert progress.startswith("tiny: 20 stages for 4 rows")
    assert "done train classification" in progress
    assert "done extract unseen (classification)" in progress
    assert "done fit mahalanobis" in progress
    assert "score" not in progress
    table = capsys.readouterr().out
    for word in ("scorer", "OOD set", "AUROC", "FPR@95", "AUPR-In", "AUPR-Out", "ID acc.", "mahalanobis", "unseen"):
        assert word in table


def test_a_second_run_says_what_it_found_in_the_store(make_plan, tiny, tmp_path, watched):
    store = Store(tmp_path / "store")
    run(make_plan(tiny), store)
    watched.seek(watched.truncate(0))
    run(make_plan(tiny), store)
    assert "20 stages were in the store" in watched.getvalue()
    assert "done" not in watched.getvalue()


def test_a_failed_stage_is_named_and_the_progress_is_stopped(make_plan, tiny, tmp_path, watched):
    with pytest.raises(OODError):
        run(make_plan(tiny, "training=[]", "scorers=[energy]"), Store(tmp_path / "store"))
    assert "failed fit energy" in watched.getvalue()


def test_each_run_of_the_command_line_has_a_console_of_its_own(plugins):
    from ood_core.plugins import find

    assert isinstance(plugins.manager.get_plugin("console"), Console)
    assert find().manager.get_plugin("console") is not plugins.manager.get_plugin("console")


def test_the_variant_is_shown_where_there_are_several(make_plan, tiny, tmp_path, watched, capsys):
    tiny.write_text(tiny.read_text() + "vary: {one: {}, two: {scorers: [energy]}}\n")
    run(make_plan(tiny), Store(tmp_path / "store"))
    table = capsys.readouterr().out
    assert "variant" in table
    assert "two" in table


def test_stages_of_several_seeds_are_told_apart(make_plan, tiny, tmp_path, watched):
    run(make_plan(tiny, "seeds=[4, 5]", "training.0.epochs=1"), Store(tmp_path / "store"))
    for seed in (4, 5):
        assert f"done train classification, seed {seed}" in watched.getvalue()
        assert f"done extract unseen (classification), seed {seed}" in watched.getvalue()


def test_a_reader_that_went_away_does_not_cost_the_report(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = f"{sys.executable} -c 'from ood_core.cli import run; run()' tiny.yaml --out here | true"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "here" / "report.md").is_file()

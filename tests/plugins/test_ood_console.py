"""What a person sees on the console: lines for the stages, the table, an error that leaves the screen in order."""

import io
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console as Screen

from ood_console import forecast
from ood_console.hooks import Console
from ood_console.table import fit_width
from ood_core import report
from ood_core.errors import OODError
from ood_core.run.schedule import run
from ood_core.store.store import Store

from ..conftest import TINY


@pytest.fixture
def watched(plugins, monkeypatch):
    """The console among the installed plugins, writing its progress into a string."""
    console = plugins.manager.get_plugin("console")
    text = io.StringIO()
    monkeypatch.setattr(console, "_screen", Screen(file=text, width=200))
    return text


@pytest.fixture
def reported(make_plan, plugins, tmp_path):
    """`reported(path, *overrides)`: run a recipe and write its reports, as the command line does."""

    def reported(path, *overrides):
        made, store = make_plan(path, *overrides), Store(tmp_path / "store")
        found = report.write(made, run(made, store, plugins.hook), store, tmp_path / "out")
        plugins.hook.ood_after_report(report=found)

    return reported


def test_stages_worth_a_line_get_one_and_the_table_ends_it(reported, tiny, watched, capsys, tmp_path):
    reported(tiny)
    progress = watched.getvalue()
    assert progress.startswith("tiny: 20 stages for 4 rows")
    assert "done 1/8 train classification" in progress
    assert "extract unseen (classification)" in progress
    assert re.search(r"fit mahalanobis  .* rank \d+ normalize false$", progress, re.MULTILINE)
    assert re.search(r"normalize false \|$", (tmp_path / "out" / "report.md").read_text(), re.MULTILINE)
    assert "score" not in progress
    table = capsys.readouterr().out
    for word in ("scorer", "OOD set", "AUROC", "FPR@95", "AUPR-In", "AUPR-Out", "ID acc.", "mahalanobis", "unseen"):
        assert word in table


def test_a_run_says_what_it_did_and_what_it_found_in_the_store(reported, tiny, watched):
    reported(tiny)
    assert "trained 1, extracted 5, reused 0, " in watched.getvalue()
    watched.seek(watched.truncate(0))
    reported(tiny)
    assert "trained 0, extracted 0, reused 20, " in watched.getvalue()
    assert "done" not in watched.getvalue()


def test_a_failed_stage_is_named_and_the_progress_is_stopped(make_plan, plugins, tiny, tmp_path, watched):
    with pytest.raises(OODError):
        run(make_plan(tiny, "training=[]", "scorers=[energy]"), Store(tmp_path / "store"), plugins.hook)
    assert "failed 6/6 fit energy" in watched.getvalue()


def test_each_run_of_the_command_line_has_a_console_of_its_own(plugins):
    from ood_core.plugins import find

    assert isinstance(plugins.manager.get_plugin("console"), Console)
    assert find().manager.get_plugin("console") is not plugins.manager.get_plugin("console")


def test_the_variant_is_shown_where_there_are_several(reported, tiny, watched, capsys):
    tiny.write_text(tiny.read_text() + "vary: {one: {}, two: {scorers: [energy]}}\n")
    reported(tiny)
    table = capsys.readouterr().out
    assert "variant" in table
    assert "two" in table


def test_stages_of_several_seeds_are_told_apart(make_plan, plugins, tiny, tmp_path, watched):
    run(make_plan(tiny, "seeds=[4, 5]", "training.0.epochs=1"), Store(tmp_path / "store"), plugins.hook)
    for seed in (4, 5):
        assert f" train classification, seed {seed}" in watched.getvalue()
        assert f" extract unseen (classification), seed {seed}" in watched.getvalue()


def test_a_reader_that_went_away_does_not_cost_the_report(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = f"{sys.executable} -c 'from ood_core.cli.run import main; main()' tiny.yaml --out here | true"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "here" / "report.md").is_file()


PAPER = """\
paper:
  tables:
    T5a:
      rows: {Energy: {scorer: energy}, Distance: {scorer: mahalanobis}}
      columns: {C10>C100: {ood_set: unseen}}
"""


def test_published_numbers_stand_beside_ours(reported, tiny, watched, capsys):
    tiny.write_text(tiny.read_text() + PAPER)
    reported(tiny)
    printed = capsys.readouterr().out
    assert "Table 5: scores" in printed
    energy = next(line for line in printed.splitlines() if line.lstrip().startswith("Energy"))
    assert re.search(r"Energy .*99\.9\S* +\d+\.\d / 97\.0", energy)


def test_a_variant_that_lacks_rows_is_named(reported, tiny, watched):
    tiny.write_text(tiny.read_text() + "vary: {good: {}, bad: {training: []}}\n")
    reported(tiny)
    assert "incomplete bad" in watched.getvalue()


HEADINGS = ["scorer", "OOD set", "AUROC", "FPR@95", "AUPR-In", "AUPR-Out", "ID acc."]
NUMBER = "54.20 ± 12.34*"


@pytest.mark.parametrize(
    ("width", "tables", "left_out"),
    [(62, 3, "AUPR-In, AUPR-Out"), (80, 2, "AUPR-In, AUPR-Out"), (120, 1, "AUPR-Out"), (160, 1, "")],
)
def test_a_narrow_terminal_leaves_out_aupr_and_never_breaks_a_number(width, tables, left_out):
    names = [["mahalanobis", "relative-mahalanobis"], ["Places", "noise(size=8, count=30)"]]
    cells = [*names, *([[NUMBER, "1.00"]] * 5)]
    numbers = [heading not in ("scorer", "OOD set") for heading in HEADINGS]
    parts = list(fit_width(HEADINGS, numbers, cells, width, optional=["AUPR-In", "AUPR-Out"]))
    screen = Screen(file=io.StringIO(), width=width)
    for part in parts:
        screen.print(part)
    shown = screen.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count(NUMBER) == 5 - left_out.count("AUPR")
    assert shown.count("scorer") == tables
    assert (f"Not shown here: {left_out}; the report has them." in shown) == bool(left_out)


@pytest.mark.parametrize("width", [62, 80, 120])
def test_the_metrics_give_way_to_the_bar_and_the_remaining_time(make_plan, tiny, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    console, made = Console(), make_plan(tiny, "seeds=[0, 1]")
    screen = Screen(file=io.StringIO(), width=width)
    console.ood_before_run(made)
    console.ood_before_stage(made.stages[0], stored=False)
    console.ood_on_progress(made.stages[0], done=7, total=1200)
    console.ood_after_epoch(made.stages[0], {"epoch": 1, "epochs": 6, "loss": 2.016, "masked_accuracy": 0.1875})
    screen.print(console._progress.get_renderable())
    (line,) = screen.file.getvalue().splitlines()
    assert line.startswith("1/16 train classif")
    assert re.search(r" {10,}7/1200 -:--:-- ", line)
    assert ("masked_accuracy" in line) == (width == 120)


# ------------------------------------------------------------------------------------------------------ forecast


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until its `now` is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(forecast, "monotonic", lambda: clock.now)
    return clock


def after_steps(clock, made, stage, seconds, steps=25, before=0):
    """Return the lines on steps of a stage, each of so many seconds, of 100 in all."""
    console = Console()
    console._screen = Screen(file=io.StringIO(), width=200)
    console.ood_before_run(made)
    for other in made.stages:
        if other.kind == "train":
            console.ood_before_stage(other, stored=False)
    for step in range(before + 1, before + steps + 1):
        console.ood_on_progress(stage, step, 100)
        clock.now += seconds
    return [line for line in console._screen.file.getvalue().splitlines() if "about" in line]


TWO_TRAININGS = "training=[{use: classification, epochs: 2}, {use: classification, epochs: 6}]"


@pytest.mark.parametrize(("seconds", "time"), [(3, "20 min"), (0.2, "80 s"), (60, "6.7 h")])
def test_all_trainings_are_estimated_from_the_first_steps_of_one(make_plan, tiny, clock, seconds, time):
    made = make_plan(tiny, TWO_TRAININGS)  # 100 steps are two epochs of eight
    steps = 25 if seconds == 0.2 else 20
    (line,) = after_steps(clock, made, made.stages[0], seconds, steps + 5)
    assert line == f"about {time} for 2 trainings on this machine, by the first {steps} steps"


def test_short_trainings_and_few_steps_are_not_estimated(make_plan, tiny, clock):
    made = make_plan(tiny, TWO_TRAININGS)
    assert after_steps(clock, made, made.stages[0], 0.01, 100) == []
    assert after_steps(clock, made, made.stages[0], 3, 20) == []


def test_the_steps_before_an_interruption_are_not_counted(make_plan, tiny, clock):
    made = make_plan(tiny)
    (line,) = after_steps(clock, made, made.stages[0], 3, before=70)
    assert line == "about 5 min for the training on this machine, by the first 20 steps"


def test_trainings_that_differ_are_named_in_the_estimate(make_plan, tiny, clock):
    other = "{use: simmim, epochs: 2, mask_unit: 4}"
    made = make_plan(tiny, f"training=[{other}, {{use: classification, epochs: 2}}]")
    (line,) = after_steps(clock, made, made.stages[0], 3)
    assert line.endswith("by the first 20 steps, if an image costs the same in each")
    tiny.write_text(
        tiny.read_text() + "vary: {one: {}, two: {backbone.options.depth: 2}, three: {data.image_size: 16}}\n"
    )
    made = make_plan(tiny)
    (line,) = after_steps(clock, made, made.stages[0], 3)
    assert line.endswith("by the first 20 steps; without 2 more of another backbone or image size")


def test_stored_trainings_take_no_time(make_plan, tiny, clock):
    made = make_plan(tiny, TWO_TRAININGS)
    estimate = forecast.Forecast(made.stages)
    estimate.discard(made.stages[1])
    estimate.after_step(made.stages[0], 1, 100)
    clock.now = 60.0
    assert estimate.after_step(made.stages[0], 21, 100).startswith("about 5 min for the training on")
    assert estimate.after_step(made.stages[0], 22, 100) == "", "once"

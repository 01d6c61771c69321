"""The command line: exit codes, one line for a mistake, nothing written by mistakes and plans."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ood_core.cli import catalogue, launch
from ood_core.records.stages import ExtractStage

from ..conftest import TINY
from ..plan.test_make import BROKEN


def test_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['ood-run', '--help']\n"
        "from ood_core.cli import run as cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'timm', 'faiss', 'torchvision', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Train, extract, score and report" in done.stdout


def test_help_names_the_defaults(ood, ood_run):
    assert "[default: runs/RECIPE]" in ood("run", "--help")[1]
    assert "[default: runs/RECIPE]" in ood_run("--help")[1]


def test_a_run_ends_with_the_table_and_the_reports(tmp_path, ood_run):
    (tmp_path / "tiny.yaml").write_text(TINY)
    code, out, err = ood_run("tiny.yaml", "--out", "here")
    assert code == 0, err
    assert "AUROC" in out
    assert "mahalanobis" in out
    assert "report: here/report.html" in out
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "accepted.csv",
        "classes.csv",
        "detector",
        "gallery",
        "recipe.lock.yaml",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
        "report.tex",
        "scores.safetensors",
        "summary.csv",
    ]
    code, _, err = ood_run("tiny.yaml", "--out", "here")
    assert code == 0
    assert "trained 0, extracted 0, reused 20" in err
    assert "train classification" not in err


@pytest.mark.parametrize(("old", "new", "line", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_recipe_exits_2_and_writes_nothing(tmp_path, ood_run, old, new, line, message):
    text = TINY.replace(old, new) if not old.startswith("seed") else TINY + new
    (tmp_path / "tiny.yaml").write_text(text)
    code, out, err = ood_run("tiny.yaml")
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "no recipe 'nowhere.yaml', neither a file nor shipped."),
        (["moood"], "Did you mean 'mood'?"),
        (["mood", "--set", "scorers"], "--set scorers: must read a.b=value"),
        (["mood", "--set", "backbone.model=beit_bas"], "no timm model 'beit_bas'"),
        (["mood", "--plam"], "No such option"),
        (["mood", "--set", "training.0.learning_rate=0"], "--set training.0.learning_rate=0: option 'learning_rate'"),
    ],
)
def test_a_wrong_command_exits_2_with_its_reason(tmp_path, ood_run, arguments, message):
    code, _, err = ood_run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--out", "--store"])
def test_a_folder_whose_name_is_too_long_is_refused_before_the_run(ood_run, option):
    folder = "x" * 300
    code, out, err = ood_run("mood", option, folder)
    assert (code, out, err) == (2, "", f"{option} {folder}: cannot be written into: File name too long\n")


@pytest.mark.parametrize("option", ["--out", "--store"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_run(tmp_path, ood_run, option):
    (tmp_path / "file").write_text("")
    code, _, err = ood_run("mood", option, "file/below")
    assert code == 2
    assert err.strip() == f"{option} file/below: {tmp_path / 'file'} is no folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_plan_shows_its_stages_and_writes_nothing(tmp_path, ood_run):
    code, out, _ = ood_run("mood", "--plan")
    assert code == 0
    assert "to do" in out
    assert "train mim > classification" in out
    assert "3 rows, 17 stages, 0 stored; train 2, extract 6, fit 1, score 5, measure 3" in out
    assert list(tmp_path.iterdir()) == []


def test_the_plugins_are_listed_with_their_packages(ood_run):
    code, out, _ = ood_run("--plugins")
    assert code == 0
    assert "mahalanobis (ood-framework " in out
    assert "scorer    energy" in out


def test_the_scorers_are_listed_as_a_table(ood_run):
    code, printed, _ = ood_run("--scorers")
    assert code == 0
    assert "| `gram` | layers=[], powers=10 |" in printed
    assert printed.count("### ") > 5


@pytest.mark.parametrize("what", ["scorers", "datasets"])
def test_at_a_terminal_scorers_and_data_sets_are_listed_as_by_ood_list(ood, ood_run, monkeypatch, what):
    monkeypatch.setattr(catalogue, "at_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    printed = ood_run(f"--{what}")[1]
    assert printed == ood("list", what)[1]
    assert "|" not in printed


def test_every_kind_is_listed_a_line_for_each(ood, plugins):
    for kind in ("scorer", "pretext", "backbone", "tokenizer", "dataset"):
        code, printed, _ = ood("list", f"{kind}s")
        assert code == 0
        assert {line.split()[0].rstrip(":") for line in printed.splitlines()} == plugins.classes(kind).keys()
    assert re.search(r"^published: svhn +SVHN", ood("list", "datasets")[1], re.MULTILINE)
    assert re.search(r"^ablations/scorers +\w", ood("list", "recipes")[1], re.MULTILINE)
    assert ood("list", "plugins")[1].startswith("classification (ood-framework ")


def test_a_plugin_is_shown_with_options_types_defaults_and_an_example(ood):
    code, printed, _ = ood("show", "mim")
    assert code == 0
    assert printed.startswith("pretext mim  mim (ood-framework ")
    assert "  mask_ratio: float > 0, < 1, default 0.4\n      Most of the patches to hide" in printed
    assert "  epochs: int > 0, required\n" in printed
    assert "  masks: blockwise | blockwise-exact, default blockwise\n" in printed
    assert printed.endswith("example\n  training: [{use: mim, epochs: ...}]\n")


def test_a_recipe_is_shown_as_it_is(ood):
    code, printed, _ = ood("show", "mood")
    assert code == 0
    assert yaml.safe_load(printed)["scorers"]


def test_an_unknown_name_is_one_line_with_the_nearest(ood):
    code, printed, error = ood("show", "mahalanbis")
    assert (code, printed, error) == (2, "", "no plugin or recipe 'mahalanbis'. Did you mean 'mahalanobis'?\n")


def test_every_option_of_every_plugin_is_explained_and_every_example_is_yaml(plugins):
    for registered in plugins.registered.values():
        text = catalogue.describe_plugin(registered)
        options = re.findall(r"^  \w+: .*\n(.*)", text.partition("options\n")[2], re.MULTILINE)
        assert all(line.startswith("      ") for line in options), text
        assert yaml.safe_load(text.rpartition("example\n")[2])


def test_a_command_that_the_core_has_is_refused_of_a_plugin(ood, monkeypatch):
    monkeypatch.setattr("ood_core.cli.find_commands", lambda: {"run": print})
    assert ood("--help")[::2] == (2, "a plugin registers the command 'run', which the core has\n")


def test_a_plugin_can_be_left_out(ood_run, monkeypatch):
    monkeypatch.setenv("OOD_DISABLE_PLUGINS", "logits")
    code, out, _ = ood_run("--plugins")
    assert code == 0
    assert not re.search(r"scorer +energy", out)
    assert "left out by OOD_DISABLE_PLUGINS: logits" in out


def test_the_version_is_shown(ood_run):
    code, out, _ = ood_run("--version")
    assert code == 0
    assert out.startswith("ood-framework 0.")


def test_recipes_of_one_command_share_plugins_and_opened_image_sets(tiny, tmp_path):
    again = tmp_path / "again.yaml"
    again.write_text(tiny.read_text())
    options = launch.RunOptions((), (), None, tmp_path / "store", None)
    first, second = launch.plan_runs([str(tiny), str(again)], options)
    assert first.plugins is second.plugins
    stages = [[stage for stage in run.plan.stages if isinstance(stage, ExtractStage)] for run in (first, second)]
    opened = [{id(stage.images.opened._pictures) for stage in extractions} for extractions in stages]
    assert opened[0] == opened[1] != set()


def test_an_interruption_says_how_to_go_on(ood_run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ood_core.cli.launch.find_recipe", interrupted)
    code, _, err = ood_run("mood")
    assert code == 130
    assert "the same command goes on from here" in err


@pytest.mark.slow
def test_a_full_disk_ends_the_command_at_each_place(tiny, ood_run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    options = ("--set", "data.id.limit=70", "--set", "scorers=[energy]", "--out", "out")
    for place in ("ood_core.store.files.flush", "ood_core.report.write_files", "ood_core.detector.bundle._write"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            code, _, err = ood_run(tiny, *options)
        assert code == 2
        (line,) = [line for line in err.splitlines() if "disk is full" in line]
        assert line.endswith("No space left on device; free some space, and the same command goes on")
    code, out, _ = ood_run(tiny, *options)
    assert code == 0
    assert "detector: out/detector" in out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("text", ["listed", "x" * 100_000])
def test_a_full_disk_behind_stdout_is_one_line(text):
    command = f"from ood_core.cli import run; import typer; run.call(lambda: typer.echo({text!r}))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "stdout: cannot be written, the disk is full: No space left on device\n"


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        (LONG,),
        ("tiny.yaml", "--out", LONG),
        ("tiny.yaml", "--store", LONG),
        ("tiny.yaml", "--plan", "--store", LONG),
        ("tiny.yaml", "--plan", "--set", f"backbone.weights={LONG}"),
        ("tiny.yaml", "--plan", "--set", f"data.id={{use: folder, path: {LONG}}}"),
        ("tiny.yaml", "--plan", "--set", f"data.far.0={{use: arrays, path: {LONG}}}"),
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_a_name_too_long_for_a_file_is_one_line(tiny, ood_run, arguments):
    code, _, err = ood_run(*arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert LONG in err


def test_so_it_is_for_a_run(ood):
    code, _, err = ood("score", LONG, "a.png")
    assert (code, err) == (2, f"{LONG}: File name too long\n")


@pytest.mark.parametrize("option", ["--out", "--store"])
def test_a_folder_whose_name_is_no_utf_8_is_refused_before_the_run(tiny, ood_run, option):
    code, _, err = ood_run("tiny.yaml", option, "a\udcff")
    assert code == 2
    assert err.startswith(f"{option} a") and err.endswith("a\\xff' is no UTF-8\n")


def test_surrogates_of_the_shell_are_one_line(tiny, ood_run):
    for arguments in (("a\udcff",), ("tiny.yaml", "--set", "seed=\udcff"), ("tiny.yaml", "--set", "a\udcff=1")):
        code, _, err = ood_run("--plan", *arguments)
        assert code == 2
        assert err.count("\n") == 1

"""The table as people read it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ood_core import report
from ood_core.errors import OODError
from ood_core.records.plan import Plan
from ood_core.records.results import ResultRow, Results
from ood_core.report.content.collect import run_notes
from ood_core.report.content.summary_rows import case_tables, summarise
from ood_core.report.formats import markdown
from ood_core.report.formats.columns import case_columns, columns, percent
from ood_core.run.schedule import run
from ood_core.store.store import Store

ROW = ResultRow(
    variant="v",
    case="",
    draw=0,
    seed=0,
    scorer="energy",
    spectrum="standard",
    id_set="digits",
    ood_set="noise",
    group="far",
    id_images=10,
    ood_images=20,
    auroc=0.9,
    fpr95=0.1,
    fpr95_ood_recall=0.15,
    aupr_in=0.2,
    aupr_out=0.3,
    aupr_in_trapezoid=0.25,
    aupr_out_trapezoid=0.35,
    ties=0.0,
    duplicates_test=0,
    duplicates_train=0,
    id_accuracy=0.5,
    ece=0.01,
)


def row(auroc, seed=0, variant="v", accuracy=0.5, **others):
    return replace(ROW, auroc=auroc, seed=seed, variant=variant, id_accuracy=accuracy, **others)


def texts(lines):
    return {column.title: column.text(lines[0]) for column in columns(lines)}


def test_a_single_seed_is_shown_as_it_is_in_percent():
    assert texts(summarise([row(0.98765)])) == {
        "scorer": "energy",
        "OOD set": "noise",
        "group": "far",
        "AUROC": "98.77",
        "FPR@95": "10.00",
        "AUPR-In": "20.00",
        "AUPR-Out": "30.00",
        "ID acc.": "50.00",
    }


def test_seeds_become_mean_and_standard_deviation():
    (line,) = summarise([row(0.9, 0), row(0.8, 1), row(0.7, 2)])
    assert line.repeats == 3
    assert line.cells["auroc"].mean == pytest.approx(0.8)
    assert line.cells["auroc"].deviation == pytest.approx(0.1)
    assert str(line.cells["auroc"]) == "80.00 ± 10.00"


def test_a_number_that_cannot_be_had_is_a_dash():
    assert texts(summarise([row(0.9, accuracy=None)]))["ID acc."] == "-"
    assert percent(None) == "-"
    assert percent(0.12345) == "12.35"


def test_names_do_not_break_the_table(make_plan, plugins, tiny, tmp_path, capsys):
    name = "[/] | two\\nlines"
    plan = make_plan(tiny, f'data.near.0.name="{name}"', "training.0.epochs=1", "scorers=[energy]")
    store = Store(tmp_path / "store")
    results = run(plan, store)
    found = report.write(plan, results, store, tmp_path / "out")
    plugins.hook.ood_after_report(report=found)
    assert "[/] |" in capsys.readouterr().out
    assert "| energy | [/] \\| two lines | near |" in (tmp_path / "out" / "report.md").read_text()


def test_facts_that_are_not_finite_are_written_as_words(make_plan, tiny, tmp_path):
    plan = make_plan(tiny, "training.0.epochs=1", "scorers=[energy]")
    store = Store(tmp_path / "store")
    results = run(plan, store)
    results.records[0].facts["epochs"][0]["loss"] = float("inf")
    report.write(plan, results, store, tmp_path / "out")
    assert '"loss": "inf"' in (tmp_path / "out" / "report.json").read_text()


@pytest.mark.parametrize("size", [0, 300, 20_000])
def test_a_full_disk_is_one_line_and_leaves_no_file_half_written(make_plan, tiny, tmp_path, disk_full, size):
    plan = make_plan(tiny, "training.0.epochs=1", "scorers=[energy]")
    store = Store(tmp_path / "store")
    results = run(plan, store)
    report.write(plan, results, store, tmp_path / "whole")
    message = "cannot be written, the disk is full: [^\n]*$"
    with disk_full(size), pytest.raises(OODError, match=message):
        report.write(plan, results, store, tmp_path / "out")
    for path in filter(Path.is_file, (tmp_path / "out").rglob("*")):
        assert path.stat().st_size == (tmp_path / "whole" / path.relative_to(tmp_path / "out")).stat().st_size


def test_a_folder_for_the_reports_that_holds_folders_is_refused(tmp_path):
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OODError, match=r"--out .*: report\.md is a folder there"):
        report.prepare(tmp_path)


def test_files_that_no_run_has_written_are_not_replaced(tmp_path):
    (tmp_path / "report.csv").write_text("mine")
    with pytest.raises(OODError, match=r"has report\.csv, and holds no run; name another folder$"):
        report.prepare(tmp_path)
    (tmp_path / "gallery").mkdir()  # as a killed run leaves it
    report.prepare(tmp_path)


def test_variants_keep_their_order_and_get_a_column():
    lines = summarise([row(0.9, variant="b"), row(0.8, variant="a")])
    assert [line.variant for line in lines] == ["b", "a"]
    assert columns(lines)[0].title == "variant"


def test_several_sets_of_a_group_are_followed_by_their_mean():
    lines = summarise([row(0.9), row(0.8, ood_set="photos"), row(0.6, group="near", ood_set="digits")])
    assert [(line.ood_set, line.group, str(line.cells["auroc"])) for line in lines] == [
        ("noise", "far", "90.00"),
        ("photos", "far", "80.00"),
        ("mean of 2", "far", "85.00"),
        ("digits", "near", "60.00"),
    ]


def test_the_deviation_of_a_mean_is_that_of_the_means_of_each_seed():
    rows = [row(0.9, 0), row(0.7, 1), row(0.7, 0, ood_set="photos"), row(0.9, 1, ood_set="photos")]
    assert str(summarise(rows)[-1].cells["auroc"]) == "80.00 ± 0.00"


def test_rows_with_shifted_images_as_id_are_told_apart():
    lines = summarise([row(0.9), row(0.8, spectrum="full", id_set="digits + shifted")])
    assert [column.title for column in columns(lines)][1] == "ID set"
    assert columns(lines)[1].text(lines[1]) == "digits + shifted"


def cases(*pairs, **others):
    return [row(auroc, case=case, group="rest", ood_set=f"not {case}", **others) for case, auroc in pairs]


def test_cases_become_columns_with_their_mean():
    ((line,),) = case_tables(
        [*cases(("cat", 0.9), ("dog", 0.7)), *cases(("cat", 0.8), ("dog", 0.8), seed=1)], "auroc", True
    )
    assert [(c.title, c.text(line)) for c in case_columns([line])] == [
        ("scorer", "energy"),
        ("cat", "85.00 ± 7.07"),
        ("dog", "75.00 ± 7.07"),
        ("mean", "80.00 ± 0.00"),
    ]


def test_the_mean_over_cases_is_left_out_where_it_says_nothing():
    (lines,) = case_tables(cases(("1 a class", 0.9), ("5 a class", 0.7)), "auroc", False)
    assert [column.title for column in case_columns(lines)] == ["scorer", "1 a class", "5 a class"]


def test_draws_are_averaged_as_seeds_are():
    (line, _) = summarise([row(0.9, draw=0), row(0.7, draw=1), row(0.5, ood_set="x", group="near")])
    assert (line.repeats, str(line.cells["auroc"])) == (2, "80.00 ± 14.14")


def test_sets_that_the_recipe_names_have_lines_of_their_own_over_the_cases():
    rows = [*cases(("cat", 0.9), ("dog", 0.7)), row(0.6, case="cat"), row(0.5, case="dog")]
    (lines,) = case_tables(rows, "auroc", True)
    assert [(line.ood_set, str(line.mean)) for line in lines] == [("rest", "80.00"), ("noise", "55.00")]


def test_variants_of_other_cases_get_a_table_of_their_own():
    found = case_tables(
        [*cases(("cat", 0.9), ("dog", 0.7)), *cases(("1", 0.6), ("2", 0.5), variant="w")], "auroc", True
    )
    assert [[line.variant for line in of] for of in found] == [["v"], ["w"]]


def test_one_case_makes_no_table_of_cases():
    assert case_tables([row(0.9)], "auroc", True) == []


def test_images_that_are_in_two_sets_are_noted():
    rows = (row(0.9, duplicates_test=1), row(0.9, duplicates_train=3))
    assert run_notes(Plan("", (), {}, None, ()), Results(rows, (), 0.0)) == [
        "noise: 1 image is also among the ID test images of digits",
        "noise: 3 images are also among the ID training images of digits",
    ]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("a | b * c", r"a \| b \* c"),
        ("<script>x</script> & y", "&lt;script>x&lt;/script> &amp; y"),
        ("[link](http://x)", r"[link]\(http://x)"),
        ("_m_ aquatic_mammals `y`", r"\_m\_ aquatic_mammals \`y\`"),
        ("[1.00, 2.00]", "[1.00, 2.00]"),
    ],
)
def test_nothing_in_a_cell_of_markdown_is_markup(name, cell):
    assert markdown.escape(name) == cell


def test_a_baseline_without_rows_is_noted(make_plan, tiny, tmp_path):
    tiny.write_text(
        tiny.read_text()
        + "baseline: bad\nvary: {good: {}, bad: {training.0.learning_rate: 1000, training.0.epochs: 30}}\n"
    )
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    found = report.write(plan, run(plan, store), store, tmp_path / "out")
    assert "the baseline 'bad' has no rows; nothing is compared with it" in found.notes

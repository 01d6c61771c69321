"""Several runs as one."""

from dataclasses import replace

import pytest

from ood_core.errors import OODError
from ood_core.records.plan import Baseline
from ood_core.records.report_data import FailedStage
from ood_core.report.content.merge import Run, copy_files, merge, unique_names
from ood_core.report.content.summary_rows import summarise
from ood_core.report.formats.run_folder import load, save

from .test_columns import row
from .test_run_folder import findings


def runs(tmp_path, **found):
    return [Run(name, tmp_path / name, of) for name, of in found.items()]


def test_variants_that_clash_are_told_by_their_run(tmp_path):
    merged = merge(runs(tmp_path, one=findings(), two=findings(variants=("b", "c"))), None)
    assert [of.variant for of in merged.rows] == ["a", "one: b", "two: b", "c"]
    assert (
        [of.variant for of in merged.accepted]
        == [of.variant for of in merged.classes]
        == ["a", "one: b", "two: b", "c"]
    )
    assert merged.coordinates == {
        "a": {"run": "one", "pretext": "a"},
        "one: b": {"run": "one", "pretext": "b"},
        "two: b": {"run": "two", "pretext": "b"},
        "c": {"run": "two", "pretext": "c"},
    }
    assert [of.variant for of in merged.maps] == ["a / one: b", "two: b / c"]
    assert merged.name == "one + two"
    assert merged.notes == ("one: a note", "two: a note")
    assert list(merged.resolved) == ["one: a, seed 0", "one: b, seed 0", "two: b, seed 0", "two: c, seed 0"]


def test_the_only_variant_of_a_run_is_called_as_the_run_is(tmp_path):
    merged = merge(runs(tmp_path, one=findings(variants=("a",)), two=findings(variants=("a",))), None)
    assert [of.variant for of in merged.rows] == ["one", "two"]
    other = merge(runs(tmp_path, one=findings(variants=("a",)), two=findings(variants=("b",))), None)
    assert [of.variant for of in other.rows] == ["one", "two"]


def test_a_run_that_is_called_as_a_variant_of_another_one_stays_apart(tmp_path):
    merged = merge(runs(tmp_path, a=findings(variants=("b",)), two=findings(variants=("a", "c"))), None)
    assert [of.variant for of in merged.rows] == ["b", "a", "c"]
    merged = merge(runs(tmp_path, a=findings(variants=("b",)), two=findings(variants=("a", "b"))), None)
    assert [of.variant for of in merged.rows] == ["a: b", "a", "two: b"]


def test_runs_are_compared_on_the_same_images(tmp_path):
    merged = merge(runs(tmp_path, one=findings(variants=("a",)), two=findings(variants=("b",))), None)
    assert merged.baseline == Baseline(variant="one")
    _, line = summarise(merged.rows, merged.scores, merged.baseline)
    assert line.comparison.against == "one"


def test_runs_that_compared_scorers_are_compared_with_each_other(tmp_path):
    found = replace(findings(variants=("a",)), baseline=Baseline(scorer="energy"))
    assert merge(runs(tmp_path, one=found, two=findings(variants=("b",))), None).baseline == Baseline(variant="one")
    assert merge(runs(tmp_path, one=found), None).baseline == Baseline(scorer="energy")


def test_a_baseline_can_be_chosen_and_must_be_a_variant(tmp_path):
    of_two = runs(tmp_path, one=findings(), two=findings(variants=("c",)))
    assert merge(of_two, "two").baseline == Baseline(variant="two")
    with pytest.raises(OODError, match=r"--baseline d: no variant is called so\. There is: a, b, two"):
        merge(of_two, "d")


def test_a_stage_of_both_is_there_once_and_was_carried_out_by_one(tmp_path):
    first = findings()
    second = replace(first, stages=tuple(replace(of, stored=True) for of in first.stages))
    merged = merge(runs(tmp_path, two=second, one=first), None)
    assert merged.work == "trained 1, extracted 0, reused 1"
    assert merged.stages[0].variants == ("two: a", "two: b", "one: a", "one: b")


def test_what_differs_between_machines_is_told(tmp_path):
    other = replace(findings(), machine={"processor": "two"}, versions={"python": "3.11", "torch": "2.6"})
    merged = merge(runs(tmp_path, one=findings(), two=other), None)
    assert merged.machine == {"processor": "one (one); two (two)"}
    assert merged.versions == {"python": "3.11", "torch": "none (one); 2.6 (two)"}


def test_galleries_keep_their_rows_and_files(tmp_path):
    of_two = runs(tmp_path, one=findings(), two=findings(variants=("c", "d")))
    for run in of_two:
        for file in ("pictures/mim.png", "gallery/1.webp"):
            (run.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (run.folder / file).write_text(run.name)
    merged = merge(of_two, None)
    copy_files(of_two, tmp_path / "out")
    assert [merged.rows[strip.row].variant for strip in merged.gallery] == ["b", "d"]
    for name, strip, picture in zip(("one", "two"), merged.gallery, merged.pictures, strict=True):
        assert (tmp_path / "out" / strip.images[0].file).read_text() == name
        assert (tmp_path / "out" / picture.file).read_text() == name
        assert picture.title == f"{name}: mim"


def test_the_tracebacks_of_failed_stages_are_copied_and_found(tmp_path):
    failed = FailedStage("fit knn", ("b",), "fit knn: ValueError", "failures.txt")
    of_two = runs(tmp_path, one=findings(), two=replace(findings(variants=("c", "d")), failures=(failed,)))
    of_two[1].folder.mkdir()
    (of_two[1].folder / "failures.txt").write_text("Traceback")
    copy_files(of_two, tmp_path / "out")
    (found,) = merge(of_two, None).failures
    assert (tmp_path / "out" / found.traceback).read_text() == "Traceback"


def test_a_report_of_one_run_in_its_own_folder_leaves_the_files(tmp_path):
    (run,) = runs(tmp_path, one=findings())
    for file in ("pictures/mim.png", "gallery/1.webp"):
        (run.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / file).write_text("picture")
    copy_files([run], run.folder)
    assert (run.folder / "gallery/1.webp").read_text() == "picture"
    assert merge([run], None) == replace(run.report)


def test_a_merged_report_can_be_merged_again(tmp_path):
    merged = merge(runs(tmp_path, one=findings(), two=findings(variants=("c",))), None)
    save(merged, tmp_path)
    again = merge([Run("three", tmp_path, load(tmp_path)), Run("four", tmp_path, findings(variants=("a",)))], None)
    assert [of.variant for of in again.rows] == ["three: a", "b", "two", "four"]


def test_folders_are_named_as_shortly_as_tells_them_apart(tmp_path):
    folders = [tmp_path / "x" / "mood", tmp_path / "y" / "mood", tmp_path / "y" / "cifar10"]
    assert unique_names(folders) == ["x/mood", "y/mood", "cifar10"]


def test_repeats_of_one_variant_in_two_runs_stay_apart(tmp_path):
    first = replace(findings(variants=("a",)), rows=(row(0.9, 0, images="i"),))
    second = replace(findings(variants=("a",)), rows=(row(0.8, 1, images="i"),))
    assert [line.repeats for line in summarise(merge(runs(tmp_path, one=first, two=second), None).rows)] == [1, 1]

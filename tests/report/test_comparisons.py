"""Differences to the baseline: which test, on what, and what is marked."""

from dataclasses import replace

import numpy as np
import pytest

from ood_core.evaluation.metrics import measure
from ood_core.evaluation.significance import delong, placements
from ood_core.records.plan import Baseline
from ood_core.records.report_data import RowScores
from ood_core.report.content.comparisons import DELONG, PAIRED_T, Repeat, compare
from ood_core.report.content.summary_rows import case_tables, summarise
from ood_core.report.formats.columns import case_columns, columns, legend

from .test_columns import row

ENERGY = Baseline(scorer="energy")


def scored(scorer, separation, seed=0, images="same", count=200, **others):
    """A row with the scores behind it; the noise is that of the images, so that scorers are correlated."""
    noise = np.random.default_rng(7 + seed).normal(size=2 * count)
    own = np.random.default_rng(sum(scorer.encode())).normal(size=2 * count) * 0.3
    values = noise + own
    scores = RowScores(values[:count], values[count:] + separation)
    auroc = measure(*(_tensor(of) for of in (scores.id_scores, scores.ood_scores))).auroc
    return Repeat(row(auroc, seed, scorer=scorer, images=images, **others), scores)


def _tensor(values):
    import torch

    return torch.from_numpy(values)


def test_one_run_is_compared_by_delong_on_the_same_images():
    lines = [[scored("energy", 1.0)], [scored("knn", 2.0)]]
    base, better = compare(lines, ENERGY)
    assert base is None
    assert better.test == DELONG
    expected = delong(*(placements(of.scores.id_scores, of.scores.ood_scores) for (of,) in reversed(lines)))
    assert better.found == expected
    assert better.adjusted == expected.p < 0.05
    assert better.mark == "*"


def test_rows_of_other_images_are_not_compared():
    assert compare([[scored("energy", 1.0)], [scored("knn", 2.0, images="others")]], ENERGY) == [None, None]


def test_images_that_are_not_known_are_not_compared_by_delong():
    assert compare([[scored("energy", 1.0, images="")], [scored("knn", 2.0, images="")]], ENERGY) == [None, None]


def test_repeats_are_compared_by_a_paired_t_test():
    base = [Repeat(row(auroc, seed, scorer="energy")) for seed, auroc in enumerate((0.80, 0.82, 0.81))]
    worse = [Repeat(row(auroc, seed, scorer="knn")) for seed, auroc in enumerate((0.70, 0.73, 0.71))]
    _, found = compare([base, worse], ENERGY)
    assert found.test == PAIRED_T
    assert found.found.difference == pytest.approx(-0.29 / 3)
    assert found.mark == "†"


def test_one_repeat_of_several_tests_nothing():
    base = [Repeat(row(0.5, 0, scorer="energy"))]
    other = [Repeat(row(auroc, seed, scorer="knn")) for seed, auroc in ((0, 0.9), (1, 0.2), (2, 0.3))]
    assert compare([base, other], ENERGY) == [None, None]


def test_only_repeats_that_both_have_are_paired():
    base = [Repeat(row(auroc, seed, scorer="energy")) for seed, auroc in enumerate((0.5, 0.82, 0.81))]
    other = [Repeat(row(auroc, seed, scorer="knn")) for seed, auroc in ((1, 0.72), (2, 0.73), (3, 0.9))]
    _, found = compare([base, other], ENERGY)
    assert found.found.difference == pytest.approx(-0.09)


def test_seeds_that_decide_nothing_are_one_measurement():
    lines = [[scored("energy", 1.0)] * 2, [scored("knn", 2.0)] * 2]
    lines = [[replace(of, row=replace(of.row, seed=seed)) for seed, of in enumerate(line)] for line in lines]
    assert compare(lines, ENERGY)[1].test == DELONG


def test_p_values_are_adjusted_for_all_comparisons_of_the_table():
    names = ("energy", "a", "b", "c")
    found = compare([[scored(name, 1 + 0.05 * place)] for place, name in enumerate(names)], ENERGY)[1:]
    smallest = min(found, key=lambda of: of.found.p)
    assert smallest.adjusted == pytest.approx(min(1, 3 * smallest.found.p))
    assert [of.of for of in found] == [3, 3, 3]


def test_variants_are_compared_scorer_by_scorer():
    lines = [[scored(scorer, 1.0, variant=variant)] for variant in ("mim", "none") for scorer in ("energy", "knn")]
    found = compare(lines, Baseline(variant="mim"))
    assert [of and of.against for of in found] == [None, None, "mim", "mim"]


def test_without_a_baseline_nothing_is_compared():
    assert compare([[scored("energy", 1.0)], [scored("knn", 2.0)]], Baseline()) == [None, None]


# ---------------------------------------------------------------------------------------------------- in the table


def table(*repeats, baseline=ENERGY):
    return summarise([of.row for of in repeats], [of.scores for of in repeats], baseline)


def test_the_mark_stands_behind_the_number_and_is_explained():
    lines = table(scored("energy", 1.0), scored("knn", 3.0))
    assert str(lines[1].cells["auroc"]).endswith("*")
    assert legend(lines) == (
        "Bold: the best on the same images. * / †: AUROC better / worse than that of energy, p < 0.05 "
        "(DeLong's test on the same images; Holm's correction for 1 comparison)."
    )


def test_a_wide_table_has_the_difference_with_its_p_value():
    lines = table(scored("energy", 1.0), scored("knn", 3.0))
    shown = {column.title: column for column in columns(lines, wide=True)}
    comparison = lines[1].comparison
    assert shown["difference"].text(lines[1]) == f"{100 * comparison.found.difference:+.2f}"
    assert shown["difference"].value(lines[1]) == comparison.found.difference
    assert shown["p (Holm)"].value(lines[1]) == comparison.adjusted
    assert (shown["difference"].text(lines[0]), shown["difference"].value(lines[0])) == ("", None)
    assert "difference" not in {column.title for column in columns(lines)}


def test_means_over_sets_are_compared_over_repeats_alone():
    sets = [
        scored(scorer, separation, ood_set=name)
        for scorer, separation in (("energy", 1.0), ("knn", 3.0))
        for name in "ab"
    ]
    lines = table(*sets)
    assert [(line.sets, line.comparison is not None) for line in lines] == [
        (1, False), (1, False), (2, False), (1, True), (1, True), (2, False)
    ]  # fmt: skip
    assert "Means over several sets of images are compared over repeats only." in legend(lines)
    twice = [
        replace(of, row=replace(of.row, seed=seed, auroc=of.row.auroc - seed / 50)) for of in sets for seed in (0, 1)
    ]
    assert table(*twice)[-1].comparison.test == PAIRED_T


def test_the_best_of_each_set_is_known_and_equal_numbers_share_it():
    lines = summarise(
        [row(0.9, scorer="a", fpr95=0.2), row(0.90001, scorer="b", fpr95=0.1), row(0.8, scorer="c", fpr95=0.1)]
    )
    best = {column.title: [column.best(line) for line in lines] for column in columns(lines)}
    assert best["AUROC"] == [True, True, False]
    assert best["FPR@95"] == [False, True, True]
    assert best["ID acc."] == [False, False, False]


def test_a_line_without_a_rival_on_its_images_is_not_the_best():
    lines = summarise([row(0.9, scorer="a", images="one"), row(0.8, scorer="b", images="two")])
    assert not any(line.cells["auroc"].best for line in lines)


def test_one_repeat_has_the_interval_of_the_bootstrap():
    (line,) = summarise([row(0.9, auroc_low=0.85, auroc_high=0.94)])
    assert line.cells["auroc"].interval == (0.85, 0.94)
    shown = {column.title: column.text(line) for column in columns([line], wide=True)}
    assert shown["AUROC 95 %"] == "[85.00, 94.00]"
    assert "FPR@95 95 %" not in shown
    assert legend([line], wide=True) == "Intervals: 95 %, bootstrap over the images of the one run."


def test_several_repeats_have_students_interval_within_what_a_rate_can_be():
    low, high = summarise([row(0.9, 0), row(0.92, 1), row(0.94, 2)])[0].cells["auroc"].interval
    half = 4.302653 * 0.02 / 3**0.5
    assert (low, high) == (pytest.approx(0.92 - half), pytest.approx(0.92 + half))
    assert summarise([row(0.9, 0), row(1.0, 1)])[0].cells["auroc"].interval[1] == 1.0


def test_cases_are_compared_within_their_table():
    repeats = [
        scored(scorer, separation, case=case, group="rest", ood_set=f"not {case}", images=case)
        for scorer, separation in (("energy", 1.0), ("knn", 3.0))
        for case in ("cat", "dog")
    ]
    (lines,) = case_tables([of.row for of in repeats], "auroc", True, [of.scores for of in repeats], ENERGY)
    assert [cell.comparison.mark for cell in lines[1].cells.values()] == ["*", "*"]
    assert lines[1].mean.comparison is None
    assert case_columns(lines)[-1].best(lines[1])
    assert "2 comparisons" in legend(lines)
    (fpr,) = case_tables([of.row for of in repeats], "fpr95", True, [of.scores for of in repeats], ENERGY)
    assert all(cell.comparison is None for line in fpr for cell in line.cells.values())

"""The table as people read it."""

import pytest

from ood_core.report.summary import columns, percent, summarise
from ood_core.run import ResultRow


def row(auroc, seed=0, variant="v", accuracy=0.5):
    return ResultRow(variant, seed, "energy", "noise", "far", auroc, 0.1, 0.2, 0.3, accuracy)


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
    assert line.seeds == 3
    assert line.cells["auroc"].mean == pytest.approx(0.8)
    assert line.cells["auroc"].deviation == pytest.approx(0.1)
    assert str(line.cells["auroc"]) == "80.00 ± 10.00"


def test_a_number_that_cannot_be_had_is_a_dash():
    assert texts(summarise([row(0.9, accuracy=None)]))["ID acc."] == "-"
    assert percent(None) == "-"
    assert percent(0.12345) == "12.35"


def test_variants_keep_their_order_and_get_a_column():
    lines = summarise([row(0.9, variant="b"), row(0.8, variant="a")])
    assert [line.variant for line in lines] == ["b", "a"]
    assert columns(lines)[0].title == "variant"

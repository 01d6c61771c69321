"""Published tables as values."""

import pytest

from ood_core.records import published
from ood_core.records.published import Cell, Label, Line, Table


def test_a_number_is_kept_as_printed():
    (found,) = [entry for entry in published.entries()["T6a"] if (entry.row, entry.column) == ("ours", "Plane")]
    assert (found.value, found.deviation, found.seen) == ("98.6", "0.4", True)


def test_typing_mistakes_of_the_paper_are_not_kept():
    words = {
        word for entries in published.entries().values() for entry in entries for word in (entry.row, entry.column)
    }
    assert not words & {"Dear", "OCGANOCGAN"}
    assert not any("Trunk" in word for word in words)


def test_one_class_training_on_imagenet_30_has_seen_no_names():
    exposed = {entry.row: entry.seen for name in ("T3", "T6c") for entry in published.entries()[name]}
    assert not any(seen for row, seen in exposed.items() if row.startswith("ImageNet-30"))
    assert not exposed["ours"]
    assert exposed["CIFAR-10 / MIM-pt + inter-ft"]


COLUMNS = ["C10>SVHN", "C10>LSUN", "C10>avg", "C100>SVHN", "C100>avg"]


@pytest.mark.parametrize(
    ("label", "of"), [("C10>avg", ["C10>SVHN", "C10>LSUN"]), ("C100>avg", ["C100>SVHN"]), ("C10>SVHN", [])]
)
def test_an_average_is_over_the_columns_with_the_same_beginning(label, of):
    assert published.averaged(label, COLUMNS) == of


def test_an_average_without_beginning_is_over_all_others():
    assert published.averaged("Average", ["Plane / Ship", "Cat / Dog", "Average"]) == ["Plane / Ship", "Cat / Dog"]


def test_among_other_runs_a_table_names_its_run_and_the_variants_as_they_are_called_there():
    line = Line("mim", "", "energy", "CIFAR-10", "SVHN")
    table = Table("T1a", "Table 1", (Label("AUROC"),), ((Label("MIM"), (Cell(lines=(line,)),)),))
    found = table.renamed({"mim": "first: mim"}, "first")
    assert found.title == "first: Table 1"
    assert [line.variant for line in found.rows[0][1][0].lines] == ["first: mim"]

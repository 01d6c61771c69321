"""Rows as text and back, whole or cut off; what a person sees of them; how they are counted."""

import csv
import io
import json
import os

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ood_core.errors import OODError
from ood_score.formats import CSV, JSONLines
from ood_score.rows import Columns, Near, Row, ScoreCounts
from ood_score.table import Printed

ODD = ["a,b.png", 'quo"te.png', "new\nline.png", "return\r.png", os.fsdecode(b"\xff\xfe.png"), "ü ☃.png", "", "#.png"]
ODD += ["=1+1.png", "-1.png", "@a.png", "'=1.png", "'a.png", "\t.png"]
GOOD = Row("a.png", True, 0.1 + 0.2, 1e-17, 1 / 3, "cat", {"energy": -5.5, "knn": 2.0}, (Near("dog", 0.7),))
BAD = Row("b.png", error='broken, "very"\nindeed')
COLUMNS = Columns(("energy", "knn"))
NEAR = Columns(("energy", "knn"), nearest=True)


@pytest.mark.parametrize("lines", [CSV(COLUMNS), JSONLines(COLUMNS), JSONLines(NEAR)])
@pytest.mark.parametrize("file", ODD)
def test_a_row_that_is_read_again_is_the_same_to_the_last_bit(lines, file):
    nearest = GOOD.nearest if lines.columns.nearest else ()
    good = Row(**vars(GOOD) | {"file": file, "nearest": nearest})
    rows = [good, Row(file, error=BAD.error), Row(file, False, 1.0, 2.0, 0.5, None, {"energy": 0.0, "knn": 5e-324})]
    encoded = lines.header + lines.encode(rows)
    records = list(lines.records(io.BytesIO(encoded)))
    assert b"".join(records) == encoded
    found = [lines.decode(record) for record in records[bool(lines.header) :]]
    assert [row.file for row in found] == [file] * 3
    assert found == rows


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_number_and_any_reason_survive(score, reason):
    row = Row("a.png", True, score, score, score, error=reason or None)
    for lines in (CSV(Columns()), JSONLines(Columns())):
        assert lines.decode(lines.encode([row])) == row


@pytest.mark.parametrize("lines", [CSV(COLUMNS), JSONLines(NEAR)])
def test_wherever_a_file_is_cut_off_only_whole_rows_are_left(lines):
    parts = [lines.header, *(lines.encode([Row(**vars(GOOD) | {"file": file})]) for file in ODD), lines.encode([BAD])]
    whole = b"".join(parts)
    ends = [sum(map(len, parts[:count])) for count in range(len(parts) + 1)]
    for cut in range(len(whole) + 1):
        kept = sum(map(len, lines.records(io.BytesIO(whole[:cut]))))
        assert kept == max(end for end in ends if end <= cut)


def test_no_text_is_a_formula_and_numbers_are_numbers():
    columns = Columns(("=1+1", "knn"))
    row = Row("=1.png", True, -0.5, 1.0, 0.5, "@cat", {"=1+1": -5.5, "knn": 2.0}, error="-no")
    lines = CSV(columns)
    header, cells = csv.reader(io.StringIO((lines.header + lines.encode([row])).decode()))
    found = dict(zip(header, cells, strict=True))
    assert found["file"] == "'=1.png"
    assert found["predicted"] == "'@cat"
    assert found["error"] == "'-no"
    assert (found["score"], found["'=1+1"]) == ("-0.5", "-5.5")
    assert lines.decode(lines.encode([row])) == row


def test_pandas_reads_the_table():
    text = (CSV(COLUMNS).header + CSV(COLUMNS).encode([GOOD, BAD])).decode()
    table = pandas.read_csv(io.StringIO(text))
    assert tuple(table.columns) == COLUMNS.names
    assert table.score[0] == GOOD.score
    assert bool(table.is_ood[0]) is True
    assert pandas.isna(table.score[1])
    assert table.error[1] == BAD.error


def test_any_csv_reader_and_any_json_reader_agree():
    row = next(csv.DictReader(io.StringIO((CSV(COLUMNS).header + CSV(COLUMNS).encode([GOOD])).decode())))
    values = json.loads(JSONLines(NEAR).encode([GOOD]))
    assert float(row["score"]) == values["score"] == GOOD.score
    assert values["nearest"] == [{"class": "dog", "distance": 0.7}]
    assert json.loads(JSONLines(NEAR).encode([BAD]))["nearest"] is None
    assert list(values) == list(NEAR.names)


def test_a_scorer_that_is_called_as_a_column_is_refused():
    with pytest.raises(OODError, match=r"^--all-scores: the scorer 'error' is called as another column is"):
        Columns(("energy", "error"))


def test_a_person_sees_a_table_that_no_name_can_disturb():
    seen = io.StringIO()
    printed = Printed(seen, COLUMNS, ("cat", "dog"))
    printed.write([GOOD])
    printed.write([Row(f"\x1b[2J{os.fsdecode(bytes([255]))}[red].png", False, 1.0, 2.0, 0.5, "dog"), BAD])
    header, first, second, third = seen.getvalue().splitlines()
    assert header.split() == ["score", "threshold", "p_value", "energy", "knn", "predicted", "file"]
    assert first.split() == ["OOD", "0.3", "1e-17", "0.33333", "-5.5", "2", "cat", "a.png"]
    assert second.endswith(r"\x1b[2J\udcff[red].png")
    assert third.split(maxsplit=1) == ["error", r'b.png: broken, "very"\nindeed']
    assert first.index("a.png") == header.index("file")


def test_images_are_counted_and_decide_the_exit_code():
    counts = ScoreCounts()
    counts.add([GOOD, Row("c.png", False, 1.0, 2.0, 0.5)])
    assert (counts.exit_code(False), counts.exit_code(True)) == (0, 1)
    counts.add([BAD])
    assert (counts.exit_code(False), counts.exit_code(True)) == (3, 1)
    assert counts.summary() == "3 images, 1 OOD of 2 scored (50.0%)"
    unscored = ScoreCounts()
    unscored.add([BAD])
    assert unscored.exit_code(True) == 3
    assert unscored.summary() == "1 image, 0 OOD of 0 scored"


def test_the_most_ood_images_are_kept_and_of_equals_the_first():
    counts = ScoreCounts(most=3)
    for file, score, p_value in (
        ("a", 1, 0.5),
        ("b", 9, 0.1),
        ("c", 7, 0.1),
        ("d", 8, 0.2),
        ("e", 7, 0.1),
        ("f", 0, 1),
    ):
        counts.add([Row(file, False, float(score), 5.0, p_value)])
    assert [row.file for row in counts.most_ood()] == ["b", "c", "e"]

"""Published tables with our numbers beside theirs."""

import csv
import io
from dataclasses import replace

import pytest

from ood_core import report
from ood_core.records.published import Cell, Label, Line, Table
from ood_core.report.content import merge
from ood_core.report.content.published import PublishedCell, tables
from ood_core.report.formats import csv_tables, latex, markdown, run_folder

UNIT = {"variant": "variant 0", "case": "", "scorer": "scorer0", "id_set": "known", "ood_set": "set 0"}


def line(**other):
    return Line(**(UNIT | other))


def asked(*lines, **other):
    return Cell(**({"value": "90.0", "asked": True, "lines": lines} | other))


def one(*cells, columns=None, **other):
    names = columns or [f"column {number}" for number in range(len(cells))]
    return Table("T0", "Table 0", tuple(map(Label, names)), ((Label("row"), cells),), **other)


@pytest.fixture
def found(synthetic, tmp_path):
    """`found(*cells, rates={}, ...)`: the cells of one row; `rates` are AUROCs by OOD set."""

    def find(*cells, rates=None, seeds=1, lost=(), columns=None, **sizes):
        findings = synthetic(tmp_path, **sizes)
        rows = [
            replace(row, seed=seed, auroc=(rates or {}).get((row.variant, row.case, row.ood_set), 0.5) + seed / 100)
            for seed in range(seeds)
            for row in findings.rows
            if (seed, row.ood_set) not in lost
        ]
        findings = replace(findings, rows=tuple(rows), published=(one(*cells, columns=columns),))
        (table,) = tables(findings)
        return table.rows[0].cells

    return find


def test_our_number_stands_before_the_papers(found):
    (cell,) = found(asked(line()), rates={("variant 0", "", "set 0"): 0.575})
    assert cell.text == "57.5 / 90.0"
    assert cell.difference == pytest.approx(-32.5)


def test_a_number_that_nobody_asked_for_stands_alone(found):
    (cell,) = found(Cell(value="90.0", deviation="0.4"))
    assert cell.text == "90.0 ± 0.4"
    assert cell.difference is None


def test_what_the_plan_leaves_out_was_not_run(found):
    assert found(asked())[0].text == "not run / 90.0"


def test_what_failed_was_not_run_even_where_other_sets_were(found):
    (cell,) = found(asked(line(), line(ood_set="set 1")), lost=[(0, "set 1")])
    assert cell.text == "not run / 90.0"


def test_where_the_paper_has_no_number_ours_stands_before_a_dash(found):
    assert found(asked(line(), value=""))[0].text == "50.0 / -"


def test_over_seeds_there_is_a_mean_and_a_deviation(found):
    (cell,) = found(asked(line()), seeds=3)
    assert cell.text == "51.0 ± 1.0 / 90.0"


def test_a_seed_that_lacks_a_set_does_not_count(found):
    (cell,) = found(asked(line(), line(ood_set="set 1")), seeds=2, lost=[(1, "set 1")])
    assert cell.text == "50.0 / 90.0"


def test_the_mean_is_over_variants_of_cases_of_sets(found):
    cases = {"case 0": (0.2, 0.4), "case 1": (0.6, 0.6)}
    rates = {("variant 0", case, f"set {n}"): rate for case, of in cases.items() for n, rate in enumerate(of)}
    rates |= {("variant 1", case, f"set {n}"): 0.9 for case in cases for n in range(2)}
    lines = [line(case="case 0"), line(case="case 0", ood_set="set 1"), line(case="case 1")]
    (cell,) = found(asked(*lines, line(variant="variant 1", case="case 0")), rates=rates, variants=2, cases=2)
    assert cell.ours == pytest.approx(100 * (((0.2 + 0.4) / 2 + 0.6) / 2 + 0.9) / 2)


def test_an_average_is_the_mean_of_the_cells_seed_by_seed(found):
    cells = [asked(line()), asked(line(ood_set="set 1")), Cell("80.0", asked=True, mean_of=((0, 0), (0, 1)))]
    rates = {("variant 0", "", "set 0"): 0.3, ("variant 0", "", "set 1"): 0.7}
    *_, mean = found(*cells, rates=rates, seeds=3)
    assert mean.text == "51.0 ± 1.0 / 80.0"


def test_an_average_over_something_that_was_not_run_was_not_run(found):
    *_, mean = found(asked(line()), asked(), Cell("80.0", asked=True, mean_of=((0, 0), (0, 1))))
    assert mean.text == "not run / 80.0"


def test_accuracies_and_accepted_images_stand_beside_theirs(found):
    accuracy, accepted, none = found(
        asked(line(), metric="id_accuracy"),
        asked(line(), metric="accepted", ood_class="class 1", id_class="known 1"),
        asked(line(), metric="accepted", ood_class="class 1", id_class="known 0"),
    )
    assert accuracy.ours == 90
    assert accepted.ours == 50
    assert none.ours == 0


def test_without_a_classifier_nothing_is_accepted_as_a_class(found):
    assert found(asked(line(scorer="scorer7"), metric="accepted"))[0].ours is None


def test_who_was_trained_with_names_of_ood_classes_is_marked(found):
    assert found(asked(line(exposed=True)))[0].text == "50.0§ / 90.0"
    assert found(asked(line(), exposed=True))[0].text == "50.0 / 90.0§"


def test_what_is_something_else_is_marked_and_not_subtracted(found):
    (cell,) = found(asked(line(), instead=True))
    assert cell.text == "50.0≉ / 90.0"
    assert cell.difference is None


def test_marks_are_explained_where_they_occur(synthetic, tmp_path):
    plain, marked = (
        tables(
            replace(synthetic(tmp_path), published=(one(asked(line(exposed=mark), instead=mark), remarks=("So.",)),))
        )
        for mark in (False, True)
    )
    assert plain[0].legend[0] == "So."
    assert len(plain[0].legend) == 2
    assert [sentence[0] for sentence in marked[0].legend[2:]] == ["§", "≉"]


# ------------------------------------------------------------------------------------------------------ the formats


@pytest.fixture
def findings(synthetic, tmp_path):
    """ReportData of a table with a footnote, whose row has a name that every format has to escape."""
    cell = asked(line(), exposed=True, notes=(1,))
    table = Table("T0", "Table 0", (Label("C10>LSUN"),), ((Label("R & S|T", (1,)), (cell,)),), ("A <note>.",))
    made = synthetic(tmp_path)
    rows = tuple(replace(row, auroc=0.5) for row in made.rows)
    return replace(made, rows=rows, published=(table,), stages=())


def test_markdown_has_the_table(findings):
    text = markdown.render(findings)
    assert "## Table 0\n\n| ours / paper | C10>LSUN |\n| --- | ---: |\n" in text
    assert "| R &amp; S\\|T<sup>1</sup> | 50.0 / 90.0§<sup>1</sup> |\n\n1. A <note>.\n" in text


def test_latex_has_the_table(findings):
    text = latex.render(findings)
    assert "R \\& S\\textbar{}T\\textsuperscript{1} & 50.0 / 90.0\\S{}\\textsuperscript{1} \\\\" in text
    assert "(1) A \\textless{}note\\textgreater{}." in text


def test_the_page_has_the_table(findings, tmp_path):
    report.write_files(findings, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert '<th scope="row">R &amp; S|T<sup>1</sup></th><td class="n"><b>50.0</b> / 90.0§<sup>1</sup></td>' in text
    assert "<li>A &lt;note&gt;.</li>" in text


def test_published_csv_has_a_line_for_each_cell(findings, tmp_path):
    (line,) = csv.DictReader(io.StringIO(csv_tables.of_published(tables(findings))))
    assert (line["table"], line["row"], line["column"]) == ("T0", "R & S|T", "C10>LSUN")
    assert (float(line["ours"]), line["paper"], float(line["difference"])) == (50, "90.0", -40)
    report.write_files(findings, tmp_path)
    assert (tmp_path / "published.csv").read_text() == csv_tables.of_published(tables(findings))


def test_without_published_tables_there_is_no_such_file(synthetic, tmp_path):
    report.write_files(replace(synthetic(tmp_path), stages=()), tmp_path)
    assert not (tmp_path / "published.csv").exists()


def test_a_run_keeps_the_tables_in_its_folder(findings, tmp_path):
    run_folder.save(findings, tmp_path)
    assert run_folder.load(tmp_path).published == findings.published


def test_in_a_report_of_several_runs_each_keeps_its_own_numbers(findings, tmp_path):
    other = replace(findings, rows=tuple(replace(row, auroc=0.75) for row in findings.rows))
    runs = [merge.Run(name, tmp_path, of) for name, of in (("first", findings), ("second", other))]
    merged = tables(merge.merge(runs, None))
    assert [(table.title, table.rows[0].cells[0].our_text) for table in merged] == [
        ("first: Table 0", "50.0"),
        ("second: Table 0", "75.0"),
    ]


def test_a_cell_without_anything_is_a_dash():
    assert PublishedCell(None, None, "", False).text == "-"

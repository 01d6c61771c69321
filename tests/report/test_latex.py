"""report.tex: tables that LaTeX takes, with the numbers of the others."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from ood_core.records.plan import Baseline
from ood_core.report.content.comparisons import Repeat
from ood_core.report.formats import latex

from .test_columns import cases, row
from .test_comparisons import scored
from .test_run_folder import findings

SPECIAL = "50%_of {a} & #1 ~ $x^2$ \\n |<>|"


def rendered(rows, scores=(), baseline=None):
    return latex.render(replace(findings(), rows=tuple(rows), scores=tuple(scores), baseline=baseline or Baseline()))


def tables(text):
    return re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.DOTALL)


def cells(table):
    """The cells of the lines between the rules."""
    body = table.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [re.split(r"(?<!\\)&", line.removesuffix("\\\\").strip()) for line in body.splitlines()]


def assert_balanced(text):
    """Environments nest, braces close, and every line of a table has as many cells as there are columns."""
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    code = re.sub(r"\\\\|\\[{}]", "", code)
    assert code.count("{") == code.count("}")
    for table in tables(text):
        columns = re.search(r"\\begin\{tabular\}\{@\{\}(l+r+)@\{\}\}", table)[1]
        assert {len(line) for line in cells(table)} == {len(columns)}
        spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", table)]
        assert not spans or sum(spans) == columns.count("r")


def test_one_table_for_each_metric_with_the_sets_as_columns():
    rows = [
        row(0.9, scorer="a", group="near", ood_set="x"),
        row(0.8, scorer="a", group="near", ood_set="y"),
        row(0.7, scorer="a"),
        row(0.6, scorer="b", group="near", ood_set="x"),
        row(0.95, scorer="b", group="near", ood_set="y"),
        row(0.7, scorer="b"),
    ]
    text = rendered(rows)
    assert_balanced(text)
    first, second = tables(text)
    assert "scorer & x & y & mean of 2 & noise \\\\" in first
    assert [[cell.strip() for cell in line] for line in cells(first)] == [
        ["a", r"\textbf{90.00}", "80.00", r"\textbf{85.00}", r"\textbf{70.00}"],
        ["b", "60.00", r"\textbf{95.00}", "77.50", r"\textbf{70.00}"],
    ]
    assert r"& \multicolumn{3}{c}{near} & \multicolumn{1}{c}{far} \\" in first
    assert r"\cmidrule(lr){2-4}" in first
    assert r"\cmidrule(lr){5-5}" in first
    assert r"\caption{AUROC in percent." in first
    assert r"\caption{FPR@95 in percent." in second


def test_names_are_printed_as_they_are():
    text = rendered([row(0.9, scorer=SPECIAL, ood_set=SPECIAL), row(0.8, scorer="b", ood_set=SPECIAL)])
    assert_balanced(text)
    assert (
        r"50\%\_of \{a\} \& \#1 \textasciitilde{} \$x\textasciicircum{}2\$ \textbackslash{}n \textbar{}\textless{}"
        in text
    )
    assert Counter(cells(tables(text)[0])[0])  # the ampersand made no cell: assert_balanced counted them


def test_a_newline_in_the_name_of_a_recipe_stays_in_the_comment():
    text = latex.render(replace(findings(), name="one\n\\input{two}"))
    assert text.splitlines()[0] == "% one \\input{two}"


def test_marks_and_deviations_are_set_and_explained():
    one, other = scored("energy", 1.0), scored("knn", 3.0)
    text = rendered([one.row, other.row], [one.scores, other.scores], Baseline(scorer="energy"))
    assert_balanced(text)
    assert r"\textsuperscript{*} \\" in text
    assert r"* / \textsuperscript{\dag}: AUROC better / worse than that of energy, p \textless{} 0.05" in text
    twice = rendered([row(0.9, 0), row(0.8, 1)])
    assert r"85.00\,{\scriptsize$\pm$\,7.07}" in twice


@pytest.mark.parametrize("averaged", [True, False])
def test_cases_become_the_columns(averaged):
    rows = [*cases(("cat", 0.9), ("dog", 0.7)), *cases(("cat", 0.8), ("dog", 0.6), scorer="b")]
    text = latex.render(replace(findings(), rows=tuple(rows), scores=(), baseline=Baseline(), averaged=averaged))
    assert_balanced(text)
    assert f"scorer & cat & dog{' & mean' * averaged} \\\\" in text


def test_long_tables_are_cut_and_wide_ones_scaled():
    rows = [row(0.9, scorer=f"s{place}") for place in range(latex.HIGH + 1)]
    text = rendered(rows)
    assert_balanced(text)
    assert [len(cells(table)) for table in tables(text)] == [latex.HIGH, 1, latex.HIGH, 1]
    assert "(continued)" in tables(text)[1]
    assert "resizebox" not in text
    wide = rendered([row(0.9, ood_set=f"set {place}") for place in range(latex.WIDE + 1)])
    assert_balanced(wide)
    assert wide.count(r"\resizebox{\linewidth}{!}{%") == wide.count(r"\end{tabular}}") == 2
    assert "graphicx" in wide


def test_a_set_that_a_scorer_lacks_is_a_dash():
    text = rendered([row(0.9, scorer="a"), row(0.9, scorer="a", ood_set="x"), row(0.8, scorer="b")])
    assert_balanced(text)
    assert [cell.strip() for cell in cells(tables(text)[0])[1]] == ["b", "80.00", "--", "--"]


def test_a_repeat_without_scores_is_a_line_like_any_other():
    assert_balanced(rendered([Repeat(row(0.9)).row]))

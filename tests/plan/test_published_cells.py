"""The section `paper` of a recipe."""

import pytest

from ood_core.errors import OODErrors
from ood_core.plan import make as plan
from ood_core.recipe.read import read_recipes

SECTION = """\
paper:
  tables:
    T5a:
      rows:
        Energy: {scorer: energy}
        Distance: {scorer: mahalanobis}
      columns:
        C10>SVHN: {ood_set: unseen}
        C10>LSUN: {group: far}
"""

NOISE = "noise(size=8, count=30)"

AXES = """\
vary:
  axes:
    length: {short: {}, long: {training.0.epochs: 3}}
    depth: {one: {}, two: {backbone.options.depth: 2}}
"""

WITH_AXES = """\
paper:
  columns: {C10>SVHN: {ood_set: unseen}}
  tables:
    T5a:
      where: {scorer: energy}
      rows:
        Energy: {length: short}
        Distance: {length: long, depth: [one, two]}
"""


def write(tiny, *sections):
    tiny.write_text("\n".join([tiny.read_text(), *sections]))
    return tiny


@pytest.fixture
def made(tiny, make_plan):
    """`made(section)`: the only table that it names."""

    def make(*sections, overrides=()):
        (table,) = make_plan(write(tiny, *sections), *overrides).published
        return table

    return make


def cell(table, row, column):
    (cells,) = [cells for label, cells in table.rows if label.text == row]
    return cells[[label.text for label in table.columns].index(column)]


def places(table, row, column):
    return {(line.variant, line.scorer, line.ood_set) for line in cell(table, row, column).lines}


def test_a_cell_takes_the_lines_that_its_row_and_its_column_select(made):
    table = made(SECTION)
    assert places(table, "Energy", "C10>SVHN") == {("tiny", "energy", "unseen")}
    assert places(table, "Distance", "C10>LSUN") == {("tiny", "mahalanobis", NOISE)}


def test_the_published_number_is_there_as_printed(made):
    found = cell(made(SECTION), "Energy", "C10>SVHN")
    assert (found.value, found.deviation, found.exposed) == ("99.9", "", True)


def test_rows_and_columns_without_a_selector_are_not_asked_for(made):
    table = made(SECTION)
    assert not cell(table, "Softmax", "C10>SVHN").asked
    assert not cell(table, "Energy", "C10>C100").asked


def test_an_average_is_that_of_the_columns_before_it(made):
    whole = SECTION.replace("C10>LSUN: {group: far}", "C10>LSUN: {group: far}\n        C10>C100: {group: near}")
    found = cell(made(whole), "Energy", "C10>avg")
    assert found.asked
    assert found.mean_of == ((2, 0), (2, 1), (2, 2))


def test_an_average_over_a_column_that_is_not_asked_for_is_not_asked_for(made):
    assert not cell(made(SECTION), "Energy", "C10>avg").asked


def test_seeds_are_repeats_of_the_same_line(made):
    assert len(cell(made(SECTION, overrides=["seeds=[0, 1]"]), "Energy", "C10>SVHN").lines) == 1


def test_axes_select_variants_and_lists_take_several_values(made):
    table = made(AXES, WITH_AXES)
    assert places(table, "Energy", "C10>SVHN") == {
        ("short, one", "energy", "unseen"),
        ("short, two", "energy", "unseen"),
    }
    assert {line.variant for line in cell(table, "Distance", "C10>SVHN").lines} == {"long, one", "long, two"}


def test_variants_by_name_are_selected_as_such(made):
    named = SECTION.replace("scorer: energy", "scorer: energy, variant: plain")
    table = made("vary: {plain: {}, longer: {training.0.epochs: 3}}", named)
    assert {line.variant for line in cell(table, "Energy", "C10>SVHN").lines} == {"plain"}


def test_values_of_variants_that_are_not_kept_are_no_mistake(tiny, plugins):
    recipes = read_recipes(write(tiny, AXES, WITH_AXES), only=["length=short"])
    (table,) = plan.make_plan(recipes, plugins).published
    assert cell(table, "Energy", "C10>SVHN").lines
    assert cell(table, "Distance", "C10>SVHN").asked
    assert not cell(table, "Distance", "C10>SVHN").lines


def test_a_table_none_of_whose_cells_is_asked_for_is_left_out(tiny, make_plan):
    made = make_plan(write(tiny, SECTION), "paper.tables.T5a.columns=null")
    assert made.published == ()


def test_a_recipe_may_do_without_its_tables(tiny, make_plan):
    assert make_plan(write(tiny, SECTION), "paper=null").published == ()


def test_what_is_remarked_stands_below_every_table(made):
    assert made(SECTION.replace("paper:\n", "paper:\n  remark: Digits.\n")).remarks[0] == "Digits."


def test_what_is_something_else_is_marked_and_footnoted(made):
    table = made(SECTION.replace("scorer: energy", 'scorer: energy, instead: "Another energy."'))
    assert cell(table, "Energy", "C10>SVHN").instead
    assert not cell(table, "Distance", "C10>SVHN").instead
    (label,) = [label for label, _ in table.rows if label.text == "Energy"]
    assert [table.footnotes[number - 1] for number in label.notes] == ["Another energy."]


def test_known_mistakes_of_the_paper_are_footnotes_of_their_cells(made):
    section = SECTION.replace("T5a", "T4a").replace("Energy", "MIM-pt + inter-ft").replace("Distance", "MIM-pt")
    table = made(section)
    (number,) = cell(table, "MIM-pt + inter-ft", "C100>avg").notes
    assert table.footnotes[number - 1] == "Printed 68.2; the mean of the three cells is 78.2."


def test_weights_that_know_the_names_of_ood_classes_are_told(made):
    exposed = SECTION.replace("paper:\n", "paper:\n  exposed: true\n")
    assert [line.exposed for line in cell(made(exposed), "Energy", "C10>SVHN").lines] == [True]


@pytest.mark.parametrize("task", ["classification", "one-class", "supcon"])
def test_a_stage_that_was_given_the_labels_of_ood_classes_exposes_their_sets_alone(tiny, made, task):
    images = "{use: digits, classes: [7, 8], split: train}"
    stage = f"  - {{use: {task}, train_on: {images}, epochs: 1, batch_size: 16}}\n"
    tiny.write_text(tiny.read_text().replace("training:\n", f"training:\n{stage}"))
    table = made(SECTION)
    assert [line.exposed for line in cell(table, "Energy", "C10>SVHN").lines] == [True]
    assert [line.exposed for line in cell(table, "Energy", "C10>LSUN").lines] == [False]


def test_a_stage_without_labels_exposes_nothing(tiny, made):
    stage = "  - {use: simclr, train_on: {use: digits, classes: [7, 8], split: train}, epochs: 1, batch_size: 16}\n"
    tiny.write_text(tiny.read_text().replace("training:\n", f"training:\n{stage}"))
    assert [line.exposed for line in cell(made(SECTION), "Energy", "C10>SVHN").lines] == [False]


def test_the_resolved_options_have_the_section_so_that_a_lock_keeps_it(tiny, make_plan):
    (resolved,) = make_plan(write(tiny, SECTION)).resolved.values()
    assert resolved["paper"]["tables"]["T5a"]["rows"]["Energy"] == {"scorer": "energy"}


MISTAKES = {
    "no mapping": (SECTION, "paper: 3", "'paper' must be a mapping of exposed, remark, columns, tables"),
    "key": ("tables:", "tabels:", "no key of 'paper': 'tabels'. Did you mean 'tables'?"),
    "table": ("T5a:", "T5c:", "no key of 'paper.tables': 'T5c'. Did you mean 'T7c'?"),
    "part": ("rows:", "row:", "no key of table T5a: 'row'. Did you mean 'rows'?"),
    "row": ("Energy:", "Energie:", "table T5a has no row 'Energie'. Did you mean 'Energy'?"),
    "column": ("C10>SVHN:", "C10>SHVN:", "table T5a has no column 'C10>SHVN'. Did you mean 'C10>SVHN'?"),
    "field": ("scorer: energy", "scorrer: energy", "no key of a selector: 'scorrer'. Did you mean 'scorer'?"),
    "value": ("scorer: energy", "scorer: energi", "no row of the plan has the scorer 'energi'. Did you mean 'energy'?"),
    "OOD set": ("unseen", "unsen", "no row of the plan has the ood_set 'unsen'. Did you mean 'unseen'?"),
    "metric": ("unseen", "unseen, metric: accuracy", "no metric 'accuracy'. Did you mean 'id_accuracy'?"),
    "exposed": ("paper:\n", "paper:\n  exposed: very\n", "'exposed' must be a valid boolean, not \"very\""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_the_nearest_right_name(tiny, make_plan, mistake):
    old, new, message = MISTAKES[mistake]
    before, _, _ = SECTION.partition(old)
    line = len(tiny.read_text().splitlines()) + 2 + before.count("\n") + (1 if mistake == "exposed" else 0)
    with pytest.raises(OODErrors) as caught:
        make_plan(write(tiny, SECTION.replace(old, new, 1)))
    assert str(caught.value).splitlines()[0] == f"tiny.yaml: line {line}: {message}"


def test_a_wrong_value_of_an_axis_is_a_mistake(tiny, make_plan):
    with pytest.raises(OODErrors, match=r"no row of the plan has the length 'shrt'\. Did you mean 'short'\?"):
        make_plan(write(tiny, AXES, WITH_AXES.replace("length: short", "length: shrt")))

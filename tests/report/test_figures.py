"""What the figures of the page show, and how small they are."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from ood_core.records.plan import Baseline
from ood_core.records.report_data import EmbeddingMap, EmbeddingPoints, StageRecord
from ood_core.report.content.combinations import combinations, ranked
from ood_core.report.figures import class_tables, curves, densities, drawing, panels, scatter, training_curves
from ood_core.report.figures.drawing import compact

PAPERS = ("#ffffff", "#14171b")


def scores(seed=0, count=400):
    random = np.random.default_rng(seed)
    return random.normal(size=count), random.normal(1, 1.5, size=count)


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(*colours):
    first, second = sorted(map(luminance, colours), reverse=True)
    return (first + 0.05) / (second + 0.05)


# --------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize("paper", PAPERS)
def test_every_colour_of_a_series_is_seen_on_light_and_on_dark_paper(paper):
    styles = [drawing.ID_STYLE, *(drawing.style(index) for index in range(7))]
    assert min(contrast(style.colour, paper) for style in styles) >= 3


def test_series_are_told_apart_without_colours():
    styles = [drawing.style(index) for index in range(5)]
    assert len({style.dashes for style in styles}) == len({style.marker for style in styles}) == 5
    assert len({drawing.style(index) for index in range(210)}) == 210


def test_a_drawing_is_an_image_with_a_name_in_the_ink_of_the_page():
    made = drawing.axes("x", "y")
    drawing.line(made, [0, 1], [0, 1], drawing.style(0))
    drawing.word(made, 0.5, 0.5, "costs $5 & <more>")
    found = drawing.finish(made, 'a "title"', ["what is seen: 3 of 4"])
    root = ElementTree.fromstring(found.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'a "title". what is seen: 3 of 4.'
    assert root.find("title").text == 'a "title"'
    assert "costs $5 & <more>" in [text.text for text in root.iter("text")]
    assert "currentColor" in found.svg
    assert drawing.INK not in found.svg
    assert " id=" not in found.svg, "ids of several drawings in one page would be the same"


def test_the_same_drawing_has_the_same_bytes():
    inside, outside = scores()
    first, second = (densities.draw("title", inside, [("set", outside)]) for _ in range(2))
    assert first.svg == second.svg


def test_a_compact_path_goes_where_the_long_one_went():
    random = np.random.default_rng(0)
    points = np.round(random.normal(100, 60, size=(200, 2)), 6)
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    svg = compact(f'<svg viewBox="0 0 300 200"><path d="{path}" style="stroke: #c8620f"/></svg>', "#010203", "t", "w")
    steps = re.search(r' d="M(.*?)"', svg)[1]
    numbers = [float(text) for text in re.findall(r"-?\d*\.?\d+", steps.replace("l", " "))]
    walked = np.cumsum(np.array(numbers).reshape(-1, 2), axis=0)
    assert_allclose(walked, points, atol=0.051)
    assert len(svg) < len(path) / 1.8


# ------------------------------------------------------------------------------------------- densities, curves


def test_densities_are_shares_and_the_words_have_the_threshold():
    inside, outside = scores()
    low, high = densities.axis(inside, [("set", outside)])
    of_outside = densities.density(outside, low, high)
    assert of_outside.shares.sum() + of_outside.below + of_outside.above == pytest.approx(1)
    words = densities.draw("title", inside, [("noise", outside)]).words
    threshold = np.quantile(inside, 0.95)
    assert f"{100 * (outside <= threshold).mean():.2f} % of 400 images accepted" in words
    assert f"up to {threshold:.4g}" in words


def test_scores_far_away_leave_the_id_scores_visible_and_are_said_to_be_beyond_the_axis():
    inside, outside = scores()
    far = np.concatenate([outside[:200], outside[200:] * 1e6 + 1e7])
    low, high = densities.axis(inside, [("noise", far)])
    assert high - low < 10 * np.ptp(inside)
    assert densities.beyond(inside, [("noise", far)]) == ["50 % of noise lie beyond the upper end of the scores shown"]


def test_scores_that_are_all_the_same_can_be_drawn():
    same = np.full(5, 3.0)
    assert "median score of 3" in densities.draw("title", same, [("same", same)]).words


def test_the_area_below_the_roc_curve_is_the_auroc_also_with_ties():
    inside, outside = (np.round(of, 1) for of in scores())
    x, y = curves.count_accepted(inside, outside).roc
    labels = np.repeat([0, 1], [len(inside), len(outside)])
    assert auc(x, y) == pytest.approx(roc_auc_score(labels, np.concatenate([inside, outside])), abs=1e-12)


def test_the_areas_below_the_precision_recall_curves_are_the_average_precisions(monkeypatch):
    monkeypatch.setattr(curves, "POINTS", 10_000)
    inside, outside = (np.round(of, 1) for of in scores())
    both, labels = np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)])
    counts = curves.count_accepted(inside, outside)
    found_out, found_in = (auc(*curve) for curve in (counts.finding_ood, counts.finding_id))
    assert found_out == pytest.approx(average_precision_score(labels, both), abs=1e-12)
    assert found_in == pytest.approx(average_precision_score(1 - labels, -both), abs=1e-12)


def test_a_thinned_curve_keeps_its_ends_and_its_area():
    x, y = curves.count_accepted(*scores(count=50_000)).roc
    assert len(x) <= curves.POINTS + 2
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    full = roc_auc_score(np.repeat([0, 1], 50_000), np.concatenate(scores(count=50_000)))
    assert auc(x, y) == pytest.approx(full, abs=1e-4)


# ------------------------------------------------------------------------------------------------ what is shown


def test_the_baseline_and_the_best_are_wanted_first(synthetic, tmp_path):
    found = combinations(synthetic(tmp_path, variants=3, scorers=2, images=40, galleries=0).rows)
    order = ranked(found, Baseline("variant 1", "scorer1"))
    assert (order[0].variant, order[0].scorer) == ("variant 1", "scorer1")
    assert max(found, key=lambda one: one.auroc) in order[:2]
    assert sorted(order, key=found.index) == found


def test_only_the_first_seed_and_draw_is_drawn(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, images=40, galleries=0)
    again = tuple(replace(row, seed=1, auroc=0) for row in findings.rows)
    (one,) = combinations((*findings.rows, *again))
    assert (one.seed, one.rows) == (0, (0, 1))
    assert one.title == "scorer0", "the only variant need not be named"


def test_panels_that_cannot_be_afforded_are_left_out_but_not_the_baseline(synthetic, tmp_path, monkeypatch):
    findings = synthetic(tmp_path, scorers=4, images=40, galleries=0)
    findings = replace(findings, baseline=Baseline("", "scorer2"))
    monkeypatch.setattr(panels, "BYTES", 2.5 * sum(len(of.svg) for of in panels.draw(findings)[0].drawings))
    shown = [panel.combination.scorer for panel in panels.draw(findings)]
    assert len(shown) == 2
    assert "scorer2" in shown
    assert shown == sorted(shown), "in the order of the table"


def test_a_map_is_small_and_says_how_far_sets_lie_away():
    random = np.random.default_rng(0)
    labels = tuple("ab"[index % 2] for index in range(300))
    near, far = (random.normal(shift, 1, size=(300, 2)).astype(np.float32) for shift in (0, 30))
    (panel,) = scatter.draw(
        [
            EmbeddingMap(
                "v", "", 0, (EmbeddingPoints("in", True, near, labels), EmbeddingPoints("out", False, far, labels))
            )
        ]
    )
    assert len(panel.drawing.svg) < 30_000
    distance = re.search(r"those of out at ([\d.]+)", panel.drawing.words)
    assert float(distance[1]) == pytest.approx(30 * 2**0.5 / 1.18, rel=0.15)
    assert {text.text for text in ElementTree.fromstring(panel.drawing.svg).iter("text")} >= {"a", "b"}


def test_many_maps_have_fewer_points_each(monkeypatch):
    points = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    one = EmbeddingMap(
        "v",
        "",
        0,
        (EmbeddingPoints("in", True, points, ("a",) * 400), EmbeddingPoints("out", False, points, ("",) * 400)),
    )
    monkeypatch.setattr(scatter, "BYTES", 150_000)
    shown = scatter.draw([one] * 20)
    assert len(shown) == 20
    assert {counts[2:] for panel in shown for counts in panel.key} == {(98, 400)}


def stage(kind="train", title="train mim", variants=("v",), stored=False, **facts):
    return StageRecord(kind, title, "key", 0, variants, stored, facts)


def test_training_curves_are_grouped_by_task_and_say_where_they_begin_and_end():
    epochs = [{"loss": 2.0}, {"loss": "nan"}, {"loss": 0.5}]
    stages = [stage(variants=(name,), epochs=epochs) for name in "abcdefghij"]
    stages += [stage(title="train mae", variants=tuple("abcde"), epochs=[{"loss": 1.0}])]
    first, second, other = training_curves.draw(stages)
    assert [len(panel.key) for panel in (first, second, other)] == [8, 2, 1]
    assert "a, seed 0: from 2 to 0.5 in 3 epochs" in first.drawings[0].words
    assert other.key[0][1] == "a, b, c and 2 more, seed 0"


def test_classes_are_sorted_from_the_hardest_on_and_counted_by_what_they_are_taken_for(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, sets=2, images=30, classes=3, galleries=0)
    (table,) = class_tables.draw(findings)
    assert table.id_classes == ("known 0", "known 1", "known 2")
    assert [(line.row.ood_set, line.row.ood_class) for line in table.lines[:3]] == [
        ("set 0", "class 0"),
        ("set 0", "class 1"),
        ("set 0", "class 2"),
    ]
    assert table.lines[1].taken == (0, 5, 0)


def test_a_table_of_classes_leaves_out_easy_classes_and_adds_up_rare_ones(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, sets=1, images=200, classes=40, galleries=0)
    (table,) = class_tables.draw(findings)
    assert (len(table.lines), table.left_out, len(table.id_classes)) == (30, 10, 12)
    assert table.others

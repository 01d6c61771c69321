"""Notes on networks and scores that failed."""

from dataclasses import replace

import pytest

from ood_core.report.content import doubts
from ood_core.report.content.collect import collect


@pytest.fixture
def at_chance(monkeypatch):
    monkeypatch.setattr(doubts, "near_chance", lambda outputs: outputs.logits.shape == (120, 3))


def test_a_network_near_chance_has_one_note_whatever_the_scorers_and_ood_sets(tiny_run, at_chance, tmp_path):
    found = collect(tiny_run.plan, tiny_run.results, tiny_run.store, tmp_path)
    assert len({(row.scorer, row.ood_set) for row in found.rows}) == 10
    assert [note for note in found.notes if "chance" in note] == [
        f"the network of 'tiny', seed 0 classifies {found.rows[0].id_accuracy:.1%} of 120 ID test images of 3 classes "
        "correctly, which is near chance: it has not learned them"
    ]


def test_a_network_that_recognises_classes_or_has_no_classifier_has_no_note(tiny_run, monkeypatch):
    plan, store, results, _ = tiny_run
    monkeypatch.setattr(doubts, "near_chance", lambda _: False)
    assert not list(doubts.failed_networks(plan, results, store))
    monkeypatch.setattr(doubts, "near_chance", lambda _: True)
    without = replace(results, rows=tuple(replace(row, id_accuracy=None) for row in results.rows))
    assert not list(doubts.failed_networks(plan, without, store))


def test_few_images_reveal_no_failed_network(tiny_run, at_chance, monkeypatch):
    monkeypatch.setattr(doubts, "ENOUGH", 121)
    assert not list(doubts.failed_networks(tiny_run.plan, tiny_run.results, tiny_run.store))


def test_aurocs_below_half_with_their_interval_are_one_note_with_the_lowest(tiny_run):
    row = replace(tiny_run.results.rows[0], scorer="energy", ood_set="unseen", id_images=100, ood_images=100)
    rows = [replace(row, auroc=auroc, auroc_high=high) for auroc, high in ((0.42, 0.49), (0.31, 0.4), (0.45, 0.51))]
    rows += [replace(row, auroc=0.1, auroc_high=0.2, ood_images=99), replace(row, auroc=0.2, auroc_high=None)]
    assert list(doubts.below_half(rows)) == [
        "2 of 5 AUROCs are below 50 %, and so are their intervals: the scores take OOD images for more typical than "
        "ID; the lowest is 31.0%, energy on unseen of 'tiny', seed 0"
    ]
    assert not list(doubts.below_half(rows[2:]))

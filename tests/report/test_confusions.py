"""How each OOD class fares."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ood_core import report
from ood_core.pipeline.measure import load_measured
from ood_core.records.report_data import ClassRow, ClassRowKey
from ood_core.records.results import Results
from ood_core.report.content.confusions import class_rows, hardest
from ood_core.report.formats.run_folder import load
from ood_core.run.schedule import Failure, run
from ood_core.store.store import Store

from .test_run_folder import WHICH


def of_class(name, auroc, seed=0, scorer="energy"):
    return ClassRow("v", **WHICH | {"seed": seed, "scorer": scorer}, ood_class=name, images=5, accepted=1, auroc=auroc)


def test_the_hardest_classes_are_those_with_the_lowest_mean_over_the_repeats():
    rows = [
        of_class(name, auroc, seed)
        for seed in (0, 1)
        for name, auroc in zip("abcd", (0.9, 0.5 + seed / 5, 0.8, 0.7), strict=True)
    ]
    (line,) = hardest(rows)
    assert [(name, pytest.approx(auroc)) for name, auroc in line.classes] == [("b", 0.6), ("d", 0.7), ("c", 0.8)]
    assert line.of == 4


def test_a_set_of_one_class_has_no_hardest():
    assert (
        hardest([of_class("a", 0.9), of_class("a", 0.9, scorer="knn"), of_class("b", 0.8, scorer="knn")])[0].scorer
        == "knn"
    )
    assert hardest([of_class("a", 0.9)]) == []


@pytest.fixture
def done(make_plan, tiny, tmp_path):
    plan, store = make_plan(tiny, "training.0.epochs=1"), Store(tmp_path / "store")
    return plan, run(plan, store), store


def test_each_class_is_measured_against_all_id_images(done):
    plan, _, store = done
    row = plan.rows[0]
    found = load_measured(row.measure, store)
    labels = row.measure.ood_scores.images.opened.labels.numpy()
    rows = {of.ood_class: of for of in class_rows(ClassRowKey.of(row), row.measure, found)}
    assert list(rows) == ["8", "9"]
    for label, of in enumerate(rows.values()):
        own = found.ood_scores[labels == label]
        scores = np.concatenate([found.id_scores, own])
        truth = np.arange(len(scores)) >= len(found.id_scores)
        assert of.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        assert of.images == len(own)
        assert of.accepted == (own <= np.quantile(found.id_scores, 0.95)).sum()


def test_the_files_of_a_run_agree_with_each_other(done, tmp_path):
    plan, results, store = done
    report.write(plan, results, store, tmp_path / "out")
    found = load(tmp_path / "out")
    assert found.rows == results.rows
    for row, scores in zip(found.rows, found.scores, strict=True):
        assert (len(scores.id_scores), len(scores.ood_scores)) == (row.id_images, row.ood_images)
        of_row = [of for of in found.classes if (of.scorer, of.ood_set) == (row.scorer, row.ood_set)]
        assert sum(of.auroc * of.images for of in of_row) / row.ood_images == pytest.approx(row.auroc)
        assert sum(of.accepted for of in of_row) / row.ood_images == pytest.approx(row.fpr95)
    assert found.scores[0].id_scores is found.scores[1].id_scores
    assert found.work == "trained 1, extracted 5, reused 0"
    assert {stage.variants for stage in found.stages} == {("tiny",)}
    again = tmp_path / "again"
    again.mkdir()
    (again / "gallery").symlink_to(tmp_path / "out" / "gallery")
    report.write_files(found, again)
    for file in (tmp_path / "out").iterdir():
        if file.is_file():
            assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_what_failed_is_in_the_report_and_its_rows_are_missing(done, tmp_path):
    plan, results, store = done
    lost = next(stage for stage in plan.stages if str(stage) == "fit mahalanobis")
    rows = tuple(row for row in results.rows if row.scorer != "mahalanobis")
    failed = Results(rows, results.records, 1.0, (Failure(lost, "fit mahalanobis: no inverse", ValueError()),))
    report.write(plan, failed, store, tmp_path / "out")
    found = load(tmp_path / "out")
    assert [row.scorer for row in found.rows] == ["energy", "energy"]
    assert [(failure.title, failure.variants) for failure in found.failures] == [("fit mahalanobis, seed 0", ("tiny",))]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "- fit mahalanobis, seed 0 (tiny): fit mahalanobis: no inverse" in text
    assert "Rows are missing of: tiny" in text

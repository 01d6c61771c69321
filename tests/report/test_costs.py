"""The costs of stages, and the table of a summary."""

import csv
import io

import pytest

from ood_core.records.plan import Baseline
from ood_core.records.report_data import StageRecord
from ood_core.report.content.costs import by_kind
from ood_core.report.content.summary_rows import summarise
from ood_core.report.formats.csv_tables import of_summary

from .test_columns import row
from .test_comparisons import scored


def stage(kind, stored=False, **facts):
    return StageRecord(kind, kind, "key", 0, ("v",), stored, facts)


def test_stages_of_a_kind_are_taken_together():
    train, score, measure = by_kind(
        [
            stage("train", seconds=1.0, images_per_second=100.0, peak_memory_mb=10.0),
            stage("train", True, seconds=3.0, images_per_second=20.0, peak_memory_mb=30.0),
            stage("score", seconds=2.0, images=100),
            stage("measure", seconds=1.0, images="a digest"),
        ]
    )
    assert (train.carried_out, train.stored) == (1, 1)
    assert (train.cost.seconds, train.cost.speed, train.cost.memory) == (4.0, 40.0, 30.0)
    assert train.cost.gpu_memory is None
    assert score.cost.speed == 50.0
    assert (measure.cost.speed, measure.cost.memory) == (None, None)


def test_the_cost_of_a_stage_is_what_it_recorded():
    found = stage("extract", seconds=1.5, images_per_second=7.0, peak_gpu_memory_mb=5.0).cost
    assert (found.seconds, found.speed, found.memory, found.gpu_memory) == (1.5, 7.0, None, 5.0)


def test_the_summary_has_the_numbers_of_the_table():
    one, other = scored("energy", 1.0), scored("knn", 3.0)
    lines = summarise([one.row, other.row], [one.scores, other.scores], Baseline(scorer="energy"))
    first, second = csv.DictReader(io.StringIO(of_summary(lines)))
    assert (first["scorer"], first["p"], first["baseline"]) == ("energy", "", "")
    assert float(second["auroc"]) == other.row.auroc
    assert float(second["difference"]) == pytest.approx(other.row.auroc - one.row.auroc)
    assert float(second["p"]) == float(second["p_adjusted"]) < 0.05
    assert second["baseline"] == "energy"
    (repeated,) = csv.DictReader(io.StringIO(of_summary(summarise([row(0.9, 0), row(0.8, 1)]))))
    assert (repeated["repeats"], float(repeated["auroc_sd"])) == ("2", pytest.approx(0.1 / 2**0.5))
    assert None not in repeated

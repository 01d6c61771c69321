"""Outputs and fitted scores, as they come back from the store."""

import gc
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ood_core.errors import OODError
from ood_core.interfaces import FormulaScorer, Score, Scorer
from ood_core.records.stages import Extraction, ExtractStage
from ood_core.store.artifacts import SCORE, load_outputs, load_score, load_together, plain_values, save_score
from ood_core.store.files import create_array, save_tensors
from ood_core.store.store import Store


@dataclass(frozen=True)
class Scale:
    factors: torch.Tensor
    condition: float


@dataclass(frozen=True)
class Fitted(Score):
    means: torch.Tensor
    rank: int
    names: tuple[str, ...]
    scale: Scale | None = None

    def __call__(self, outputs):
        return outputs.embeddings.double().sum(1)


@dataclass(frozen=True)
class Both(Score):
    inner: tuple[Score, ...]
    first: Score | None

    def __call__(self, outputs):
        return self.inner[0](outputs)


@dataclass(frozen=True, kw_only=True)
class Plain(Scorer):
    name = "plain"
    scores = Fitted

    def fit(self, train):
        return FITTED


@dataclass(frozen=True, kw_only=True)
class Composed(Scorer):
    name = "composed"
    scores = Both
    scorers: tuple[Scorer, ...]

    def fit(self, train):
        return Both(tuple(scorer.fit(train) for scorer in self.scorers), None)


FITTED = Fitted(torch.randn(3, 2, dtype=torch.float64), 2, ("a", "b"))


def test_a_score_is_saved_without_pickle_and_restored(tmp_path):
    save_score(tmp_path, FITTED)
    assert [path.name for path in tmp_path.iterdir()] == ["score.safetensors"]
    loaded = load_score(tmp_path / SCORE, Plain())
    assert torch.equal(loaded.means, FITTED.means)
    assert (loaded.rank, loaded.names, loaded.scale) == (2, ("a", "b"), None)


def test_values_within_a_score_come_back_as_what_they_were(tmp_path):
    save_score(tmp_path, Fitted(FITTED.means, 2, (), Scale(torch.ones(2, dtype=torch.float32), 1e300)))
    scale = load_score(tmp_path / SCORE, Plain()).scale
    assert isinstance(scale, Scale)
    assert torch.equal(scale.factors, torch.ones(2)) and scale.condition == 1e300


def test_scores_within_scores_come_back(tmp_path):
    scorer = Composed(scorers=(Plain(), Composed(scorers=(Plain(),))))
    save_score(tmp_path, scorer.fit(None))
    loaded = load_score(tmp_path / SCORE, scorer)
    assert isinstance(loaded.inner[0], Fitted) and isinstance(loaded.inner[1], Both)
    assert torch.equal(loaded.inner[1].inner[0].means, FITTED.means)
    assert loaded.first is None


def test_a_formula_scorer_needs_nothing_of_the_file_that_an_earlier_version_wrote(tmp_path, plugins):
    save_score(tmp_path, FITTED)
    scorer = plugins.get("scorer", "energy")(temperature=2.0)
    assert load_score(tmp_path / SCORE, scorer) == scorer


@dataclass(frozen=True, kw_only=True)
class Resolved(FormulaScorer):
    """A formula whose option is set by the training outputs."""

    name = "resolved"
    limit: float = 0.0

    def fit(self, train):
        return replace(self, limit=7.0)

    def score(self, outputs):
        return outputs.embeddings.amax(1).double()


def test_what_an_overridden_fit_of_a_formula_scorer_returns_comes_back(tmp_path):
    save_score(tmp_path, Resolved().fit(None))
    assert load_score(tmp_path / SCORE, Resolved()).limit == 7.0
    save_score(tmp_path, FITTED)
    with pytest.raises(OODError, match=r"which this version's scorer does not make"):
        load_score(tmp_path / SCORE, Resolved())


def test_a_file_cannot_name_a_class_that_the_scorer_does_not_declare(tmp_path):
    save_score(tmp_path, Both((FITTED,), None))
    with pytest.raises(OODError, match=r"holds a .*Both, which this version's scorer does not make; fit it again"):
        load_score(tmp_path / SCORE, Plain())


def test_a_score_of_another_version_is_refused_with_what_differs(tmp_path):
    save_score(tmp_path, FITTED)
    path = tmp_path / SCORE
    with safe_open(path, "pt") as opened:
        notes = json.loads(opened.metadata()["notes"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
    del notes["fields"]["rank"]
    save_tensors(path, tensors, notes | {"fields": notes["fields"] | {"bias": 0.0}})
    with pytest.raises(OODError, match="another version of Fitted: bias, rank"):
        load_score(tmp_path / SCORE, Plain())


def test_the_report_is_told_plain_values_also_of_what_lies_within():
    assert plain_values(Fitted(FITTED.means, 2, ("a",), Scale(torch.ones(1), 3.0))) == {
        "rank": 2,
        "scale.condition": 3.0,
    }


# --------------------------------------------------------------------------------------------------- outputs

ROWS, WIDTH = 40_000, 256
FACTS = {"images": 1, "skipped": [], "images_per_second": 1.0, "dimensions": 1}


pytestmark = pytest.mark.usefixtures("fake_stages")


def extract_stage(key, images=None):
    backbone = SimpleNamespace(name="backbone")
    return ExtractStage(key=key, pass_key="p", backbone=backbone, weights=None, images=images, image_size=8, classes=2)


@pytest.fixture
def extraction(tmp_path):
    """An extraction of 41 MB of embeddings, and its store."""
    stage, store = extract_stage("k"), Store(tmp_path)
    with store.put(stage) as (folder, facts):
        facts |= FACTS
        embeddings = create_array(folder / "embeddings.npy", (ROWS, WIDTH))
        embeddings[:] = np.arange(ROWS, dtype=np.float32)[:, None]
        create_array(folder / "logits.npy", (ROWS, 0))
        create_array(folder / "labels.npy", (ROWS,), int)
        embeddings.flush()
    del embeddings
    gc.collect()
    return Extraction(stage), store


def resident():
    """Return the bytes of mapped files that count as this process's memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("RssFile")).split()[1])


def test_chunks_hold_every_row_although_their_pages_are_given_back(extraction):
    outputs = load_outputs(*extraction)
    for _ in range(2):
        firsts = torch.cat([chunk.embeddings[:, 0].clone() for chunk in outputs.chunks(999)])
        assert torch.equal(firsts, torch.arange(ROWS, dtype=torch.float32))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell what is resident")
def test_reading_in_chunks_leaves_no_page_resident(extraction):
    outputs = load_outputs(*extraction)
    before = resident()
    for chunk in outputs.chunks(1000):
        chunk.embeddings.sum()
    after = resident()
    assert after - before < ROWS * WIDTH * 4 / 4
    outputs.embeddings.sum()
    assert resident() - after > ROWS * WIDTH * 4 / 2  # so that the above could have failed


def small_set(store, key, labels, classes):
    """Return the extraction of one embedding a label, from a set with so many classes."""
    images = SimpleNamespace(opened=SimpleNamespace(classes=("class",) * classes))
    stage = extract_stage(key, images)
    with store.put(stage) as (folder, facts):
        facts |= FACTS
        np.save(folder / "embeddings.npy", np.full((len(labels), 4), len(labels), np.float32))
        np.save(folder / "logits.npy", np.empty((len(labels), 0), np.float32))
        np.save(folder / "labels.npy", np.array(labels))
    return Extraction(stage)


def test_classes_of_sets_that_are_taken_together_are_numbered_set_after_set(tmp_path):
    store = Store(tmp_path)
    # the second set has a class without an image
    sets = [small_set(store, "a", [0, 1], 2), small_set(store, "b", [0, 0, 2], 4), small_set(store, "c", [0], 1)]
    together = load_together(sets, store)
    assert together.labels.tolist() == [0, 1, 2, 2, 4, 6]
    assert together.embeddings[:, 0].tolist() == [2, 2, 3, 3, 3, 1]
    assert load_together(sets[1:2], store).labels.tolist() == [0, 0, 2]

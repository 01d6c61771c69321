"""Images and maps that are collected from a run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.decomposition import PCA

from ood_core.pipeline.score import SCORES
from ood_core.plan.make import make_plan
from ood_core.recipe.read import read_recipes
from ood_core.records.plan import Baseline
from ood_core.report.content import gallery, maps
from ood_core.report.content.combinations import combinations
from ood_core.run.schedule import run
from ood_core.store.artifacts import load_outputs
from ood_core.store.store import Store

VARIED = "vary: {short: {}, long: {training.0.epochs: 3}}\n"


@pytest.fixture(scope="module")
def ran(plugins, tiny_text, tmp_path_factory):
    """A plan of two variants and two seeds, its rows and its store."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "tiny.yaml").write_text(tiny_text.replace("seed: 0", "seeds: [0, 1]") + VARIED)
    made, store = make_plan(read_recipes(folder / "tiny.yaml"), plugins), Store(folder / "store")
    return made, run(made, store).rows, store


def test_the_ends_are_the_lowest_and_highest_scores_of_each_set(ran, tmp_path):
    made, rows, store = ran
    strips = gallery.collect(made, rows, store, tmp_path)
    first = {strip.what: strip for strip in strips if strip.row == 0}
    outside = np.load(store.folder(made.rows[0].measure.ood_scores) / SCORES)
    inside = np.load(store.folder(made.rows[0].measure.id_scores) / SCORES)
    assert [shown.score for shown in first["most ID-like OOD"].images] == sorted(outside)[:8]
    assert [shown.score for shown in first["most typical OOD"].images] == sorted(outside, reverse=True)[:8]
    assert [shown.score for shown in first["most typical ID"].images] == sorted(inside)[:8]
    assert [shown.score for shown in first["most OOD-like ID"].images] == sorted(inside, reverse=True)[:8]
    assert {shown.label for shown in first["most ID-like OOD"].images} <= {"8", "9"}


def test_the_pixels_are_those_of_the_image_with_that_score(ran, tmp_path):
    made, rows, store = ran
    (strip, *_) = gallery.collect(made, rows, store, tmp_path)
    stage = made.rows[strip.row].measure.ood_scores
    lowest = int(np.load(store.folder(stage) / SCORES).argmin())
    with Image.open(tmp_path / strip.images[0].file) as picture:
        shown = np.asarray(picture.convert("RGB"))
    assert (shown == stage.images.opened.pixels(lowest).permute(1, 2, 0).numpy()).all()


def test_each_variant_has_the_baselines_scorer_and_the_best_one_at_its_first_seed(ran, tmp_path):
    made, rows, store = ran
    strips = gallery.collect(replace(made, baseline=Baseline("", "energy")), rows, store, tmp_path)
    shown = {rows[strip.row].variant for strip in strips}, {rows[strip.row].seed for strip in strips}
    assert shown == ({"short", "long"}, {0})
    found = combinations(rows)
    best = max((one for one in found if one.variant == "long"), key=lambda one: one.auroc)
    of_long = {rows[strip.row].scorer for strip in strips if rows[strip.row].variant == "long"}
    assert of_long == {"energy", best.scorer}


def test_the_gallery_ends_where_there_are_too_many_images_but_keeps_the_baseline(ran, tmp_path, monkeypatch):
    made, rows, store = ran
    monkeypatch.setattr(gallery, "IMAGES", 100)
    strips = gallery.collect(replace(made, baseline=Baseline("long", "")), rows, store, tmp_path)
    assert sum(len(strip.images) for strip in strips) <= 100
    assert {rows[strip.row].variant for strip in strips} == {"long"}


def test_large_images_are_reduced(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 90, 200), np.uint8)

    class Opened:
        fingerprint = "f" * 64

        def pixels(self, row):
            return torch.from_numpy(pixels)

    class Images:
        opened = Opened()

    with Image.open(tmp_path / gallery._write_thumbnail(Images(), 3, tmp_path)) as picture:
        assert picture.size == (64, 29)


def test_a_map_has_the_principal_components_of_the_training_images(ran):
    made, rows, store = ran
    first, second = maps.collect(made, store)
    assert [(one.variant, one.case, one.seed) for one in (first, second)] == [("short", "", 0), ("long", "", 0)]
    assert [(one.name, one.is_id, len(one.points)) for one in first.sets] == [
        ("digits", True, 40 * 3),
        ("unseen", False, 40),
        (rows[1].ood_set, False, 30),
    ]
    measure = made.rows[0].measure
    train, shown = (
        load_outputs(of, store).embeddings.numpy() for of in (measure.id_scores.fit.train, measure.ood_scores.outputs)
    )
    fitted = PCA(2, svd_solver="full").fit(train.astype(np.float64))
    assert_allclose(first.sets[1].points, fitted.transform(shown), atol=1e-4)
    assert set(first.sets[0].labels) == {"0", "1", "2"}


def test_variants_with_the_same_embeddings_share_a_map(make_plan, tiny, tmp_path):
    tiny.write_text(tiny.read_text() + "vary: {one: {scorers: [energy]}, two: {scorers: [mahalanobis]}}\n")
    made, store = make_plan(tiny), Store(tmp_path / "store")
    run(made, store)
    assert [one.variant for one in maps.collect(made, store)] == ["one / two"]


def test_rows_of_failed_stages_are_passed_over(ran, tmp_path):
    made, rows, _ = ran
    left, store = tuple(row for row in rows if row.variant == "long"), Store(tmp_path / "store")
    shutil.copytree(ran[2].root, store.root)
    for row in made.rows:
        if row.variant == "short":
            (store.folder(row.measure) / "stage.json").unlink()
    assert [one.variant for one in maps.collect(made, store)] == ["long"]
    strips = gallery.collect(made, left, store, tmp_path)
    assert {left[strip.row].variant for strip in strips} == {"long"}


def test_points_lie_evenly_over_large_sets(ran, monkeypatch):
    made, _, store = ran
    whole = maps.collect(made, store)[0].sets[0]
    monkeypatch.setattr(maps, "POINTS", 3)
    few = maps.collect(made, store)[0].sets[0]
    assert_allclose(few.points, whole.points[[0, (len(whole.points) - 1) // 2, -1]])

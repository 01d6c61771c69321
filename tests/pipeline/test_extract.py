"""Extraction: one pass, in the order of the images, with the head that explains the logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ood_core.data.decoding import pixel_digest
from ood_core.data.loaders import EvaluationTransform, evaluation_batches, step_seed
from ood_core.data.selection import evaluation_view, to_unit
from ood_core.errors import OODError
from ood_core.interfaces import EvaluationView
from ood_core.pipeline import extract, networks
from ood_core.records.stages import Extraction
from ood_core.run.schedule import run
from ood_core.store.artifacts import load_outputs
from ood_core.store.files import load_array
from ood_core.store.store import Store

from ..conftest import QUIET


@pytest.fixture
def finished(make_plan, tiny, tmp_path):
    """A plan that was run, and its store."""
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    run(plan, store)
    return plan, store


def extractions(plan):
    return [stage for stage in plan.stages if stage.kind == "extract"]


def extracted(store, folder, *stages):
    """Return a store that holds what these stages alone have extracted with the weights of another store."""
    again, weights = Store(folder), stages[0].weights
    (again.root / "train").mkdir(parents=True)
    (again.root / "train" / weights.key).symlink_to(store.folder(weights))
    extract.execute(stages, again, QUIET)
    return again


def test_outputs_are_what_the_network_gives_in_the_order_of_the_images(finished):
    plan, store = finished
    for stage in extractions(plan):
        network = networks.trained(stage.weights, store).eval()
        (batch,) = evaluation_batches(stage.images.opened, EvaluationTransform(image_size=stage.image_size), 1000)
        with torch.inference_mode():
            features = network.forward_features(to_unit(batch.images))
            expected = network.forward_head(features, pre_logits=True)
            logits = network(to_unit(batch.images))
        outputs = load_outputs(Extraction(stage), store)
        torch.testing.assert_close(outputs.embeddings, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(outputs.logits, logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(outputs.labels, stage.images.opened.labels)


def test_the_head_explains_the_logits(finished):
    plan, store = finished
    for stage in extractions(plan):
        outputs = load_outputs(Extraction(stage), store)
        explained = outputs.embeddings @ outputs.head.weight.T + outputs.head.bias
        torch.testing.assert_close(outputs.logits, explained, rtol=1e-4, atol=1e-4)


def test_the_batch_size_does_not_matter(finished, tmp_path, monkeypatch):
    plan, store = finished
    stage = extractions(plan)[0]
    monkeypatch.setattr(extract, "BATCH_SIZE", 7)
    again = extracted(store, tmp_path / "again", stage)
    one, two = (load_outputs(Extraction(stage), place) for place in (store, again))
    torch.testing.assert_close(one.embeddings, two.embeddings, rtol=1e-5, atol=1e-5)
    assert again.facts(stage)["images"] == len(one)


def test_without_a_trained_head_there_are_no_logits(make_plan, tiny, tmp_path):
    mim = "training=[{use: mim, epochs: 1, min_block: 1, tokenizer: {use: kmeans, vocabulary: 8}}]"
    plan, store = make_plan(tiny, mim, "scorers=[mahalanobis]"), Store(tmp_path / "store")
    run(plan, store)
    for stage in extractions(plan):
        outputs = load_outputs(Extraction(stage), store)
        assert outputs.head is None
        assert outputs.logits.shape == (len(outputs), 0)


def embeddings_of(stage, store, images):
    """Return what the stage's network says of images, uint8 [N, 3, S, S]."""
    network = networks.trained(stage.weights, store).eval()
    with torch.inference_mode():
        return network.forward_head(network.forward_features(to_unit(images)), pre_logits=True)


def test_images_are_shown_in_the_view_of_the_stage(finished, tmp_path):
    plan, store = finished
    view = EvaluationView(crop_fraction=0.5, interpolation="bilinear")
    stage = replace(extractions(plan)[0], key="cropped", view=view)
    again = extracted(store, tmp_path / "again", stage)
    opened = stage.images.opened
    shown = torch.stack([evaluation_view(opened.pixels(row), 8, view) for row in range(len(opened))])
    outputs = load_outputs(Extraction(stage), again)
    torch.testing.assert_close(outputs.embeddings, embeddings_of(stage, store, shown), rtol=1e-5, atol=1e-5)
    plain = load_outputs(Extraction(extractions(plan)[0]), store)
    assert not torch.allclose(outputs.embeddings, plain.embeddings, atol=1e-2)


def test_images_can_be_shown_through_an_augmentation_that_the_image_and_the_seed_decide(finished, tmp_path):
    plan, store = finished
    plain = extractions(plan)[0]
    augmented = replace(plain, key="augmented", augmented_by=replace(plain.weights.task, crop_scale=0.3, flip=True))
    again = extracted(store, tmp_path / "again", augmented)
    views, opened = augmented.augmented_by.views(8, None), plain.images.opened
    shown = []
    for row in range(len(opened)):
        torch.manual_seed(step_seed(plain.weights.seed, 0, "views", row))
        shown.append(views(opened.pixels(row))[0])
    outputs = load_outputs(Extraction(augmented), again)
    expected = embeddings_of(augmented, store, torch.stack(shown))
    torch.testing.assert_close(outputs.embeddings, expected, rtol=1e-5, atol=1e-5)


def test_digests_are_those_of_the_pictures_and_every_row_is_there(finished):
    plan, store = finished
    for stage in extractions(plan):
        opened = stage.images.opened
        digests = load_array(store.folder(stage) / extract.DIGESTS)
        assert digests.tolist() == [pixel_digest(opened.pixels(row)) for row in range(len(opened))]
        assert load_array(store.folder(stage) / extract.ROWS).tolist() == list(range(len(opened)))
        assert store.facts(stage)["skipped"] == []


BROKEN = (0, 7, 8, 39)


@pytest.fixture
def broken(make_plan, tiny, tmp_path, monkeypatch):
    """A plan with a probe that was run, its store, and a set of images of which some can no longer be read."""
    plan, store = make_plan(tiny, "scorers=[mahalanobis-layers]"), Store(tmp_path / "store")
    run(plan, store)
    base, probed = (stage for stage in extractions(plan) if str(stage.images) == "unseen")
    opened = base.images.opened
    pixels = opened.pixels

    def some(row):
        if row in BROKEN:
            raise OODError(f"{row}.png: broken picture")
        return pixels(row)

    monkeypatch.setattr(opened, "pixels", some)
    monkeypatch.setattr(opened, "skip_broken", True)
    monkeypatch.setattr(extract, "COPIED_ROWS", 5)
    return store, base, probed


def test_broken_pictures_are_left_out_of_all_arrays(broken, tmp_path, monkeypatch):
    store, base, probed = broken
    monkeypatch.setattr(extract, "BATCH_SIZE", 7)
    again = extracted(store, tmp_path / "again", base, probed)
    good = [row for row in range(40) if row not in BROKEN]
    for stage in (base, probed):
        whole, kept = ({file.name: load_array(file) for file in s.folder(stage).glob("*.npy")} for s in (store, again))
        assert whole.keys() == kept.keys()
        for name, array in whole.items():
            np.testing.assert_allclose(kept[name], array[good], rtol=1e-5, atol=1e-5, err_msg=name)
        facts = again.facts(stage)
        assert facts["images"] == 36
        assert facts["skipped"] == [f"{row}.png: broken picture" for row in BROKEN]
    assert load_array(again.folder(base) / extract.ROWS).tolist() == good


def test_nothing_is_filed_where_every_picture_is_broken(broken, tmp_path, monkeypatch):
    store, base, _ = broken

    def none(row):
        raise OODError(f"{row}.png: broken picture")

    monkeypatch.setattr(base.images.opened, "pixels", none)
    with pytest.raises(OODError, match=r"none of the 40 pictures can be read; the first: 0\.png: broken picture"):
        extracted(store, tmp_path / "again", base)
    assert not Store(tmp_path / "again").folder(base).exists()

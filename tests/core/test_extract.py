"""Extraction: one pass, in the order of the images, with the head that explains the logits."""

import pytest
import torch

from ood_core import extract
from ood_core import network as networks
from ood_core.artifacts import load_outputs
from ood_core.batches import Shown, evaluation_batches
from ood_core.data import to_unit
from ood_core.run import run
from ood_core.stages import Extraction
from ood_core.store import Store


class Quiet:
    def progress(self, done, total):
        pass


@pytest.fixture
def finished(make_plan, tiny, tmp_path):
    """A plan that was run, and its store."""
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    run(plan, store)
    return plan, store


def extractions(plan):
    return [stage for stage in plan.stages if stage.kind == "extract"]


def test_outputs_are_what_the_network_gives_in_the_order_of_the_images(finished):
    plan, store = finished
    for stage in extractions(plan):
        network = networks.trained(stage.weights, store).eval()
        (batch,) = evaluation_batches(stage.images.opened, Shown(image_size=stage.image_size), 1000)
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
    again = Store(tmp_path / "again")
    (again.root / "train").mkdir(parents=True)
    (again.root / "train" / stage.weights.key).symlink_to(store.folder(stage.weights))
    extract.execute([stage], again, Quiet())
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

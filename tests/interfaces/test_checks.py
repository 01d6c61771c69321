"""What networks and probes give is checked where it comes in; extractions and detectors name whose fault it is."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from ood_core.data.loaders import EvaluationTransform, evaluation_batches
from ood_core.data.selection import Selection
from ood_core.detector import Detector, from_module
from ood_core.errors import OODError
from ood_core.interfaces import Backbone, DatasetSource, ImageSet, Network, Probe, Score, Scorer
from ood_core.interfaces.checks import check_images
from ood_core.pipeline import extract, fit, networks, train
from ood_core.records.stages import Extraction
from ood_core.store.artifacts import load_outputs
from ood_core.store.store import Store

from ..conftest import QUIET


class Means(Network):
    """Means of quarters of each channel, bent by a fixed layer, and a linear classifier."""

    num_features = 6

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.pool, self.bend = nn.AdaptiveAvgPool2d(2), nn.Linear(12, self.num_features)
            self.fc: nn.Module = nn.Linear(self.num_features, 3)

    def forward_features(self, images):
        return self.bend(self.pool(images).flatten(1)).relu()

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.fc(features)

    def get_classifier(self):
        return self.fc

    def reset_classifier(self, num_classes):
        self.fc = nn.Linear(self.num_features, num_classes)


@dataclass(frozen=True, kw_only=True)
class Given(Backbone):
    name = "given"
    network: ClassVar[Network]

    def build(self, image_size, classes):
        return self.network


def given(network):
    """Return a backbone that builds this network."""
    return type("Given", (Given,), {"network": network})()


@dataclass(frozen=True, kw_only=True)
class Reading(Probe):
    rule: ClassVar[Any]

    def layers(self, network):
        return ()

    def read(self, network, features, maps):
        return type(self).rule(features)


@pytest.fixture
def extracted(make_plan, tiny, tmp_path):
    """`extracted(network, probe=None)`: the stage and the store, after 40 images passed in batches of 16."""
    base = next(stage for stage in make_plan(tiny).stages if stage.kind == "extract" and str(stage.images) == "unseen")
    store = Store(tmp_path / "store")

    def call(network, probe=None):
        stage = replace(base, key="mine", backbone=given(network), weights=None, probe=probe)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(extract, "BATCH_SIZE", 16)
            extract.execute([stage], store, QUIET)
        return stage, store

    def refused(network, probe=None):
        with pytest.raises(OODError) as caught:
            call(network, probe)
        assert not list(store.root.glob("extract/*"))
        return str(caught.value)

    call.refused = refused
    return call


def changed(**methods):
    """Return a network some of whose methods are others."""
    return type("Changed", (Means,), methods)()


def heads(embeddings=lambda x: x, logits=lambda x: x):
    """Return a network whose embeddings or logits are changed."""

    def forward_head(self, features, pre_logits=False):
        return embeddings(features) if pre_logits else logits(self.fc(features))

    return changed(forward_head=forward_head)


def test_a_network_that_keeps_the_contract_is_extracted_with_its_head(extracted):
    stage, store = extracted(Means())
    outputs = load_outputs(Extraction(stage), store)
    torch.testing.assert_close(outputs.logits, outputs.embeddings @ outputs.head.weight.T + outputs.head.bias)
    assert store.facts(stage)["logits"] is store.facts(stage)["head"] is True


def row(place, value):
    """Return what sets one row of a whole batch."""

    def change(values):
        values = values.clone()
        if len(values) == 16:
            values[place] = value
        return values

    return change


SHAPES = [
    (
        heads(embeddings=lambda x: x[:, :, None, None].expand(-1, -1, 30, 30)),
        "embeddings [16, 6, 30, 30] for 16 images, not [16, 6]; pool them to one vector for each image",
    ),
    (heads(embeddings=lambda x: x[:, :5]), "embeddings [16, 5] for 16 images, not [16, 6]"),
    (heads(embeddings=lambda x: x[:8]), "embeddings [8, 6] for 16 images, not [16, 6]"),
    (heads(embeddings=lambda x: x[:, 0]), "embeddings [16] for 16 images, not [16, 6]"),
    (heads(embeddings=lambda x: (x, x)), "embeddings as a tuple, not as a tensor [16, 6]"),
    (heads(embeddings=lambda x: None), "embeddings as nothing, not as a tensor [16, 6]"),
    (heads(embeddings=lambda x: x.long()), "embeddings in int64, not in float32"),
    (
        heads(embeddings=lambda x: x.bfloat16()),
        "embeddings in bfloat16, not in float32; is something cast in the network, or autocast?",
    ),
    (heads(logits=lambda x: x[:, :, None]), "logits [16, 3, 1] for 16 images, not [16, D]; pool them"),
    (heads(logits=lambda x: [x]), "logits as a list, not as a tensor [16, D]"),
    (heads(logits=lambda x: x.half()), "logits in float16, not in float32"),
    (heads(embeddings=row(5, torch.nan)), "embeddings that are not finite for image 5"),
    (heads(logits=row(7, torch.inf)), "logits that are not finite for image 7"),
]


@pytest.mark.parametrize(("network", "what"), SHAPES, ids=lambda value: value if isinstance(value, str) else "")
def test_outputs_that_are_no_finite_floats_for_each_image_are_the_backbones_fault(extracted, network, what):
    assert extracted.refused(network).startswith(f"backbone 'given' gives {what}")


def test_the_picture_whose_embedding_is_not_finite_is_named_in_a_later_batch(extracted):
    def forward_features(self, images):
        features = Means.forward_features(self, images)
        seen = forward_features.seen = forward_features.seen + (len(images) == 16)
        return row(4, torch.nan)(features) if seen == 2 else features

    forward_features.seen = 0
    message = extracted.refused(changed(forward_features=forward_features))
    assert message == "backbone 'given' gives embeddings that are not finite for image 20"


def test_a_broken_picture_that_is_skipped_may_have_any_outputs(extracted, monkeypatch, tiny):
    def forward_features(self, images):
        features = Means.forward_features(self, images)
        return features / (images.flatten(1).sum(1, keepdim=True) > 0)  # nan or inf where an image is black

    network = changed(forward_features=forward_features)
    stage, _ = extracted(Means())
    opened = stage.images.opened
    pixels = opened.pixels

    def some(place):
        if place in (0, 1, 20):
            raise OODError(f"{place}.png: broken picture")
        return pixels(place)

    monkeypatch.setattr(opened, "pixels", some)
    monkeypatch.setattr(opened, "skip_broken", True)
    store = Store(tiny.parent / "another")
    stage = replace(stage, backbone=given(network))
    extract.execute([stage], store, QUIET)
    outputs = load_outputs(Extraction(stage), store)
    assert len(outputs) == 37
    assert outputs.embeddings.isfinite().all()
    assert outputs.head is not None


# ------------------------------------------------------------------------------------------ outputs of the image alone


class Dropped(Means):
    """Dropout that evaluation does not turn off."""

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.fc(torch.dropout(features, 0.5, train=True))


class Noisy(Means):
    def forward_features(self, images):
        return super().forward_features(images) + 1e-3 * torch.randn(len(images), 6)


class Centred(Means):
    """Normalises by the batch."""

    def forward_features(self, images):
        features = super().forward_features(images)
        return features - features.mean(0)


class Normalised(Means):
    """Batch normalisation that stays in training mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

    def forward_features(self, images):
        return self.norm(super().forward_features(images))


@pytest.mark.parametrize(("network", "what"), [(Dropped, "logits"), (Noisy, "embeddings")])
def test_outputs_that_are_others_when_asked_twice_are_refused(extracted, network, what):
    message = extracted.refused(network())
    assert message.startswith(f"backbone 'given' gives other {what} for the same images when they are passed twice, by")
    assert message.endswith("something in the network is random, such as dropout that is on")


@pytest.mark.parametrize("network", [Centred, Normalised])
def test_outputs_that_depend_on_the_images_beside_are_refused(extracted, network):
    message = extracted.refused(network())
    assert message.startswith("backbone 'given' gives other embeddings for an image where other images are passed with")
    assert message.endswith(
        "something in the network reads the whole batch, such as batch normalisation in training mode"
    )


def test_few_images_are_passed_again(extracted):
    passed = []

    class Counting(Means):
        def forward_features(self, images):
            passed.append(len(images))
            return super().forward_features(images)

    extracted(Counting())
    assert sorted(passed) == [2, 2, 4, 8, 16, 16]


# ---------------------------------------------------------------------------------------------------------- the head


class Cosine(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, embeddings):
        return 10 * nn.functional.normalize(embeddings) @ nn.functional.normalize(self.weight).T


def with_classifier(classifier):
    network = Means()
    network.fc = classifier
    return network


def test_logits_that_the_linear_layer_does_not_make_stay_and_the_head_is_left_out(extracted, caplog):
    stage, store = extracted(heads(logits=lambda x: x / 0.1))
    outputs = load_outputs(Extraction(stage), store)
    assert outputs.logits.shape == (40, 3)
    assert outputs.head is None
    assert store.facts(stage)["logits"] is True
    assert store.facts(stage)["head"] is False
    assert "backbone 'given' gives logits that are not its linear classifier's outputs" in caplog.text


@pytest.mark.parametrize(("outputs", "width"), [(3, 3), (10, 0)])
def test_logits_of_a_cosine_classifier_count_if_there_is_one_for_each_class(extracted, outputs, width):
    stage, store = extracted(with_classifier(Cosine(outputs)))
    found = load_outputs(Extraction(stage), store)
    assert found.logits.shape == (40, width)
    assert found.head is None
    if width:
        torch.testing.assert_close(found.logits, Cosine()(found.embeddings))


@pytest.mark.parametrize("classifier", [nn.Identity(), None])
def test_a_network_without_a_classifier_has_no_logits(extracted, classifier):
    stage, store = extracted(with_classifier(classifier))
    outputs = load_outputs(Extraction(stage), store)
    assert outputs.logits.shape == (40, 0)
    assert outputs.head is None
    assert store.facts(stage)["logits"] is False


def fitted(plugins, name, stage, store, tiny_run):
    """Fit a scorer to what was extracted."""
    base = next(stage for stage in tiny_run.plan.stages if stage.kind == "fit")
    scorer = plugins.get("scorer", name)()
    fit.execute(replace(base, key=name, name=name, scorer=scorer, train=Extraction(stage), held_out=None), store, QUIET)


def test_scorers_of_logits_are_fitted_without_a_head_and_those_of_the_head_say_why_not(extracted, plugins, tiny_run):
    stage, store = extracted(with_classifier(Cosine()))
    fitted(plugins, "energy", stage, store, tiny_run)
    with pytest.raises(OODError) as caught:
        fitted(plugins, "vim", stage, store, tiny_run)
    assert str(caught.value) == (
        "scorer 'vim' needs the linear layer that makes the logits, and the backbone's logits are made otherwise; "
        "scorers of logits or of embeddings alone can be fitted"
    )


def test_without_logits_scorers_of_the_head_say_that_logits_are_missing(extracted, plugins, tiny_run):
    stage, store = extracted(with_classifier(nn.Identity()))
    for name in ("energy", "vim"):
        with pytest.raises(OODError, match=f"scorer '{name}' needs logits, and the backbone has no classifier with 3"):
            fitted(plugins, name, stage, store, tiny_run)


# ------------------------------------------------------------------------------------------------------------ probes


PROBES = [
    (lambda x: {"a": x[:, :, None]}, "reads a [16, 6, 1] for 16 images, not [16, D]; pool them to one vector"),
    (lambda x: {"a": x[1:]}, "reads a [15, 6] for 16 images, not [16, D]"),
    (lambda x: {"a": x.half()}, "reads a in float16, not in float32"),
    (lambda x: {"a": x * torch.nan}, "reads a that are not finite for image 0"),
    (lambda x: {"a": [1.0]}, "reads a as a list, not as a tensor [16, D]"),
    (lambda x: x, "reads a Tensor, not tensors by name"),
    (lambda x: {"a": x[:, : len(x) // 3]}, "reads a [8, 2] for 8 images, not [8, 5]"),
    (lambda x: {"ab"[len(x) == 8]: x}, "reads ['b'] for one batch, and ['a'] for the one before"),
]


@pytest.mark.parametrize(("rule", "what"), PROBES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_probe_reads_is_finite_rows_of_one_width(extracted, rule, what):
    assert extracted.refused(Means(), type("Reading", (Reading,), {"rule": staticmethod(rule)})()).startswith(
        f"probe 'Reading' {what}"
    )


# --------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_compute_in_float32_and_a_line_says_so(extracted, caplog, dtype):
    network = Means().to(dtype)
    expected = Means().to(dtype).float()
    stage, store = extracted(network)
    name = str(dtype).removeprefix("torch.")
    assert f"backbone 'given' has weights in {name}; it computes in float32 with them" in caplog.text
    found = load_outputs(Extraction(stage), store)
    assert torch.equal(found.head.weight, expected.fc.weight)
    assert networks.build(given(Means().to(dtype)), 8, None).bend.weight.dtype == torch.float32


# --------------------------------------------------------------------------------------------------------- detectors


@pytest.fixture(scope="module")
def coloured():
    """Images of three colours, and their labels."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    images = torch.randint(0, 60, (60, 3, 8, 8), dtype=torch.uint8, generator=random)
    images[torch.arange(60), labels] += 150
    return images, labels


BACKBONES = [
    (heads(embeddings=lambda x: x[:, :, None, None]), "module gives embeddings [8, 6, 1, 1] for 8 images, not [8, 6]"),
    (heads(logits=row(3, torch.nan)), "module gives logits that are not finite for image "),
    (Noisy(), "module gives other embeddings for the same images when they are passed twice"),
    (Dropped(), "module gives other logits for the same images when they are passed twice"),
    (Centred(), "module gives other embeddings for an image where other images are passed with it"),
]


@pytest.mark.parametrize(("network", "what"), BACKBONES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_detector_refuses_what_a_run_refuses(coloured, monkeypatch, network, what):
    monkeypatch.setattr(from_module, "BATCH", 16)
    with pytest.raises(OODError, match=re.escape(what)):
        Detector(image_size=8).fit(given(network), coloured, ["mahalanobis"])


def test_a_detector_has_no_head_that_does_not_make_the_logits(coloured):
    network = heads(logits=lambda x: x / 0.1)
    assert Detector(image_size=8).fit(given(Means()), coloured, ["energy"]).state.head is not None
    assert Detector(image_size=8).fit(given(network), coloured, ["energy"]).state.head is None
    with pytest.raises(OODError, match="scorer 'vim' needs the linear layer that makes the logits"):
        Detector(image_size=8).fit(given(network), coloured, ["vim"])


def test_an_image_whose_embedding_is_not_finite_is_the_networks_fault(coloured):
    def forward_features(self, images):
        return Means.forward_features(self, images) / (images.flatten(1).sum(1, keepdim=True) > 0)

    detector = Detector(image_size=8, tpr=0.5).fit(
        given(changed(forward_features=forward_features)), coloured, ["energy"]
    )
    images = torch.stack([coloured[0][0], torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(OODError, match="image 1: the network gave embeddings that are not finite"):
        detector.predict(images)


def test_a_detector_gives_a_scorer_what_it_declares_alone(coloured):
    class Confident(Right):
        needs = frozenset({"embeddings"})

        def fit(self, train):
            return Distance(train.logits.double().mean(0))

    with pytest.raises(OODError, match="scorer 'right' reads 'logits', which its 'needs' does not name"):
        Detector(image_size=8).fit(given(Means()), coloured, [Confident()])
    detector = Detector(image_size=8).fit(given(Means()), coloured, [Right()])
    assert len(detector.score(coloured[0])["right"]) == 60


@pytest.mark.parametrize(("scores", "what"), [([1.0], "a list"), (torch.zeros(32), r"float32 \[32\]")])
def test_a_detector_names_the_scorer_whose_scores_are_none(coloured, scores, what):
    class Wrong(Distance):
        def __call__(self, outputs):
            return scores

    class Wrongly(Right):
        scores = Wrong

        def fit(self, train):
            return Wrong(train.embeddings[0])

    with pytest.raises(OODError, match=f"scorer 'right' gave {what}, not .*float64"):
        Detector(image_size=8).fit(given(Means()), coloured, [Wrongly()])


@dataclass(frozen=True)
class Distance(Score):
    mean: torch.Tensor

    def __call__(self, outputs):
        return (outputs.embeddings.double() - self.mean).norm(dim=1)


@dataclass(frozen=True, kw_only=True)
class Right(Scorer):
    name = "right"
    scores = Distance

    def fit(self, train):
        return Distance(train.embeddings.double().mean(0))


# ------------------------------------------------------------------------------------------- data sources and trainings


class Pictures(ImageSet):
    classes = ("a", "b")
    fingerprint = "pictures"

    def __init__(self, labels=(0, 1), picture=None):
        self.labels = labels
        self.picture = picture

    def image(self, index):
        return self.picture


def source_of(images):
    """Return a data source that opens this."""

    @dataclass(frozen=True, kw_only=True)
    class Source(DatasetSource):
        name = "mine"

        def open(self, split):
            return images

    return Source()


SETS = [
    ([1, 2], " opens a list, not an ImageSet"),
    (None, " opens nothing, not an ImageSet"),
    (Pictures(labels=[0, 1, 2]), ": image 2 has label 2, and there are 2 classes"),
    (Pictures(labels=[0, -1]), ": image 1 has label -1, and there are 2 classes"),
    (Pictures(labels=[0.0, 1.0]), " has labels of type float64 [2], not integers [N]"),
    (Pictures(labels=["a", "b"]), " has labels of type <U1 [2], not integers [N]"),
    (Pictures(labels=[[0], [1]]), " has labels of type int64 [2, 1], not integers [N]"),
]


@pytest.mark.parametrize(("images", "what"), SETS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_data_source_whose_labels_have_no_class_is_named(images, what):
    with pytest.raises(OODError) as caught:
        Selection(name="ours", source=source_of(images)).open("train")
    assert str(caught.value) == f"data source 'mine'{what}"


PICTURED = [
    (np.zeros((8, 8, 3), np.uint8), "is a ndarray, not a Pillow picture"),
    (torch.zeros(3, 8, 8), "is a Tensor, not a Pillow picture"),
    (None, "is nothing, not a Pillow picture"),
    (PIL.Image.new("RGB", (0, 8)), "has no pixels: 0 x 8"),
    (PIL.Image.new("F", (8, 8), 0.5), "has floats, whose range is not known; make it one of 8 bits"),
]


@pytest.mark.parametrize(("picture", "what"), PICTURED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_data_source_that_gives_no_picture_is_named_with_the_image(picture, what):
    opened = Selection(name="ours", source=source_of(Pictures(picture=picture))).open("train")
    with pytest.raises(OODError, match=f"^data source 'mine': image 1 {what}"):
        opened.pixels(1)


LOSSES = [
    (torch.tensor(1.0), "a Tensor, not a dict with the scalar 'loss'"),
    ({"los": torch.tensor(1.0)}, "a dict of ['los'], not a dict with the scalar 'loss'"),
    ({"loss": torch.ones(4, requires_grad=True)}, "'loss' float32 [4], not a scalar; take its mean"),
    ({"loss": 0.5}, "'loss' as a float, not as a tensor"),
    ({"loss": torch.tensor(1.0)}, "a loss without a gradient; no parameter has a part in it"),
    ({"loss": torch.tensor(1.0, requires_grad=True), "right": 1}, "'right' as a int, not as a tensor"),
]


@pytest.mark.parametrize(("metrics", "what"), LOSSES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_task_without_a_scalar_loss_is_named(make_plan, tiny, tmp_path, monkeypatch, metrics, what):
    stage = next(stage for stage in make_plan(tiny).stages if stage.kind == "train")
    store, build = Store(tmp_path / "store"), type(stage.task).build

    def changed(self, network, data):
        task = build(self, network, data)
        task.forward = lambda batch: metrics
        return task

    monkeypatch.setattr(type(stage.task), "build", changed)
    with pytest.raises(OODError) as caught:
        train.execute(stage, store, QUIET)
    assert str(caught.value) == f"the task of 'classification' gives {what}"
    assert not store.folder(stage).exists()


def test_what_a_pretext_builds_instead_of_a_task_is_named(make_plan, tiny, tmp_path, monkeypatch):
    stage = next(stage for stage in make_plan(tiny).stages if stage.kind == "train")
    monkeypatch.setattr(type(stage.task), "build", lambda self, network, data: network)
    with pytest.raises(OODError, match=r"^pretext 'classification' builds a \w+, which is no Task$"):
        train.execute(stage, Store(tmp_path / "store"), QUIET)


VIEWS = [
    (lambda pixels: pixels, "a Tensor for an image, not a tuple of tensors, one for each view"),
    (lambda pixels: (), "a tuple of nothing for an image, not a tuple of tensors"),
    (lambda pixels: (pixels.numpy(),), "a tuple of a ndarray for an image, not a tuple of tensors"),
    (lambda pixels: (pixels[:, : 4 + int(pixels.sum()) % 4],), "uint8 [3, "),
]


@pytest.mark.parametrize(("views", "what"), VIEWS, ids=lambda value: value if isinstance(value, str) else "")
def test_views_that_are_no_tensors_of_one_shape_are_named(make_plan, tiny, tmp_path, monkeypatch, views, what):
    stage = next(stage for stage in make_plan(tiny).stages if stage.kind == "train")
    monkeypatch.setattr(type(stage.task), "views", lambda self, image_size, grid: views)
    with pytest.raises(OODError, match=re.escape(f"the augmentation gives {what}")):
        train.execute(stage, Store(tmp_path / "store"), QUIET)
    with pytest.raises(OODError, match=re.escape(f"the augmentation gives {what}")):
        list(evaluation_batches(stage.images.opened, EvaluationTransform(image_size=8, views=views), 64))


@pytest.mark.parametrize("name", ["a\udcff", 3, b"a"])
def test_a_class_without_a_name_in_utf_8_is_refused(name):
    class Images(ImageSet):
        classes, labels, fingerprint = (name,), [0], "x"

        def image(self, index):
            raise NotImplementedError

    with pytest.raises(OODError, match=r"^data source 'mine' has a class called .*, which is no text in UTF-8$"):
        check_images("mine", Images())

"""What the accuracy on held-out ID images shows: other pixels than in training, classes in another order, chance."""

import io
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from ood_core.detector import Detector, from_run
from ood_core.detector.accuracy import USUAL, explain
from ood_core.detector.state import Normalisation
from ood_core.errors import OODWarning
from ood_core.interfaces import Outputs

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CENTRES = torch.tensor([0.8, 0.6, 0.3]) + 0.015 * torch.arange(4)[:, None] * torch.tensor([1, 0, -1])
"""Colours of four classes."""


class Colours(nn.Module):
    """Knows the classes by their colours, as they are after a normalisation."""

    def __init__(self, normalisation=None, swapped=False):
        super().__init__()
        self.normalisation, self.swapped = normalisation or Normalisation(), swapped

    def forward(self, images):
        mean, std = (torch.tensor(of) for of in (self.normalisation.mean, self.normalisation.std))
        colours = images.flip(1).mean((2, 3)) if self.swapped else images.mean((2, 3))
        return colours, -torch.cdist(colours, (CENTRES - mean) / std)


@pytest.fixture(scope="module")
def colours():
    """200 images near the colours, and their labels."""
    labels = torch.arange(200) % len(CENTRES)
    noise = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    return CENTRES[labels][:, :, None, None] + 0.02 * noise, labels


def fit(module, dataset, **options):
    return Detector(image_size=8, **options).fit(module, dataset, ["energy"])


def test_nothing_is_said_of_a_network_that_recognises_the_held_out_images(colours):
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODWarning)
        detector = fit(Colours(Normalisation(**IMAGENET)), colours, **IMAGENET)
    assert detector.id_accuracy == 1
    assert repr(detector).startswith("Detector('detector', 4 classes, scorers energy, ID accuracy 100.0%; embeddings: ")


@pytest.mark.parametrize(("name", "normalisation", "swapped"), USUAL)
def test_the_normalisation_that_gives_far_more_is_named(colours, name, normalisation, swapped):
    given = {"mean": (0.9, 0.1, 0.5), "std": (0.5, 0.05, 0.3)}  # that of no network
    module = Colours(normalisation or Normalisation(**given), swapped)
    with pytest.warns(
        OODWarning, match=r"^the module classifies .*% of 40 held-out images correctly; 100.0% of 40"
    ) as said:
        fit(module, colours, **given)
    assert f"with {name} (" in str(said[0].message)
    assert said[0].filename == __file__  # points at the line of the user


def test_an_order_of_the_classes_that_fits_far_better_is_named(colours):
    images, labels = colours
    names = ["2", "10", "100", "1000"]
    by_name = [names[label] for label in labels]  # sorted: 10, 100, 1000, 2
    with pytest.warns(
        OODWarning,
        match=r"100.0% if .* are the classes in numerical order: '2', '10', '100', '1000'; pass 'classes'",
    ):
        fit(Colours(), (images, by_name))
    with pytest.warns(
        OODWarning,
        match=r"100.0% if .* are the classes in another order: '3', '0', '1', '2'; pass 'classes' in",
    ):
        fit(Colours(), (images, (labels + 3) % 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODWarning)
        detector = Detector(image_size=8).fit(Colours(), (images, by_name), ["energy"], classes=names)
    assert detector.id_accuracy == 1


def held(logits, labels):
    return Outputs(torch.zeros(len(logits), 2), logits, labels, logits.shape[1])


@pytest.mark.parametrize(
    ("classes", "shown"),
    [(20, "".join(f", '{(place + 1) % 20}'" for place in range(20))), (21, ", '1', '2', '3', '4', '5' and 16 more")],
)
def test_another_order_of_up_to_twenty_classes_is_shown_as_a_whole(classes, shown):
    labels = torch.arange(400) % classes
    logits = nn.functional.one_hot((labels - 1) % classes, classes).float()
    said = explain(nn.Identity(), held(logits, labels), [str(label) for label in range(classes)], None)
    assert f"classes in another order: {shown[2:]}; pass 'classes'" in said


@pytest.mark.parametrize("classes", [2, 3, 30, 300])
def test_no_order_is_found_in_noise_and_its_accuracy_is_near_chance(classes):
    generator = torch.Generator().manual_seed(classes)
    noise = held(torch.rand(400, classes, generator=generator), torch.randint(classes, (400,), generator=generator))
    said = explain(nn.Identity(), noise, [str(label) for label in range(classes)], None)
    assert (
        "; that is near chance: are mean, std, image_size and the order of the classes those of its training?" in said
    )


def test_a_classifier_that_is_wrong_at_times_is_not_near_chance():
    labels = torch.arange(300) % 10
    logits = nn.functional.one_hot(torch.where(torch.arange(300) % 7 < 3, (labels + 1) % 10, labels), 10).float()
    assert explain(nn.Identity(), held(logits, labels), "abcdefghij", None) == ""  # 57 % of ten classes


def test_few_images_do_not_show_that_the_accuracy_is_near_chance():
    labels = torch.arange(60) % 10
    logits = nn.functional.one_hot(torch.where(torch.arange(60) < 3, labels, (labels + 1) % 10), 10).float()
    assert explain(nn.Identity(), held(logits[:6], labels[:6]), "abcdefghij", None) == ""  # 3 of 6
    logits = logits[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert "near chance" in explain(nn.Identity(), held(logits, labels), "abcdefghij", None)


def test_an_accuracy_of_a_seventh_of_ten_classes_is_near_chance_however_many_images():
    labels = torch.arange(2000) % 10
    guesses = torch.randint(10, (2000,), generator=torch.Generator().manual_seed(0))
    logits = nn.functional.one_hot(torch.where(torch.arange(2000) % 25 == 0, labels, guesses), 10).float()
    assert "near chance" in explain(nn.Identity(), held(logits, labels), "abcdefghij", None)


def test_an_accuracy_of_a_fifth_is_far_above_the_chance_of_a_hundred_classes():
    labels = torch.arange(500) % 100
    guesses = torch.randint(100, (500,), generator=torch.Generator().manual_seed(0))
    logits = nn.functional.one_hot(torch.where(torch.arange(500) % 6 == 0, labels, guesses), 100).float()
    assert explain(nn.Identity(), held(logits, labels), [str(label) for label in range(100)], None) == ""


@pytest.mark.parametrize(("classes", "expected"), [(2, 0.75), (1, None)])
def test_a_run_has_an_accuracy_wherever_logits_tell_classes_apart(monkeypatch, classes, expected):
    logits = torch.eye(2)[[0, 1, 0, 1]]
    read = held(logits, torch.tensor([0, 1, 0, 0]))
    assert read.head is None  # as of a classifier that is no linear layer
    monkeypatch.setattr(from_run, "load_outputs", lambda *_: replace(read, classes=classes))
    measure = SimpleNamespace(held_scores=SimpleNamespace(outputs=SimpleNamespace(base=None)))
    assert from_run._id_accuracy(measure, None) == expected


def test_accuracy_is_kept_by_a_saved_detector_and_needs_logits_and_labels(colours, tmp_path):
    images, labels = colours
    detector = fit(Colours(), (images, torch.where(torch.arange(200) % 50 == 0, (labels + 1) % 4, labels)))
    assert 0.9 <= detector.id_accuracy < 1
    detector.save(tmp_path / "saved")
    assert Detector.load(tmp_path / "saved", backbone=Colours()).id_accuracy == detector.id_accuracy
    assert '"id_accuracy": 0.9' in (tmp_path / "saved" / "manifest.json").read_text()
    bare = Detector(image_size=8).fit(Colours(), colours, ["energy"], held_out=images[:80])
    assert bare.id_accuracy is None
    assert Detector(image_size=8).fit(lambda of: of.mean((2, 3)), colours, ["mahalanobis"]).id_accuracy is None


def test_a_run_has_the_accuracy_on_its_held_out_images(tiny_detector):
    assert 0 <= tiny_detector.id_accuracy <= 1
    assert tiny_detector.id_accuracy * 24 == pytest.approx(round(tiny_detector.id_accuracy * 24))  # of so many


@pytest.fixture(scope="module")
def published():
    """A ResNet-20 that leaves normalising to the caller, as it was published, and 400 images with labels."""
    if not DATA.is_dir():
        pytest.skip(f"the CIFAR parquet files and weights are not in {DATA}")
    from pyarrow import parquet
    from safetensors.torch import load_file

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests" / "example_plugin" / "ood-example")
        from ood_example.resnet import ResNet20

    network = ResNet20(10)
    network.load_state_dict(load_file(DATA / "weights" / "resnet20-12fca82f.safetensors"))
    network._mean.zero_(), network._std.fill_(1)
    rows = next(parquet.ParquetFile(DATA / "cifar10" / "test-00000-of-00001.parquet").iter_batches(400)).to_pylist()
    images = np.stack([PIL.Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB") for row in rows])
    return network, (images, [row["label"] for row in rows])


@pytest.mark.parametrize(
    ("given", "least", "most"), [({}, 0.3, 0.5), ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, 0.75, 0.88)]
)
def test_a_published_resnet_with_another_normalisation_is_noticed(published, given, least, most):
    network, dataset = published
    with pytest.warns(OODWarning, match=r"% of 256 of them with mean=\(0\.4.*\) and std=\(0\.2.*\) \("):
        detector = Detector(image_size=32, holdout=0.7, **given).fit(network, dataset, ["energy"])
    assert least < detector.id_accuracy < most


def test_a_published_resnet_with_its_normalisation_is_not_doubted(published):
    network, dataset = published
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODWarning)
        assert Detector(image_size=32, holdout=0.7, **IMAGENET).fit(network, dataset, ["energy"]).id_accuracy > 0.8

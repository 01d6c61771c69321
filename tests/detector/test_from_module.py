"""Detectors of modules of the user's own, without any recipe."""

import inspect
import io
import sys
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ood_core.detector import Detector
from ood_core.detector.labelled_data import read_labelled
from ood_core.errors import OODError, OODWarning
from ood_core.interfaces import EvaluationView
from ood_core.runtime.torchvision_compat import prepare_torchvision

CLASSES = 3


class Body(nn.Module):
    """Mean colours of quarters of the image, bent a little."""

    def __init__(self):
        super().__init__()
        self.pool, self.bend = nn.AdaptiveAvgPool2d(2), nn.Linear(12, 10)

    def forward(self, images):
        return self.bend(self.pool(images).flatten(1)).relu()


class Classifier(nn.Module):
    """Returns the outputs of its last layer, as most do."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = Body(), nn.Linear(10, CLASSES)

    def forward(self, images):
        return self.fc(self.body(images))


class Pair(Classifier):
    def forward(self, images):
        embeddings = self.body(images)
        return embeddings, self.fc(embeddings)


@pytest.fixture(scope="module")
def data():
    """Images of three colours, and their labels."""
    random = np.random.default_rng(0)
    labels = np.arange(180) % CLASSES
    images = random.integers(0, 60, (180, 8, 8, 3), dtype=np.uint8)
    images[np.arange(180), :, :, labels] += 150
    return images, labels


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Classifier()


def knowing():
    """Return a classifier that knows the colours."""
    module = Classifier()
    with torch.no_grad():
        module.body.bend.weight.copy_(torch.cat([torch.eye(3).repeat_interleave(4, 1), torch.zeros(7, 12)]))
        module.body.bend.bias.zero_()
        module.fc.weight.copy_(torch.eye(3, 10))
        module.fc.bias.zero_()
    return module


@pytest.fixture
def far(data):
    return 255 - data[0][:40]


def fitted(module, dataset, scorers=("mahalanobis",), **options):
    given = {name: options.pop(name) for name in ("held_out", "classes") if name in options}
    return Detector(image_size=8, **options).fit(module, dataset, list(scorers), **given)


@pytest.mark.parametrize("make", [Classifier, Pair], ids=["logits", "pair"])
def test_embeddings_are_the_inputs_of_the_last_layer(make, data):
    torch.manual_seed(0)
    module = make()
    detector = fitted(module, data, ["energy", "mahalanobis"])
    images = torch.from_numpy(data[0][:6]).movedim(3, 1).float() / 255
    (_, scored), *_ = detector.stream(images)
    with torch.no_grad():
        assert torch.allclose(scored.embeddings, module.body(images), atol=1e-6)
        assert torch.allclose(detector.state.head.weight, module.fc.weight)
        expected = -module.fc(module.body(images)).double().logsumexp(1)
    assert detector.score(images)["energy"] == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_module_of_embeddings_alone_has_no_logits(data, far):
    torch.manual_seed(0)
    detector = fitted(Body(), data)
    assert detector.predict(far).is_ood.mean() > 0.8
    assert detector.predict(far).predicted is None
    with pytest.raises(OODError, match=r"scorer 'energy' needs logits of the 3 ID classes; the module gives none"):
        fitted(Body(), data, ["energy"])


def test_a_function_will_do(data, far):
    detector = fitted(lambda images: images.mean((2, 3)), data, embeddings=0)
    assert detector.predict(far).is_ood.mean() > 0.9


def test_a_dict_will_do(classifier, data):
    def both(images):
        embeddings = classifier.body(images)
        return {"embeddings": embeddings, "logits": classifier.fc(embeddings)}

    with torch.no_grad():
        detector = fitted(both, data, ["energy", "softmax"])
        assert detector.predict(data[0][:5]).predicted.shape == (5,)
    with pytest.raises(OODError, match="scorer 'vim' needs the linear layer that makes the logits, and the module has"):
        fitted(both, data, ["vim"])


@pytest.mark.parametrize("of", [list, np.array], ids=["list", "array"])
def test_labels_may_be_names(classifier, data, of):
    names = of([("red", "green", "blue")[label] for label in data[1]])
    assert fitted(classifier, (data[0], names)).classes == ("blue", "green", "red")
    assert fitted(classifier, (data[0], names), classes=["red", "green", "blue"]).classes == ("red", "green", "blue")
    with pytest.raises(OODError, match=r"no class 'green'. There is: blue, red"):
        fitted(classifier, (data[0], names), classes=["red", "blue"])


def test_a_model_of_timm_is_asked_by_its_methods(data):
    prepare_torchvision()
    import timm

    torch.manual_seed(0)
    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=CLASSES
    )
    detector = fitted(module, data, ["gradnorm"], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    images = torch.rand(4, 3, 8, 8)
    (_, scored), *_ = detector.stream(images)
    with torch.no_grad():
        expected = module.eval().forward_head(module.forward_features((images - 0.5) / 0.5), pre_logits=True)
    assert torch.allclose(scored.embeddings, expected, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda images, labels: (images, labels),
        lambda images, labels: (torch.from_numpy(images).movedim(3, 1), torch.from_numpy(labels)),
        lambda images, labels: (list(images), labels.tolist()),
        lambda images, labels: TensorDataset(torch.from_numpy(images).movedim(3, 1), torch.from_numpy(labels)),
        lambda images, labels: DataLoader(
            TensorDataset(torch.from_numpy(images).movedim(3, 1), torch.from_numpy(labels)), batch_size=50
        ),
        lambda images, labels: [
            (Image.fromarray(image), int(label)) for image, label in zip(images, labels, strict=True)
        ],
    ],
    ids=["arrays", "tensors", "lists", "dataset", "loader", "pairs"],
)
def test_whatever_holds_images_and_labels_gives_the_same_detector(classifier, data, far, form):
    expected = fitted(classifier, data).score(far)["mahalanobis"]
    assert fitted(classifier, form(*data)).score(far)["mahalanobis"] == pytest.approx(expected, rel=1e-4)


def test_a_folder_of_folders_names_the_classes(classifier, data, tmp_path):
    for row, (image, label) in enumerate(zip(*data, strict=True)):
        folder = tmp_path / ("red", "green", "blue")[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{row:03}.png")
    detector = fitted(classifier, tmp_path)
    assert detector.classes == ("blue", "green", "red")


def coloured(root, data, names=("red", "green", "blue")):
    """Write each image into the folder of its class."""
    for row, (image, label) in enumerate(zip(*data, strict=True)):
        (root / names[label]).mkdir(exist_ok=True, parents=True)
        Image.fromarray(image).save(root / names[label] / f"{row:03}.png")
    return root


def test_a_folder_may_name_the_classes_in_another_order(classifier, data, far, tmp_path):
    folder, names = coloured(tmp_path, data), ("red", "green", "blue")
    detector = fitted(classifier, folder, classes=names)
    assert detector.classes == names
    (tmp_path / "black").mkdir()
    (tmp_path / "black" / "1.png").write_bytes((folder / "red" / "000.png").read_bytes())
    with pytest.raises(OODError, match="no class 'black'"):
        fitted(classifier, folder, classes=names)


def test_held_out_folders_have_the_labels_of_the_training_folders(data, tmp_path):
    images, labels = data
    train = read_labelled(coloured(tmp_path / "a", data))
    held = read_labelled(coloured(tmp_path / "b", (images[labels == 0], labels[labels == 0])), train.classes)
    assert train.classes == held.classes == ("blue", "green", "red")
    assert set(held.labels.tolist()) == {2}


def test_hidden_folders_are_no_classes_and_a_warning_counts_what_is_passed_over(data, tmp_path):
    coloured(tmp_path, data)
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    (tmp_path / "red" / "photo.heic").touch()
    with pytest.warns(
        OODWarning, match=r"passed over: 2 hidden folders, 1 file of other formats \(1 \.heic\)$"
    ) as seen:
        found = read_labelled(tmp_path)
    assert seen[0].filename == __file__  # points at the line of the user
    assert (found.classes, len(found), len(seen)) == (("blue", "green", "red"), len(data[1]), 1)


def test_an_empty_class_folder_keeps_its_label_and_is_warned_of(data, tmp_path):
    coloured(tmp_path, data)
    (tmp_path / "cyan").mkdir()
    with pytest.warns(OODWarning, match="no picture of the class 'cyan'$") as seen:
        found = read_labelled(tmp_path)
    assert seen[0].filename == __file__  # points at the line of the user
    assert found.classes == ("blue", "cyan", "green", "red")
    assert set(found.labels.tolist()) == {0, 2, 3}
    (tmp_path / "black").mkdir()
    with pytest.warns(OODWarning, match="no picture of 2 classes, such as 'black'$"):
        read_labelled(tmp_path)


def test_splits_are_no_classes(data, tmp_path):
    coloured(tmp_path / "train", data)
    coloured(tmp_path / "test", data)
    with pytest.raises(OODError, match=r"holds train and test, which are splits and no classes; .* such as .*/train$"):
        read_labelled(tmp_path)
    with pytest.raises(
        OODError, match=r"'id' in it is no class but a data set with the splits train and test; say .*/id$"
    ):
        (tmp_path / "data").mkdir()
        (tmp_path / "train").rename(tmp_path / "data" / "train")
        (tmp_path / "test").rename(tmp_path / "data" / "test")
        (tmp_path / "data").rename(tmp_path / "id")
        read_labelled(tmp_path)


def test_held_out_images_calibrate_and_are_not_fitted_to(classifier, data, far):
    images, labels = data
    detector = fitted(classifier, (images[:120], labels[:120]), held_out=(images[120:], labels[120:]))
    calibration = detector.state.scorers[0].calibration
    assert calibration.scores == pytest.approx(np.sort(detector.score(images[120:])["mahalanobis"]), rel=1e-4)
    assert detector.state.independent


def test_a_share_of_each_class_calibrates_unless_others_are_given(classifier, data):
    detector = fitted(classifier, data, holdout=0.3)
    assert len(detector.state.scorers[0].calibration) == 54  # 18 of the 60 of each class


def test_each_predicted_class_may_have_its_threshold(data, far):
    detector = fitted(knowing(), data, per_class=True, holdout=0.4)
    found = detector.predict(data[0])
    assert (found.predicted == data[1]).all()
    assert len(set(found.threshold)) == CLASSES
    assert found.is_ood.tolist() == (found.score > found.threshold).tolist()


def test_what_happens_to_the_module_afterwards_is_not_seen(classifier, data, far):
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    detector = fitted(classifier, data)
    expected = detector.score(far)["mahalanobis"].tolist()
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert classifier.training and all(parameter.requires_grad for parameter in classifier.parameters())
    with torch.no_grad():
        classifier.body.bend.weight.zero_()
    assert detector.score(far)["mahalanobis"].tolist() == expected


def test_a_saved_detector_takes_a_module_of_the_same_architecture(classifier, data, far, tmp_path):
    detector = fitted(classifier, data, ["mahalanobis", "energy"], name="colours")
    detector.save(tmp_path / "colours")
    torch.manual_seed(5)
    again = Detector.load(tmp_path / "colours", backbone=Classifier())
    for name in ("mahalanobis", "energy"):
        assert again.score(far)[name].tolist() == detector.score(far)[name].tolist()
    with pytest.raises(OODError, match=r"was fitted to a module of your own, which is not part of it"):
        Detector.load(tmp_path / "colours")
    with pytest.raises(OODError, match=r"colours: the module is of another architecture: .*fc"):
        Detector.load(tmp_path / "colours", backbone=Body())


def test_a_function_that_does_something_else_is_noticed(data, tmp_path):
    fitted(lambda images: images.mean((2, 3)), data, embeddings=0).save(tmp_path / "means")
    Detector.load(tmp_path / "means", backbone=lambda images: images.mean((2, 3)))
    with pytest.raises(OODError, match=r"the network gives embeddings .* off those it had when saved"):
        Detector.load(tmp_path / "means", backbone=lambda images: images.amax((2, 3)))


def test_scorers_that_ask_the_network_and_its_layers_work_as_well(classifier, data, far):
    detector = fitted(classifier, data, ["odin", {"use": "react", "score": "energy", "name": "clipped"}])
    assert detector.scorers == ("odin", "clipped")
    expected = detector.score(far)
    assert {name: found[::-1].tolist() for name, found in detector.score(far[::-1], batch_size=7).items()} == {
        name: found.tolist() for name, found in expected.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorers": ["mahalanobs"]}, "scorers: no scorer 'mahalanobs'. Did you mean 'mahalanobis'?"),
        ({"scorers": [{"use": "knn", "j": 1}]}, "no option of scorer 'knn': 'j'"),
        ({"scorers": ["energy", "energy"]}, "two scorers are called 'energy'; tell them apart by 'name'"),
        ({"scorers": []}, "name at least one scorer"),
        ({"dataset": ([], [])}, "there are no images to fit to"),
        ({"classes": ["a", "b"]}, "labels reach from 0 to 2, and there are 2 classes"),
        ({"holdout": 0.0}, "a holdout of 0 of 180 images leaves none to fit to, or none to calibrate by"),
        ({"holdout": "a"}, "holdout must lie between 0 and 1, not 'a'"),
        ({"tpr": float("nan")}, "tpr must lie between 0 and 1, not nan"),
        ({"mean": (0, 0)}, "mean and std are three numbers each"),
        ({"interpolation": "nearest"}, "interpolation must be 'bilinear' or 'bicubic', not 'nearest'"),
        ({"crop_fraction": 0}, "crop_fraction must be above 0 and at most 1, not 0"),
        ({"crop_fraction": 1.5}, "crop_fraction must be above 0 and at most 1, not 1.5"),
        ({"crop_fraction": "0.5"}, "crop_fraction must be above 0 and at most 1, not '0.5'"),
        ({"squash": "yes"}, "squash must be True or False, not 'yes'"),
    ],
)
def test_mistakes_are_told(classifier, data, change, message):
    options = {"dataset": data} | change
    with pytest.raises(OODError, match=message):
        fitted(classifier, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda labels: labels * 10**9, "labels reach up to 2000000000 for 180 images; number the classes from 0"),
        (lambda labels: labels - 1, "labels reach from -1 to 1, and there are 2 classes"),
        (lambda labels: labels / 2, r"a whole number or a name for each image, not float64 \[180\]"),
        (lambda labels: np.full((180, 3), 1 / 3), r"a whole number or a name for each image, not float64 \[180, 3\]"),
        (
            lambda labels: labels + 1,
            r"labels reach from 1 to 3: number the classes from 0 \(labels - 1\), or name all of",
        ),
        (lambda labels: [None, *labels[1:]], "image 0 has no label but None"),
        (lambda labels: np.where(labels == 0, np.nan, labels), "a whole number or a name for each image, not float64"),
        (lambda labels: ["red", *labels[1:].tolist()], "labels are numbers or names, not both: there are int, str"),
        (lambda labels: labels * 0 - 1, "labels reach from -1 to -1, .*; data sets without labels have -1"),
        (lambda labels: labels[:9], "there are 180 images and 9 labels"),
    ],
)
def test_labels_that_cannot_be_meant_are_told(classifier, data, labels, message):
    with pytest.raises(OODError, match=message):
        fitted(classifier, (data[0], labels(data[1])))


@pytest.mark.parametrize("module", [object(), None, "resnet18"])
def test_what_cannot_be_called_is_no_backbone(data, module):
    with pytest.raises(OODError, match=f"a {type(module).__name__} is no backbone; give a torch module"):
        fitted(module, data)


@pytest.mark.parametrize("size", [0, -3, 8.5, "8"])
def test_the_image_size_is_a_number_of_pixels(size):
    with pytest.raises(OODError, match="image_size must be a whole number of pixels, not "):
        Detector(image_size=size)


def test_what_holds_no_images_is_told(classifier):
    with pytest.raises(OODError, match="a NoneType holds no images to fit to"):
        fitted(classifier, None)


def test_the_image_size_must_be_said(classifier, data):
    with pytest.raises(OODError, match=r"say which image_size the module wants"):
        Detector().fit(classifier, data, "energy")


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_passes_over_the_images_have_a_bar_on_a_terminal_or_if_asked(data, monkeypatch, terminal, progress, shown):
    text = io.StringIO()
    text.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", text)
    Detector(image_size=8).fit(Classifier(), data, "energy", progress=progress)
    for words in ("computing outputs", "100%", "scoring"):
        assert (words in text.getvalue()) == shown, words


def test_a_module_that_gives_maps_is_refused(data):
    with pytest.raises(OODError, match=r"the module returns \[8, 3, 8, 8\]: neither embeddings \[N, D\] nor logits"):
        fitted(nn.Identity(), data)


OTHERS = {
    "image_size": 10,
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "embeddings": 0,
    "logits": 0,
    "crop_fraction": 0.8,
    "interpolation": "bilinear",
    "squash": True,
    "holdout": 0.31,
    "tpr": 0.9,
    "per_class": True,
    "examples": False,
    "seed": 3,
    "name": "other",
}
"""Another value of each option than the default."""


def test_every_option_of_a_detector_has_another_value_here():
    assert OTHERS.keys() == inspect.signature(Detector).parameters.keys()
    assert {field.name for field in fields(EvaluationView)} <= OTHERS.keys()  # all of a recipe's `evaluation`


@pytest.mark.parametrize("option", OTHERS)
def test_a_loaded_detector_has_the_options_it_was_fitted_with(data, tmp_path, option):
    module = knowing()
    changed = {option: OTHERS[option]} | ({"tpr": 0.5} if option == "per_class" else {})
    before = Detector(**{"image_size": 8} | changed)
    before.fit(module, data, ["mahalanobis"]).save(tmp_path / "saved")
    again = Detector.load(tmp_path / "saved", backbone=module)
    assert getattr(again, option) == OTHERS[option]
    kept = OTHERS.keys() - {"embeddings", "logits"}  # these two name what was found, where nothing was named
    assert {name: getattr(again, name) for name in kept} == {name: getattr(before, name) for name in kept}
    again.fit(module, data, ["mahalanobis"])
    assert again.score(data[0])["mahalanobis"].tolist() == before.score(data[0])["mahalanobis"].tolist()


def test_a_loaded_detector_of_a_run_keeps_its_holdout(tiny_detector):
    assert tiny_detector.holdout == 0.2
    assert (tiny_detector.mean, tiny_detector.std) == ((0, 0, 0), (1, 1, 1))  # its backbone has its own


def test_edges_of_wide_images_are_seen_where_both_sides_are_resized(data):
    random = np.random.default_rng(0)
    wide = random.integers(100, 140, (120, 8, 32, 3), dtype=np.uint8)
    damaged = wide.copy()
    damaged[:, :, 28:] = 255

    def mean(images):
        return images.mean((2, 3))

    with pytest.warns(OODWarning, match=r"^the central square leaves out 75% of the area of the images, which are not"):
        cropped = fitted(mean, wide)
    assert cropped.score(damaged)["mahalanobis"].tolist() == cropped.score(wide)["mahalanobis"].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODWarning)
        whole = fitted(mean, wide, squash=True)
    assert whole.predict(damaged).is_ood.all()


def test_a_scorer_that_takes_much_memory_is_said_before_the_fit(data, monkeypatch):
    monkeypatch.setattr("ood_core.runtime.memory.available", lambda: 0.001)  # MiB
    with pytest.warns(
        OODWarning, match=r"^scorer 'mahalanobis-class' takes at least 0.0 GiB of memory, 0.0 GiB are fr"
    ):
        fitted(knowing(), data, ["mahalanobis-class"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODWarning)
        fitted(knowing(), data, ["mahalanobis"])


def test_calibration_images_that_are_too_few_for_the_rate_are_said_before_the_fit(data):
    with pytest.warns(
        OODWarning,
        match=r"^9 calibration images can vouch for a TPR of 0.9 at most, not 0.95, which needs 19: hold out",
    ):
        fitted(knowing(), data, ["mahalanobis"], holdout=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODWarning)
        fitted(knowing(), data, ["mahalanobis"], holdout=0.05, tpr=0.9)


class Counted(torch.utils.data.Dataset):
    """A data set that counts how often it is asked, and remembers nothing."""

    def __init__(self, images, labels, told):
        self.images, self.labels, self.asked = images, labels, 0
        if told:
            self.targets = labels.tolist()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        self.asked += 1
        return Image.fromarray(self.images[row]), int(self.labels[row])


@pytest.mark.parametrize("told", [False, True])
def test_a_data_set_is_read_image_by_image(data, far, told):
    dataset = Counted(*data, told)
    detector = fitted(knowing(), dataset)
    expected = fitted(knowing(), data).score(far)["mahalanobis"]
    assert detector.score(far)["mahalanobis"] == pytest.approx(expected, rel=1e-4)
    # to be scored, for the examples, for labels if need be, and otherwise to see that two of them are those it yields
    assert dataset.asked <= (2 * 180 + 2 if told else 3 * 180) + 8


def test_examples_are_left_out_where_nobody_may_see_them(classifier, data, tmp_path):
    fitted(classifier, data, examples=False).save(tmp_path / "bare")
    assert not (tmp_path / "bare" / "examples.safetensors").exists()
    assert Detector.load(tmp_path / "bare", backbone=classifier).state.examples is None

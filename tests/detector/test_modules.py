"""Modules of the user's own: where their embeddings and logits are read, and what is said of those that have none."""

import copy
import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ood_core.detector import Detector
from ood_core.errors import OODError
from ood_core.runtime.torchvision_compat import prepare_torchvision

CLASSES, WIDTH = 3, 10
FIT = ["energy", "mahalanobis"]


class Net(nn.Module):
    """A classifier whose `finish` says what it returns of pooled features and the outputs of its last layer."""

    def __init__(self, finish=lambda features, logits: logits, outputs=CLASSES, head=None):
        super().__init__()
        torch.manual_seed(0)
        self.pool, self.bend, self.relu = nn.AdaptiveAvgPool2d(2), nn.Linear(12, WIDTH), nn.ReLU()
        self.fc = head or nn.Linear(WIDTH, outputs)
        self.finish = finish

    def features(self, images):
        return self.relu(self.bend(self.pool(images).flatten(1)))

    def forward(self, images):
        features = self.features(images)
        return self.finish(features, self.fc(features))


class Cosine(nn.Module):
    """A head that is not linear."""

    def __init__(self, outputs=CLASSES):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, WIDTH))

    def forward(self, rows):
        return 10 * functional.normalize(rows) @ functional.normalize(self.weight).t()


@dataclass
class Output:
    logits: torch.Tensor
    hidden_states: tuple = ()
    loss: None = None


Named = namedtuple("Named", "scores features")


@pytest.fixture(scope="module")
def data():
    """Images of three colours, and their labels."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % CLASSES
    images = random.integers(0, 60, (120, 8, 8, 3), dtype=np.uint8)
    images[np.arange(120), :, :, labels] += 150
    return images, labels


@pytest.fixture(scope="module")
def expected(data):
    """The scores of the plainly written classifier."""
    return fitted(Net(), data).score(data[0][:20])


def fitted(module, data, scorers=FIT, **options):
    return Detector(image_size=8, **options).fit(module, data, list(scorers))


def widths(detector):
    network = detector.state.network
    return network.num_features, network.outputs


# --------------------------------------------------------------------------------------------- what a module returns


@pytest.mark.parametrize("name", ["ViT", "ResNet"])
def test_models_of_hugging_face_are_read(data, name):
    prepare_torchvision()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    options = size | {"num_hidden_layers": 1} if name == "ViT" else {"hidden_sizes": [8, 16], "depths": [1, 1]}
    config = getattr(transformers, f"{name}Config")(**options, num_labels=CLASSES)
    torch.manual_seed(0)
    read = repr(fitted(transformers.AutoModelForImageClassification.from_config(config), data, ["energy", "knn"]))
    layer = "classifier" if name == "ViT" else "classifier.1"
    assert f"; embeddings: input of '{layer}' [16]; logits: returned value 'logits' [3]" in read
    read = repr(fitted(transformers.AutoModel.from_config(config), data, ["knn"]))
    assert read.endswith("; embeddings: returned value 'pooler_output' [16]; logits: none)")


@pytest.mark.parametrize(
    ("finish", "read"),
    [
        (lambda f, z: z, "input of 'fc' [10]; logits: returned value 0 [3] (output of 'fc')"),
        (lambda f, z: (f, z), "returned value 0 [10]; logits: returned value 1 [3] (output of 'fc')"),
        (lambda f, z: (z, f), "returned value 1 [10]; logits: returned value 0 [3] (output of 'fc')"),
        (lambda f, z: [z, f, z.argmax(1)], "returned value 1 [10]; logits: returned value 0 [3] (output of 'fc')"),
        (lambda f, z: (z, f[:, :, None, None]), "returned value 1 [10]; logits: returned value 0 [3] (output of 'fc')"),
        (lambda f, z: (z, f.view(-1, 2, 5)), "input of 'fc' [10]; logits: returned value 0 [3] (output of 'fc')"),
        (
            lambda f, z: {"logits": z, "embeddings": f},
            "returned value 'embeddings' [10]; logits: returned value 'logits' [3] (output of 'fc')",
        ),
        (
            lambda f, z: OrderedDict(loss=None, logits=z),
            "input of 'fc' [10]; logits: returned value 'logits' [3] (output of 'fc')",
        ),
        (lambda f, z: Output(z, (f, f)), "input of 'fc' [10]; logits: returned value 'logits' [3] (output of 'fc')"),
        (
            lambda f, z: Named(z, f),
            "returned value 'features' [10]; logits: returned value 'scores' [3] (output of 'fc')",
        ),
        (lambda f, z: SimpleNamespace(y=z), "input of 'fc' [10]; logits: returned value 'y' [3] (output of 'fc')"),
        (
            lambda f, z: {"out": z, "pooler_output": f},
            "returned value 'pooler_output' [10]; logits: returned value 'out' [3] (output of 'fc')",
        ),
        (lambda f, z: z.softmax(1), "input of 'fc' [10]; logits: output of 'fc' [3] (before the softmax)"),
        (lambda f, z: z.log_softmax(1), "input of 'fc' [10]; logits: output of 'fc' [3] (before the log-softmax)"),
        (lambda f, z: z.sigmoid(), "input of 'fc' [10]; logits: output of 'fc' [3] (before the sigmoid)"),
        (lambda f, z: (z.softmax(1), f), "returned value 1 [10]; logits: output of 'fc' [3] (before the softmax)"),
    ],
)
def test_embeddings_and_logits_are_found_whatever_the_form(data, expected, tmp_path, finish, read):
    module = Net(finish)
    detector = fitted(module, data)
    assert repr(detector).endswith(f"; embeddings: {read})")
    found = detector.score(data[0][:20])
    for name in FIT:
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    detector.save(tmp_path / "own")
    again = Detector.load(tmp_path / "own", backbone=Net(finish))
    assert repr(again) == repr(detector)
    assert {name: of.tolist() for name, of in again.score(data[0][:20]).items()} == {
        name: of.tolist() for name, of in found.items()
    }


def test_a_layer_that_works_in_place_does_not_pass_for_the_logits(data):
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, WIDTH), nn.ReLU(inplace=True))
    detector = fitted(module, data, ["mahalanobis"])
    assert repr(detector).endswith("embeddings: returned value 0 [10]; logits: none)")


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        (lambda f, z: z / 2.5, "input of 'fc' [10]; logits: returned value 0 [3] (0.4 times the output of 'fc')"),
        (
            lambda f, z: (f, z / 2.5),
            "returned value 0 [10]; logits: returned value 1 [3] (0.4 times the output of 'fc')",
        ),
    ],
)
def test_a_temperature_is_kept_and_said(data, finish, expected):
    detector = fitted(Net(finish), data)
    assert repr(detector).endswith(f"embeddings: {expected})")
    with torch.no_grad():
        images = torch.from_numpy(data[0][:9]).movedim(3, 1) / 255
        energies = -(Net()(images) / 2.5).double().logsumexp(1)
    assert detector.score(data[0][:9])["energy"] == pytest.approx(energies.numpy(), abs=1e-5)
    with pytest.raises(OODError, match=r"'vim' needs the linear layer that makes the logits, .*0.4 times the output"):
        fitted(Net(finish), data, ["vim"])
    assert fitted(Net(finish), data, ["vim"], logits="fc").state.head is not None


@pytest.mark.parametrize("outputs", [CLASSES, 20])
def test_the_inputs_of_a_cosine_head_are_the_embeddings(data, outputs):
    detector = fitted(Net(head=Cosine(outputs)), data, ["mahalanobis"])
    assert repr(detector).endswith(f"embeddings: input of 'fc' [10]; logits: returned value 0 [{outputs}])")


def test_a_head_of_a_convolution_is_linear_where_maps_are_averaged(data):
    class Convolutional(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, CLASSES, 1)

        def forward(self, images):
            return self.head(self.body(images).relu()).mean((2, 3))

    torch.manual_seed(0)
    module = Convolutional()
    detector = fitted(module, data, [*FIT, "vim"])
    assert repr(detector).endswith(
        "embeddings: input of 'head', mean over positions [10]; logits: returned value 0 [3] (output of 'head'))"
    )
    with torch.no_grad():
        energies = -module(torch.from_numpy(data[0][:9]).movedim(3, 1) / 255).double().logsumexp(1)
    assert detector.score(data[0][:9])["energy"] == pytest.approx(energies.numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda f, z: z.relu(), r"the module returns \[8, 3\]: .* taken for class outputs, and no layer is seen"),
        (
            lambda f, z: f @ f.t() @ z,
            r"Detector\(embeddings=0\); for .* takes them for both; otherwise name .* that give \[N, D\]: 'bend', 'r",
        ),
        (lambda f, z: f.softmax(1), r"the module returns \[8, 10\]: .* or probabilities: taken for class outputs"),
        (lambda f, z: (f[:, :3].sin(), f[:, 3:6].sin()), r"choose: Detector\(logits=0 or logits=1\)"),
        (
            lambda f, z: {"a": z.sin(), "b": f, "c": f + 1},
            r"any of 'b', 'c' may be the embeddings; name what has the emb",
        ),
        (lambda f, z: (f.sin(), f.cos()), r"any of 0, 1 may be the embeddings; .*Detector\(embeddings=\.\.\.\)"),
        (
            lambda f, z: {"last_hidden_state": f[:, None]},
            r"'last_hidden_state' \[8, 1, 10\]: neither embeddings \[N, D\]",
        ),
        (lambda f, z: z.argmax(1), r"the module returns \[8\]: neither embeddings"),
        (lambda f, z: z[:1].abs(), r"the module returns \[1, 3\]: neither embeddings"),
        (
            lambda f, z: z.to_sparse(),
            r"the module returns a sparse_coo tensor, which \.to_dense\(\) makes dense: neither",
        ),
        (lambda f, z: torch.nested.nested_tensor(list(z)), r"the module returns a nested tensor: neither"),
        (lambda f, z: None, "the module returns a NoneType, which holds no tensors"),
        (lambda f, z: "cat", "the module returns a str, which holds no tensors"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused_with_the_option(data, finish, message):
    with pytest.raises(OODError, match=message):
        fitted(Net(finish), data, ["mahalanobis"])


def test_several_heads_are_told_apart_by_the_number_of_classes_or_by_name(data):
    class Heads(Net):
        def __init__(self, other):
            super().__init__()
            self.other = nn.Linear(WIDTH, other)

        def forward(self, images):
            features = self.features(images)
            return {"species": self.fc(features), "genus": self.other(features)}

    assert repr(fitted(Heads(5), data)).endswith(
        "embeddings: input of 'fc' [10]; logits: returned value 'species' [3] (output of 'fc'))"
    )
    with pytest.raises(
        OODError, match=r"several may be outputs for 3 ID classes; choose: Detector\(logits='species' or"
    ):
        fitted(Heads(3), data)
    read = repr(fitted(Heads(3), data, logits="genus"))
    assert read.endswith("embeddings: input of 'other' [10]; logits: returned value 'genus' [3] (output of 'other'))")


def test_a_function_that_returns_a_tuple_is_read_by_the_number_of_classes(data):
    module = Net()

    def pair(images):
        features = module.features(images)
        return module.fc(features), features

    assert repr(fitted(pair, data)).endswith("embeddings: returned value 1 [10]; logits: returned value 0 [3])")


# -------------------------------------------------------------------------------------------- what the user names


def test_one_value_that_is_named_for_both_is_both(data, tmp_path):
    module = Net()
    with pytest.raises(
        OODError, match=r"logits alone, Detector\(embeddings=0, logits=0\) takes them for both; otherwise"
    ):
        fitted(lambda images: module(images), data, ["energy"])
    detector = fitted(lambda images: module(images), data, ["energy"], embeddings=0, logits=0)
    assert repr(detector).endswith("embeddings: returned value 0 [3]; logits: returned value 0 [3])")
    with torch.no_grad():
        energies = -module(torch.from_numpy(data[0][:9]).movedim(3, 1) / 255).double().logsumexp(1)
    assert detector.score(data[0][:9])["energy"] == pytest.approx(energies.numpy(), abs=1e-5)
    detector = fitted(Net(), data, ["energy"], embeddings="fc", logits=0)
    detector.save(tmp_path / "own")
    again = Detector.load(tmp_path / "own", backbone=Net())
    assert again.score(data[0][:9])["energy"] == pytest.approx(energies.numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("finish", "options", "read"),
    [
        (lambda f, z: z.relu(), {"embeddings": "relu"}, "output of 'relu' [10]; logits: returned value 0 [3]"),
        (
            lambda f, z: z.relu(),
            {"embeddings": "pool"},
            "output of 'pool', mean over positions [3]; logits: returned value 0",
        ),
        (
            lambda f, z: z,
            {"embeddings": "bend"},
            "output of 'bend' [10]; logits: returned value 0 [3] (output of 'fc')",
        ),
        (lambda f, z: z, {"logits": False}, "input of 'fc' [10]; logits: none"),
        (lambda f, z: (f[:, :3].sin(), z), {}, "returned value 0 [3]; logits: returned value 1 [3] (output of 'fc')"),
        (lambda f, z: z, {"embeddings": 0}, "returned value 0 [3]; logits: none"),
        (
            lambda f, z: (f.sin(), f),
            {"embeddings": 1, "logits": 0},
            "returned value 1 [10]; logits: returned value 0 [10]",
        ),
        (
            lambda f, z: {"a": f, "b": z},
            {"embeddings": "a"},
            "returned value 'a' [10]; logits: returned value 'b' [3] (output of 'fc')",
        ),
    ],
)
def test_the_user_names_what_is_meant(data, tmp_path, finish, options, read):
    detector = fitted(Net(finish), data, ["mahalanobis"], **options)
    assert f"; embeddings: {read}" in repr(detector)
    detector.save(tmp_path / "own")
    again = Detector.load(tmp_path / "own", backbone=Net(finish))
    assert again.score(data[0][:9])["mahalanobis"].tolist() == detector.score(data[0][:9])["mahalanobis"].tolist()
    assert repr(again.fit(Net(finish), data, ["mahalanobis"])) == repr(detector)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"embeddings": "rel"},
            r"embeddings='rel': the module returns \[8, 3\], and has no layer of this name. Did you",
        ),
        ({"logits": "zzzzz"}, r"and has no layer of this name. name what has|and has no layer of this name"),
        ({"embeddings": 4}, r"embeddings=4: the module returns \[8, 3\], and has no layer"),
        ({"embeddings": True}, "embeddings names a layer, or a key or position of what is returned; not True"),
        ({"logits": 1.5}, "logits names a layer, or a key or position of what is returned; not 1.5"),
        ({"logits": "pool"}, r"logits='pool': that is a map, no logits \[N, C\]"),
    ],
)
def test_names_that_are_not_there_are_told_with_the_nearest(data, options, message):
    with pytest.raises(OODError, match=message):
        fitted(Net(), data, **options)


def test_a_sparse_value_beside_others_is_passed_over(data):
    module = Net(lambda features, logits: (logits, features.to_sparse()))
    detector = fitted(module, data)
    assert repr(detector).endswith("embeddings: input of 'fc' [10]; logits: returned value 0 [3] (output of 'fc'))")
    with pytest.raises(OODError, match=r"embeddings=1: a sparse_coo tensor, .* is neither \[N, D\] nor a map"):
        fitted(module, data, embeddings=1)


def test_columns_that_a_module_selects_are_its_logits(data):
    detector = fitted(Net(lambda features, logits: logits[:, [0, 2, 5]], outputs=8), data)
    assert repr(detector).endswith(
        "embeddings: input of 'fc' [10]; logits: returned value 0 [3] (columns of the output of 'fc'))"
    )


@pytest.mark.parametrize(
    ("mean", "message"), [(0.5, "sequences of numbers, not 0.5"), ((0, 0), "three numbers each, or")]
)
def test_mean_and_std_are_of_three_channels_or_one(data, mean, message):
    with pytest.raises(OODError, match=message):
        fitted(Net(), data, mean=mean)


def test_tokens_are_no_embeddings(data):
    class Tokens(Net):
        def forward(self, images):
            self.norm(self.pool(images).flatten(2))
            return super().forward(images)

    module = Tokens()
    module.norm = nn.LayerNorm(4)
    with pytest.raises(
        OODError, match=r"embeddings='norm': \[8, 3, 4\] is neither \[N, D\] nor a map .* the first token"
    ):
        fitted(module, data, embeddings="norm")


def test_a_backbone_of_a_plugin_has_its_own(data, plugins):
    backbone = plugins.get("backbone", "timm")(model="resnet18")
    with pytest.raises(OODError, match="backbone 'timm' has its own embeddings and logits; leave these options out"):
        fitted(backbone, data, embeddings="layer4")


# ------------------------------------------------------------------------------------------------- number of classes


def test_more_outputs_than_classes_leave_the_embeddings_and_are_refused_where_logits_are_needed(data):
    assert widths(fitted(Net(outputs=1000), data, ["mahalanobis", "knn"])) == (WIDTH, 1000)
    with pytest.raises(
        OODError, match=r"'energy' needs logits of the 3 ID classes; the module's are 1000 .*: keep the ro"
    ):
        fitted(Net(outputs=1000), data, ["energy"])


def test_classes_without_images_are_named_where_outputs_are_those_of_the_others(data):
    names = [("red", "green", "blue")[label] for label in data[1]]
    message = (
        r"4 ID classes; the module's are 3 .*: 1 of the classes have no images, 'cyan'; fit\(\.\.\., classes=\[\.\.\."
    )
    with pytest.raises(OODError, match=message):
        Detector(image_size=8).fit(Net(), (data[0], names), ["energy"], classes=["red", "cyan", "green", "blue"])
    with pytest.raises(OODError, match="give a module with an output for each class"):
        Detector(image_size=8).fit(Net(outputs=2), (data[0], names), ["energy"])


def test_what_is_missing_is_said_before_images_pass(data):
    passed = []
    module = Net(lambda features, logits: passed.append(len(logits)) or logits, outputs=1000)
    with pytest.raises(OODError, match="scorer 'energy' needs logits"):
        fitted(module, data, ["mahalanobis", "energy"])
    assert sum(passed) < 50


def test_labels_from_1_are_named(data):
    with pytest.raises(OODError, match="labels reach from 1 to 3: number the classes from 0"):
        fitted(Net(), (data[0], data[1] + 1), ["energy"])


def test_one_output_is_no_class_each(data):
    for finish in (lambda f, z: z, lambda f, z: z.squeeze(1), lambda f, z: z.sigmoid()):
        assert widths(fitted(Net(finish, outputs=1), data, ["mahalanobis"])) == (WIDTH, 1)
        with pytest.raises(OODError, match=r"the module's are 1 .*: give a module with an output for each class"):
            fitted(Net(finish, outputs=1), data, ["energy"])


def test_images_without_labels_have_no_logits_for_each_class(data):
    with pytest.raises(OODError, match=r"needs logits of the 1 ID classes; .* give each image its label"):
        fitted(Net(), data[0], ["energy"])


# ------------------------------------------------------------------------------------------ precision, channels, errors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_runs_in_its_own_precision(data, expected, tmp_path, dtype):
    module = Net().to(dtype)
    detector = fitted(module, data, [*FIT, "gradnorm"])
    name = str(dtype)[6:]
    assert repr(detector).endswith(f"; in {name})")
    assert next(detector.state.network.parameters()).dtype == dtype
    (_, scored), *_ = detector.stream(data[0][:5])
    assert scored.embeddings.dtype == torch.float32
    assert detector.score(data[0][:20])["energy"] == pytest.approx(expected["energy"], rel=2e-2)
    detector.save(tmp_path / "own")
    again = Detector.load(tmp_path / "own", backbone=Net().to(dtype))
    assert again.score(data[0][:9])["energy"].tolist() == detector.score(data[0][:9])["energy"].tolist()
    with pytest.raises(
        OODError, match=rf"fitted to a module in {name}, this one is in float32; .* module.to\(torch.{name}"
    ):
        Detector.load(tmp_path / "own", backbone=Net())


class Cast(Net):
    """Computes in 16 bits inside, and returns float32."""

    def forward(self, images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(images).float()


ROUNDED = "embeddings: input of 'fc' [10]; logits: returned value 0 [3] (output of 'fc'))"


@pytest.mark.parametrize(
    "module",
    [
        Cast(),
        Net(lambda features, logits: logits.bfloat16()),
        Net(lambda features, logits: logits.bfloat16().float()),
    ],
)
def test_rounding_to_16_bits_is_no_temperature_and_is_the_reason_where_the_layer_cannot_be_used(data, module):
    assert repr(fitted(module, data)).endswith(ROUNDED)
    reason = (
        r"'fc' makes of the embeddings differs from them by more than 0.1%: .* in less than float32 \(autocast, half"
    )
    with pytest.raises(OODError, match=reason):
        fitted(module, data, ["vim"])


@pytest.mark.parametrize("finish", [lambda f, z: z.half(), lambda f, z: z.half().float()])
def test_a_layer_whose_outputs_are_rounded_to_float16_is_the_classifier(data, finish):
    detector = fitted(Net(finish), data, ["vim"])
    assert repr(detector).endswith(ROUNDED)
    assert detector.state.head is not None


def test_rounded_values_are_told_apart_from_scaled_ones_and_columns(data):
    scaled = fitted(Net(lambda features, logits: (logits / 2.5).half()), data)
    assert re.search(r"\(0\.4(00\d)? times the output of 'fc'\)", repr(scaled))
    columns = fitted(Net(lambda features, logits: logits[:, [0, 2, 5]].bfloat16().float(), outputs=8), data)
    assert repr(columns).endswith("(columns of the output of 'fc'))")
    both = fitted(Net(lambda features, logits: {"a": features.half(), "b": features.half() + 1, "c": logits}), data)
    assert repr(both).endswith("embeddings: returned value 'a' [10]; logits: returned value 'c' [3] (output of 'fc'))")


class Grey(nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))


def test_one_mean_gives_a_module_grey_images(data, tmp_path):
    detector = fitted(Grey(), data, mean=[0.1], std=[0.3])
    with torch.no_grad():
        images = torch.from_numpy(data[0][:9]).movedim(3, 1) / 255
        red, green, blue = images.unbind(1)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        expected = -Grey()((grey[:, None] - 0.1) / 0.3).double().logsumexp(1)
    assert detector.score(data[0][:9])["energy"] == pytest.approx(expected.numpy(), abs=1e-5)
    detector.save(tmp_path / "grey")
    again = Detector.load(tmp_path / "grey", backbone=Grey())
    assert again.score(data[0][:9])["energy"].tolist() == detector.score(data[0][:9])["energy"].tolist()


def refusing(error):
    def finish(features, logits):
        raise error

    return finish


def fixed_batch(features, logits):
    return logits.view(8, 3)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Grey(),
            r"RuntimeError: Given groups=1.* \[8, 3, 8, 8\] float32 on cpu, and its first .* has in_channels=1; Det",
        ),
        (Grey(6), "and its first convolution has in_channels=6$"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), r"mat1 and mat2 .*; is image_size=8 what it takes\?"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 5).half(), nn.Linear(5, 3)),
            "weights of several types: float16, float32",
        ),
        (Net(refusing(ValueError("one\ntwo"))), "the module raises ValueError: one; it was given images"),
        (
            Net(refusing(RuntimeError("Couldn't load custom C++ ops. This"))),
            r"Couldn't load custom C.* on cpu; see \"torchvision beside a CPU build .*\" in docs/installation.md$",
        ),
        (Net(refusing(KeyError())), r"the module raises KeyError; it was given images .* on cpu$"),
        (Net(refusing(AssertionError("Wrong image height!"))), r"height!; .* on cpu; is image_size=8 what it takes\?$"),
        (Net(lambda features, logits: logits.backward()), r"does not require grad .* on cpu$"),
        (nn.Module(), r"NotImplementedError: .* on cpu$"),
        (Net(lambda f, z: nn.Linear(3, 3)()), r"TypeError: .* missing 1 required .* on cpu$"),
        (Net(fixed_batch), r"the module raises RuntimeError: .*; 8 at once were taken: does it take any number\?"),
        (nn.Linear(3, 3, device="meta"), "has no weights yet"),
        (
            nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
            "has no weights yet: load them, or pass a batch through its lazy",
        ),
        (nn.LSTM(8, 8), "the module raises"),
    ],
)
def test_what_a_module_raises_becomes_one_line_with_what_it_was_given(data, module, message):
    with pytest.raises(OODError, match=message) as caught:
        fitted(module, data)
    assert "\n" not in str(caught.value)


def test_what_it_raises_later_is_told_as_well(data):
    detector = fitted(Net(), data)
    detector.state.network.module.finish = fixed_batch
    detector.score(data[0][:8])
    with pytest.raises(OODError, match=r"the module raises RuntimeError: .* \[3, 3, 8, 8\] float32 on cpu; 8 at once"):
        detector.predict(data[0][:3])


def test_nan_is_not_blamed_on_the_scorer(data):
    detector = fitted(Net(), data)
    with torch.no_grad():
        detector.state.network.module.bend.bias.fill_(torch.nan)
    with pytest.raises(OODError, match="image 0: the network gave embeddings that are not finite"):
        detector.score(data[0][:2])


class Batchwise(Net):
    def forward(self, images):
        return self.fc(functional.batch_norm(self.features(images), None, None, training=True))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Net(lambda f, z: (functional.dropout(f, 0.5), z)),
            r"gives other embeddings for the same images when they are passed twice, .* such as dropout that is on",
        ),
        (
            Net(lambda f, z: (f + torch.rand(1), z)),
            "gives other embeddings for the same images when they are passed twice",
        ),
        (
            Net(lambda f, z: (f - f.mean(0), z)),
            "gives other embeddings for an image where other images are passed with it",
        ),
        (
            Batchwise(),
            "the module raises ValueError: Expected more than 1 value per channel .*8 at once|where other images",
        ),
    ],
)
def test_outputs_that_change_by_themselves_are_refused(data, module, message):
    with pytest.raises(OODError, match=message):
        fitted(module, data)


def test_nan_is_the_modules_and_named_with_the_image(data):
    images = data[0].copy()
    images[77] = 255
    module = Net(lambda features, logits: torch.where(features.sum(1, keepdim=True) > BRIGHT, torch.nan, logits))
    with torch.no_grad():
        sums = Net().features(torch.from_numpy(images).movedim(3, 1) / 255).sum(1)
    BRIGHT = float(sums.sort().values[-2:].mean())  # noqa: N806
    row = int(sums.argmax())
    with pytest.raises(OODError, match=rf"the module gives .* that are not finite for image {row}$"):
        fitted(module, (images, data[1]), logits=0, embeddings="relu")
    with pytest.raises(OODError, match=r"the module gives .* that are not finite for image \d+$"):
        fitted(Net(lambda features, logits: logits * torch.nan), data)


# ------------------------------------------------------------------------------------------------- kinds of modules


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda module: torch.compile(module, backend="eager")])
def test_wrappers_are_taken_off(data, expected, wrap):
    detector = fitted(wrap(Net()), data)
    assert repr(detector).endswith("embeddings: input of 'fc' [10]; logits: returned value 0 [3] (output of 'fc'))")
    assert detector.score(data[0][:20])["energy"].tolist() == expected["energy"].tolist()


def test_weights_made_in_inference_mode_take_part_in_gradients(data):
    with torch.inference_mode():
        module = Net()
    assert fitted(module, data, ["odin", "gradnorm"]).score(data[0][:3])["odin"].shape == (3,)


def test_a_script_shows_no_layers(data):
    class Plain(nn.Module):
        def __init__(self, both: bool):
            super().__init__()
            self.bend, self.fc, self.both = nn.Linear(192, WIDTH), nn.Linear(WIDTH, CLASSES), both

        def forward(self, images):
            features = self.bend(images.flatten(1)).relu()
            return (self.fc(features), features) if self.both else (self.fc(features), self.fc(features))[0]

    images = torch.rand(2, 3, 8, 8)
    detector = fitted(torch.jit.trace(Plain(True), images), data)
    assert repr(detector).endswith("embeddings: returned value 1 [10]; logits: returned value 0 [3])")
    with pytest.raises(
        OODError, match="no layers are seen in a function or ScriptModule: give the module itself, or re"
    ):
        fitted(torch.jit.trace(Plain(False), images), data)


def test_a_module_that_cannot_be_copied_is_told(data):
    module = Net()
    module.handle = (of for of in ())
    with pytest.raises(
        OODError, match=r"the module cannot be copied: cannot pickle 'generator' object; give a function"
    ):
        fitted(module, data)


def test_hooks_of_the_users_own_stay(data, expected):
    module = Net()
    module.fc.register_forward_hook(lambda _module, _inputs, output: output * 2)
    detector = fitted(copy.deepcopy(module), data)
    with torch.no_grad():
        images = torch.from_numpy(data[0][:20]).movedim(3, 1) / 255
        energies = -module(images).double().logsumexp(1)
    assert detector.score(data[0][:20])["energy"] == pytest.approx(energies.numpy(), abs=1e-5)

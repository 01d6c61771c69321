"""`ood export`: the graph says what the detector says, whatever it is given; and what cannot be a graph is told."""

import copy
import json
import re
import runpy
import sys
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

from ood_core.detector import Detector
from ood_core.detector.manifest import FILE
from ood_core.detector.predictions import decision_rule
from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score, Scorer
from ood_export import exporting, formats
from ood_export.exporting import export, read_example, trace_score
from ood_export.graph import Graph

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
FIVE = ("mahalanobis", "softmax", "entropy", "energy", "gradnorm")
SUFFIXES = (".onnx", ".pt2")


def opened(file):
    """What runs a graph."""
    return next(of for of in formats.FORMATS.values() if of.suffix == file.suffix).open(file)


def unit(images):
    """Images uint8 [N, S, S, 3] as a graph wants them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255


def passed(run, images, size):
    """The outputs for all images, in batches."""
    parts = [run(unit(images[start : start + size])) for start in range(0, len(images), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_same(found, detector, images, names=FIVE):
    """Scores within 1e-4, and decisions that differ nowhere but within that of the threshold."""
    expected = detector.predict(images, scorer=names[0])
    for name in names:
        assert found[name].dtype == np.float64
        assert found[name] == pytest.approx(expected.scores[name], rel=1e-4, abs=1e-4)
    clear = np.abs(expected.score - expected.threshold) > 1e-4 * np.maximum(1, np.abs(expected.score))
    assert clear.mean() > 0.95
    assert (found["is_ood"] == expected.is_ood)[clear].all()
    # where held-out scores are as near as that, the share may count another one
    assert found["p_value"] == pytest.approx(expected.p_value, abs=0.05)
    if expected.predicted is not None:
        assert (found["predicted"] == expected.predicted).mean() > 0.99
    return expected


@pytest.fixture(scope="module")
def digits():
    """uint8 [N, 8, 8, 3], and what they are."""
    known = load_digits()
    return np.repeat(np.rint(known.images * (255 / 16)).astype(np.uint8)[..., None], 3, 3), known.target


@pytest.fixture(scope="module")
def images(digits):
    """Digits that nothing was fitted to, of which three are known; photographs cut to their size; noise."""
    photographs = np.concatenate([of[:, : 8 * 75].reshape(-1, 8, 75, 8, 3)[::9] for of in _photographs()])
    cut = photographs.transpose(0, 2, 1, 3, 4).reshape(-1, 8, 8, 3)[::40]
    noise = np.random.default_rng(0).integers(0, 256, (25, 8, 8, 3), dtype=np.uint8)
    return np.concatenate([digits[0][1000:1120], cut, noise])


class Stretched(nn.Module):
    """A network whose logits lie hundreds apart for images that are all white, and are all 0 for black ones."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward_features(self, images):
        light = images.mean((1, 2, 3))
        stretch = torch.where(light > 0.95, 2000.0, (light > 0.01).float())
        return self.network.forward_features(images) * stretch[:, None, None]

    def forward_head(self, features, pre_logits=False):
        return self.network.forward_head(features, pre_logits=pre_logits)


@pytest.fixture(scope="module")
def detector(tiny_detector, digits):
    """The five scorers of the paper on a trained network, stretched.

    Directions in which its 16 embeddings hardly vary are left out: they hold nothing but last digits.
    """
    pictures, labels = (of[:1000][digits[1][:1000] < 3] for of in digits)
    network = copy.deepcopy(tiny_detector.state.network)
    with torch.no_grad():  # the few epochs of its training tell no classes apart
        embeddings = network.forward_head(network.forward_features(torch.from_numpy(unit(pictures))), pre_logits=True)
        targets = 10 * nn.functional.one_hot(torch.from_numpy(labels)).float()
        ridge = embeddings.T @ embeddings + torch.eye(16)
        network.get_classifier().weight.copy_(torch.linalg.solve(ridge, embeddings.T @ targets).T)
        network.get_classifier().bias.zero_()
    scorers = [{"use": "mahalanobis", "cutoff": 1e-4, "name": "mahalanobis"}, *FIVE[1:]]
    return Detector(image_size=8).fit(Stretched(network), (pictures, labels), scorers)


def _photographs():
    return [of[: 8 * 50] for of in load_sample_images().images]


@pytest.fixture(scope="module")
def graphs(detector, tmp_path_factory):
    """That detector in both formats, by their suffix."""
    folder = tmp_path_factory.mktemp("graphs")
    return {suffix: export(detector, folder / f"tiny{suffix}") for suffix in SUFFIXES}


@pytest.fixture(scope="module")
def runs(graphs):
    """What runs them."""
    return {suffix: opened(made.file) for suffix, made in graphs.items()}


# ----------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_graph_and_detector_agree_on_digits_photographs_and_noise(runs, detector, images, suffix):
    for size in (1, 2, 17):
        expected = assert_same(passed(runs[suffix], images, size), detector, images)
        assert 0.1 < expected.is_ood.mean() < 0.99  # of both kinds, so that decisions could differ
        assert len(set(expected.predicted)) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whoever_exports_is_told_what_was_compared(graphs, suffix):
    made = graphs[suffix]
    assert made.scorers == FIVE
    assert made.images == 2 + 48 + 16
    assert 0 < made.deviation < 1e-4
    assert made.size == made.file.stat().st_size


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the CIFAR parquet files and weights are not in {DATA}")
def test_a_published_resnet_agrees_on_cifar(tmp_path, monkeypatch):
    names = ("mahalanobis", "energy")  # of its embeddings, and of its logits
    monkeypatch.syspath_prepend(ROOT / "tests" / "example_plugin" / "ood-example")
    from ood_example.backbone import CifarResNet20

    known, labels = _cifar("cifar10/train-00000-of-00001.parquet", 200)
    new = np.concatenate([_cifar(f"cifar{n}/test-00000-of-00001.parquet", 60)[0] for n in (10, 100)])
    backbone = CifarResNet20(weights=DATA / "weights" / "resnet20-12fca82f.safetensors")
    detector = Detector(image_size=32).fit(backbone, (known, labels), names)
    run = opened(export(detector, tmp_path / "resnet.onnx").file)
    for size in (1, 2, 17):
        assert_same(passed(run, new, size), detector, new, names)


def _cifar(name, count):
    from pyarrow import parquet

    rows = next(parquet.ParquetFile(DATA / name).iter_batches(count)).to_pylist()
    pixels = [np.asarray(PIL.Image.open(BytesIO(row["img"]["bytes"])).convert("RGB")) for row in rows]
    return np.stack(pixels), np.array([row["label"] for row in rows])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_probabilities_next_to_1_and_ties_lose_no_digits(runs, detector, suffix):
    levels = np.random.default_rng(0).integers(0, 6, (20, 8, 8, 3), dtype=np.uint8)
    extremes = np.concatenate([255 - levels, levels // 5])
    found, expected = passed(runs[suffix], extremes, 17), detector.score(extremes)
    assert expected["softmax"].min() < -40  # where 1 - p would be 0 in float64
    assert (np.abs(expected["gradnorm"]) < 1e-3).any()  # and next to uniform
    for name in FIVE:
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", FIVE)
def test_a_traced_score_is_the_score_in_the_smallest_and_largest_numbers(detector, name):
    of = detector.state.scorer(name)
    program = trace_score(of, read_example(Graph(detector.state, decision_rule(detector.state))))
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-4, 1.0, 1e3):
        embeddings, logits = (scale * torch.randn(7, width, generator=generator) for width in (16, 3))
        found = program.module()(embeddings=embeddings, logits=logits, labels=torch.full((7,), -1), layers={})
        expected = of.score(Outputs(embeddings, logits, torch.full((7,), -1), 3))
        assert found.numpy() == pytest.approx(expected.numpy(), rel=2e-6, abs=1e-9)


# ------------------------------------------------------------------------------------------------- networks and scorers


class Classifier(nn.Module):
    """Returns the outputs of its last layer, whose inputs the detector takes for embeddings by a hook."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.fc = nn.Linear(32, 3)

    def forward(self, images):
        return self.fc(self.body(images).flatten(1))


def test_a_module_of_ones_own_is_exported_with_its_normalisation(tmp_path, images):
    labels = np.arange(len(images)) % 3
    detector = Detector(image_size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    names = ("mahalanobis", "energy")
    detector.fit(Classifier(), (images, labels), names)
    made = export(detector, tmp_path / "own.pt2")
    assert_same(passed(opened(made.file), images, 17), detector, images, names)


def test_without_a_classifier_nothing_is_predicted(tmp_path, images):
    detector = Detector(image_size=8).fit(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), images, ["mahalanobis"])
    run = opened(export(detector, tmp_path / "own.pt2").file)
    found = passed(run, images, 17)
    assert set(found) == {"mahalanobis", "is_ood", "p_value"}
    assert_same(found, detector, images, ["mahalanobis"])


def test_thresholds_and_p_values_by_class_are_those_of_the_detector(tmp_path, detector, images):
    detector = Detector.from_state(replace(detector.state, tpr=0.6, per_class=True))
    made = export(detector, tmp_path / "apart.pt2", scorers="energy")
    assert made.scorers == ("energy",)  # one name is a name, not letters
    found, expected = passed(opened(made.file), images, 17), detector.predict(images, scorer="energy")
    assert len(set(expected.threshold)) == 3
    assert (found["is_ood"] == expected.is_ood).mean() > 0.99
    assert found["p_value"] == pytest.approx(expected.p_value)


@dataclass(frozen=True)
class Chunked(Score):
    """As plugins of other people are written: chunk by chunk."""

    mean: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        return torch.cat([(part.embeddings.double() - self.mean).abs().sum(1) for part in outputs.chunks(5)])


@dataclass(frozen=True)
class Branching(Chunked):
    """Looks at values to decide what to do."""

    def __call__(self, outputs: Outputs) -> Tensor:
        found = super().__call__(outputs)
        return found if found.max() < 1 else found.log()


@dataclass(frozen=True, kw_only=True)
class Foreign(Scorer):
    name = "foreign"
    scores = Chunked

    def fit(self, train: Outputs) -> Chunked:
        return self.scores(train.embeddings.double().mean(0))


@dataclass(frozen=True)
class Counting(Chunked):
    """Asks for a number of rows that is the same in each call of a graph."""

    def __call__(self, outputs: Outputs) -> Tensor:
        return super().__call__(outputs) + torch.zeros(len(outputs.embeddings))


@dataclass(frozen=True, kw_only=True)
class Refused(Foreign):
    name = "refused"
    scores = Branching


@dataclass(frozen=True, kw_only=True)
class Fixed(Foreign):
    name = "fixed"
    scores = Counting


def test_a_scorer_of_somebody_elses_is_exported_as_it_is(tmp_path, images):
    detector = Detector(image_size=8).fit(nn.Flatten(), images, [Foreign()])
    run = opened(export(detector, tmp_path / "foreign.pt2").file)
    assert_same(passed(run, images, 17), detector, images, ["foreign"])


def test_scorers_that_are_no_graph_are_named_with_the_reason_before_anything_is_written(tmp_path, images):
    labels = np.arange(len(images)) % 3
    detector = Detector(image_size=8).fit(Classifier(), (images, labels), ["odin", Foreign(), Refused(), Fixed()])
    with pytest.raises(OODError) as caught:
        export(detector, tmp_path / "refused.pt2")
    said = str(caught.value)
    line = next(row for row, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "found.max() < 1" in text)
    assert said == (
        "cannot be exported: scorer 'odin' needs the network itself, with gradients or changed images; 'refused' "
        f"decides by values what to do, which a graph cannot (plugins/test_ood_export.py:{line}); 'fixed' fixes the "
        "number of images, as len(tensor) does and tensor.shape[0] does not; name the others: foreign"
    )
    assert list(tmp_path.iterdir()) == []


class Undecided(Classifier):
    """Looks at the images to decide what to do."""

    def forward(self, images):
        return super().forward(images if images.mean() < 0.5 else 1 - images)


def test_a_network_that_is_no_graph_is_told_with_the_place(tmp_path, images):
    detector = Detector(image_size=8).fit(Undecided(), (images, np.arange(len(images)) % 3), ["energy"])
    message = (
        r"^cannot be exported: the network decides by values what to do, which a graph cannot \(plugins/test_ood_export"
    )
    with pytest.raises(OODError, match=message):
        export(detector, tmp_path / "own.pt2")


def test_a_scorer_that_onnx_has_no_words_for_is_named(tmp_path, images):
    detector = Detector(image_size=8).fit(nn.Flatten(), images, ["l1"])
    with pytest.raises(OODError, match=r"scorer 'l1' has no ONNX: .*_cdist.*; no other one is there$"):
        export(detector, tmp_path / "l1.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_graph_needs_is_refused(tmp_path, images):
    detector = Detector(image_size=8).fit(nn.Flatten(), images, [{"use": "mahalanobis", "name": "p_value"}])
    with pytest.raises(OODError, match="scorer 'p_value': the graph has something else of this name"):
        export(detector, tmp_path / "own.pt2")


# ------------------------------------------------------------------------------------------------------- verification


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found | {"energy": found["energy"] - 3e-4}, "scorer 'energy' is off by 3.0e-04"),
        (lambda found: found | {"energy": found["energy"] * np.nan}, "scorer 'energy' is off by nan"),
        (lambda found: found | {"is_ood": ~found["is_ood"]}, "'is_ood' differs for "),
        (lambda found: found | {"p_value": found["p_value"] / 2}, "'p_value' differs for "),
        (lambda found: found | {"predicted": found["predicted"] + 1}, "'predicted' differs for "),
    ],
    ids=["score", "nan", "decision", "p-value", "class"],
)
def test_a_graph_that_says_something_else_is_not_left_behind(monkeypatch, tmp_path, tiny_detector, change, message):
    class Wrong(formats.Torch):
        def open(self, file):
            assert file.is_file()
            return lambda images: change(run(images))

        def write(self, program, outputs, description, file, opset):
            file.write_bytes(b"written")

    fitted = replace(tiny_detector.state, scorers=(tiny_detector.state.scorer("energy"),))
    module = Graph(fitted, decision_rule(fitted))

    def run(images):
        with torch.no_grad():
            return {name: values.numpy() for name, values in module(torch.from_numpy(images)).items()}

    monkeypatch.setattr(exporting, "trace", lambda graph: None)  # nothing here reads what it gives
    monkeypatch.setitem(formats.FORMATS, "torch", Wrong())
    (tmp_path / "energy.pt2").write_text("what lay there")
    with pytest.raises(OODError, match=message):
        export(tiny_detector, tmp_path / "energy.pt2", scorers=["energy"])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["what lay there"]
    if message.startswith("scorer 'energy' is off by 3"):
        assert export(tiny_detector, tmp_path / "energy.pt2", scorers=["energy"], tolerance=1e-3).deviation > 2e-4
    change = dict  # and without a change it passes
    assert export(tiny_detector, tmp_path / "energy.pt2", scorers=["energy"]).deviation < 1e-4


def test_deviations_are_relative_above_1_and_absolute_below():
    found, expected = np.array([1000.1, 0.1001, 5.0]), np.array([1000.0, 0.1, np.inf])
    assert exporting.deviation(found, expected) == pytest.approx([1e-4, 1e-4, 0])


# ------------------------------------------------------------------------------------------------------------ the file


def test_the_file_says_how_images_are_shown_and_where_it_comes_from(graphs, detector):
    session = onnxruntime.InferenceSession(graphs[".onnx"].file)
    inside = json.loads(session.get_modelmeta().custom_metadata_map["ood"])
    extra = {"ood": ""}
    torch.export.load(graphs[".pt2"].file, extra_files=extra)
    assert json.loads(extra["ood"]) == inside
    assert inside["preprocessing"]["resize"] == inside["preprocessing"]["centre_crop"] == 8
    assert inside["classes"] == list(detector.classes)
    assert {of["name"]: of["threshold"] for of in inside["scorers"]} == {
        name: detector.threshold(scorer=name) for name in FIVE
    }
    assert (inside["decides"], inside["tpr"]) == ("mahalanobis", 0.95)


def test_inputs_and_outputs_have_names_types_and_any_number_of_images(graphs):
    session = onnxruntime.InferenceSession(graphs[".onnx"].file)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(float)", ["N", 3, 8, 8])
    types = dict.fromkeys(FIVE, "double") | {"is_ood": "bool", "p_value": "double", "predicted": "int64"}
    assert {of.name: of.type for of in session.get_outputs()} == {name: f"tensor({of})" for name, of in types.items()}
    assert all(of.shape == ["N"] for of in session.get_outputs())


def test_no_path_of_this_machine_is_in_the_file(graphs):
    assert str(ROOT).encode() not in graphs[".onnx"].file.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_line_and_leaves_nothing(detector, tmp_path, disk_full, suffix):
    with disk_full(5000), pytest.raises(OODError, match=r"cannot be written, the disk is full: [^\n]*$"):
        export(detector, tmp_path / f"e{suffix}", scorers="energy")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The page's script, as it stands there."""
    page = (ROOT / "docs" / "export.md").read_text()
    file = tmp_path_factory.mktemp("script") / "score.py"
    file.write_text(next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "onnxruntime" in block))
    return file


@pytest.fixture
def assert_script(script, graphs, detector, capsys):
    """`assert_script(files, close)`: it scores the files as the detector does, to that tolerance."""

    def run(files, close):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(script), str(graphs[".onnx"].file), *map(str, files)])
            runpy.run_path(str(script))
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        expected = detector.predict(files)
        assert [line[0] for line in lines] == [str(file) for file in files]
        assert [line[1] == "OOD" for line in lines] == expected.is_ood.tolist()
        found = np.array([[float(of) for of in line[2:]] for line in lines])
        for column, name in enumerate(FIVE):
            assert found[:, column] == pytest.approx(expected.scores[name], rel=close, abs=close)

    return run


def photograph(row, size):
    """A part of a photograph."""
    return PIL.Image.fromarray(load_sample_images().images[row % 2][40 * row :][:200, :300]).resize(size)


@pytest.mark.parametrize("size", [(8, 8), (20, 13)], ids=["as it is", "resized"])
def test_the_script_of_the_page_scores_files_as_the_detector_does(assert_script, tmp_path, size):
    files = [tmp_path / f"{row}.png" for row in range(8)]
    for row, file in enumerate(files):
        photograph(row, size).save(file)
    assert_script(files, 1e-4 if size == (8, 8) else 0.05)  # Pillow rounds otherwise than torchvision


def test_the_script_of_the_page_reads_all_kinds_of_files_as_the_detector_does(assert_script, detector, tmp_path):
    peculiar, plain = _peculiar(tmp_path), _plain(tmp_path)
    assert_script(peculiar + plain, 1e-4)
    converted = [np.array(PIL.Image.open(file).convert("RGB")) for file in peculiar]
    unlike = np.abs(detector.score(converted)["mahalanobis"] - detector.score(peculiar)["mahalanobis"])
    assert (unlike > 0.1).all()  # they are files that need more than a conversion


def _peculiar(folder):
    """Files of one picture that says more than its pixels."""
    picture, ramp = photograph(0, (8, 8)), np.arange(64).reshape(8, 8)
    translucent, veiled, hidden = picture.copy(), picture.convert("L"), np.full((8, 8), 3, np.uint8)
    translucent.putalpha(PIL.Image.fromarray((4 * ramp).astype(np.uint8)))
    veiled.putalpha(PIL.Image.fromarray((255 - 4 * ramp).astype(np.uint8)))
    hidden[2:6, 2:7] = 1
    palette = PIL.Image.fromarray(hidden, mode="P")
    palette.putpalette([0, 0, 0, 200, 30, 90, 0, 0, 0, 10, 60, 20])
    turned = PIL.Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    sixteen = PIL.Image.fromarray((1000 * ramp).astype(np.uint16))
    translucent.save(folder / "translucent.png")
    veiled.save(folder / "veiled.png")
    palette.save(folder / "palette.png", transparency=3)
    palette.save(folder / "animated.gif", transparency=3, save_all=True, append_images=[palette.rotate(90)])
    picture.save(folder / "turned.jpg", exif=turned)
    sixteen.save(folder / "sixteen.png")
    sixteen.save(folder / "sixteen.tiff")
    return sorted(folder.iterdir())


def _plain(folder):
    """Files that a conversion is enough for."""
    picture = photograph(1, (8, 8))
    files = [folder / name for name in ("plain.jpg", "grey.jpg", "cmyk.jpg", "plain.gif")]
    for file, mode in zip(files, ("RGB", "L", "CMYK", "P"), strict=True):
        picture.convert(mode).save(file)
    return files


def test_the_script_of_the_page_refuses_pictures_without_a_range(script, graphs, tmp_path):
    file = tmp_path / "floats.tiff"
    PIL.Image.fromarray(np.ones((8, 8), np.float32)).save(file)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match=r"floats\.tiff: its values have no"):
        patch.setattr(sys, "argv", [str(script), str(graphs[".onnx"].file), str(file)])
        runpy.run_path(str(script))


# -------------------------------------------------------------------------------------------------------- command line


def test_the_command_prints_one_line_and_nothing_else(ood, tiny_run, tmp_path, recwarn):
    file = tmp_path / "new" / "e.pt2"
    code, said, errors = ood("export", tiny_run.detector, "--format=torch", "--out", file, "--scorer", "energy")
    assert (code, errors) == (0, "")
    assert re.fullmatch(
        r"graph: new/e\.pt2, \d\.\d MB; energy decides; verified by 66 images: same decisions, "
        r"scores within \de-\d\d of the detector's\n",
        said,
    )
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["e.pt2"]
    extra = {"ood": ""}
    torch.export.load(file, extra_files=extra)
    inside = json.loads(extra["ood"])
    assert inside["detector"]["digest"] == json.loads((tiny_run.detector / FILE).read_text())["digest"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "g.pt2"], "--out g.pt2: a graph of format onnx is a file that ends in .onnx, or a folder"),
        (["--format", "torch", "--opset", "18"], "opset 18: is for ONNX; leave it out, or write an .onnx"),
        (["--scorer", "energie"], "the detector has no scorer 'energie'. Did you mean 'energy'?"),
        (["--tpr", "0.999"], "a TPR of 0.999 needs 999 calibration images"),
    ],
    ids=["suffix", "opset", "scorer", "tpr"],
)
def test_mistakes_are_one_line_and_exit_2(ood, tiny_run, tmp_path, arguments, message):
    code, said, errors = ood("export", tiny_run.detector, "--out", tmp_path, *arguments)
    assert (code, said) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_command_says_how_to_get_it(ood, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else name)
    code, _, errors = ood("export", tiny_run.detector, "--out", tmp_path)
    assert (code, errors) == (2, "ONNX needs onnxscript: pip install 'ood-framework[export]'\n")


def test_unless_told_otherwise_the_file_lies_beside_the_detector():
    from ood_export.command import target

    assert target(Path("runs/mood/detector"), None, "onnx") == Path("runs/mood/detector.onnx")
    assert target(Path("v1.2"), None, "torch") == Path("v1.2.pt2")

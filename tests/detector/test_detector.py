"""Detectors in the hands of their users: whatever holds images, the same scores; decisions; mistakes."""

import io
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from ood_core.detector import Detector
from ood_core.detector.predictions import ScoredBatch, decide, decision_rule
from ood_core.errors import OODError, OODWarning

SCORERS = ("mahalanobis", "softmax", "entropy", "energy", "gradnorm")


@pytest.fixture(scope="module")
def arrays():
    return np.random.default_rng(0).integers(0, 256, (20, 11, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    """The same images as PNG files, some of them deeper than others."""
    root = tmp_path_factory.mktemp("images")
    (root / "deeper").mkdir()
    for row, array in enumerate(arrays):
        Image.fromarray(array).save(root / ("deeper" if row >= 15 else ".") / f"{row:02}.png")
    return root


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"), key=lambda file: file.name)


@pytest.mark.parametrize(
    "form",
    [
        lambda arrays, folder: arrays,
        lambda arrays, folder: list(arrays),
        lambda arrays, folder: files(folder),
        lambda arrays, folder: map(str, files(folder)),
        lambda arrays, folder: [Image.open(file) for file in files(folder)],
        lambda arrays, folder: torch.from_numpy(arrays).movedim(3, 1),
        lambda arrays, folder: [torch.from_numpy(array).movedim(2, 0) for array in arrays],
        lambda arrays, folder: DataLoader(TensorDataset(torch.from_numpy(arrays).movedim(3, 1)), 7),
        lambda arrays, folder: DataLoader(
            TensorDataset(torch.from_numpy(arrays).movedim(3, 1), torch.arange(20)), batch_size=6
        ),
        lambda arrays, folder: TensorDataset(torch.from_numpy(arrays).movedim(3, 1), torch.arange(20)),
        lambda arrays, folder: [(array, 3) for array in arrays],
        lambda arrays, folder: [(array, 3, "a.png", {"row": 1}) for array in arrays],
        lambda arrays, folder: [{"image": array, "label": 3} for array in arrays],
        lambda arrays, folder: [{"label": 3, "photo": Image.fromarray(array)} for array in arrays],
        lambda arrays, folder: [(str(file), "cat") for file in files(folder)],
        lambda arrays, folder: [{"img": {"bytes": file.read_bytes(), "path": None}} for file in files(folder)],
        lambda arrays, folder: [{"img": {"bytes": None, "path": str(file)}} for file in files(folder)],
        lambda arrays, folder: [tuple(map(str, files(folder)))],
    ],
    ids=[
        "array",
        "list",
        "paths",
        "strings",
        "pictures",
        "tensor",
        "tensors",
        "loader",
        "labelled-loader",
        "dataset",
        "pairs",
        "longer",
        "dicts",
        "dicts-of-pictures",
        "paths-with-names",
        "encoded",
        "referred",
        "tuple-of-paths",
    ],
)
def test_whatever_holds_the_images_gives_the_same_scores(tiny_detector, arrays, folder, form, rounded):
    expected = tiny_detector.score(arrays)
    found = tiny_detector.score(form(arrays, folder))
    assert tuple(found) == SCORERS
    for name in SCORERS:
        assert found[name].dtype == np.float64
        assert found[name] == rounded(expected[name])


def test_a_folder_is_its_pictures_by_their_paths(tiny_detector, folder):
    ordered = sorted(folder.rglob("*.png"))
    assert tiny_detector.score(folder)["energy"].tolist() == tiny_detector.score(ordered)["energy"].tolist()


def test_floats_are_the_pixels_by_255(tiny_detector):
    small = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)  # of the size that is wanted
    as_floats = tiny_detector.score(small.astype(np.float32) / 255)
    assert as_floats["energy"] == pytest.approx(tiny_detector.score(small)["energy"], rel=1e-6)


def test_grey_is_three_times_the_same(tiny_detector):
    grey = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
    coloured = np.repeat(grey[:, :, None], 3, 2)
    assert tiny_detector.score(grey)["energy"] == tiny_detector.score(coloured)["energy"]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 19, 64])
def test_the_batch_changes_scores_by_rounding_alone(tiny_detector, arrays, rounded, batch_size):
    expected, found = tiny_detector.score(arrays), tiny_detector.score(arrays[::-1], batch_size=batch_size)
    for name in SCORERS:
        assert found[name][::-1] == rounded(expected[name])


@pytest.mark.parametrize("scorer", SCORERS)
def test_decisions_on_calibration_images_are_the_same_in_every_batch(tiny_detector, scorer):
    """Their scores are the thresholds; nothing but rounding is between them."""
    calibration = tiny_detector.state.scorer(scorer).calibration
    for factor in (1 - 1e-10, 1 + 1e-10):
        scores = calibration.scores * factor
        made = ScoredBatch({scorer: scores}, None, torch.zeros(len(scores), 1))
        for tpr in (0.5, 0.8, 0.95):
            found = decide(tiny_detector.state, made, decision_rule(tiny_detector.state, scorer, tpr, per_class=False))
            assert found.is_ood.sum() == len(scores) - math.ceil((len(scores) + 1) * tpr - 1e-9)
            assert (found.is_ood == (found.p_value <= 1 - tpr + 1e-12)).all()


def test_predictions_follow_from_scores_and_calibration(tiny_detector, arrays):
    calibration = tiny_detector.state.scorer("energy").calibration
    found = tiny_detector.predict(arrays, scorer="energy", tpr=0.8)
    scores = tiny_detector.score(arrays)["energy"]
    assert found.score.tolist() == scores.tolist()
    assert found.is_ood.tolist() == (scores > calibration.threshold(0.8)).tolist()
    assert found.is_ood.tolist() == (found.p_value <= 0.2 + 1e-12).tolist()
    assert set(found.threshold) == {calibration.threshold(0.8)}
    assert found.class_name(3) in ("0", "1", "2")
    assert (found.scorer, found.tpr, len(found)) == ("energy", 0.8, 20)


def test_the_first_scorer_decides_and_a_higher_rate_rejects_less(tiny_detector, arrays):
    assert tiny_detector.predict(arrays).scorer == "mahalanobis"
    strict, lenient = (tiny_detector.predict(arrays, tpr=tpr).is_ood for tpr in (0.5, 0.95))
    assert (lenient <= strict).all()


def test_scikit_learn_has_it_the_other_way_round(tiny_detector, arrays):
    scores = tiny_detector.score(arrays)["mahalanobis"]
    assert tiny_detector.score_samples(arrays).tolist() == (-scores).tolist()
    inside = tiny_detector.decision_function(arrays) >= 0
    assert (~inside).tolist() == tiny_detector.predict(arrays).is_ood.tolist()


def test_decisions_are_those_that_the_report_predicts(tiny_run, tiny_detector):
    for row in tiny_run.plan.rows:
        facts = tiny_run.store.facts(row.measure)
        assert facts["threshold"] == tiny_detector.threshold(scorer=row.scorer)
        sets = {"id_accepted": row.measure.id_scores.images, "ood_accepted": row.measure.ood_scores.images}
        for fact, images in sets.items():
            pixels = [images.opened.pixels(place) for place in range(len(images.opened))]
            found = tiny_detector.predict(pixels, scorer=row.scorer)
            assert (~found.is_ood).mean() == pytest.approx(facts[fact], abs=1e-12)


def test_one_image_is_enough(tiny_detector, arrays):
    assert tiny_detector.predict(arrays[0]).is_ood.shape == (1,)


def test_a_folder_warns_of_what_is_passed_over_and_misses_nothing_in_silence(tiny_detector, folder, tmp_path):
    (tmp_path / "1.jfif").write_bytes(encoded(folder))
    (tmp_path / "2.heic").touch()
    (tmp_path / "0").symlink_to("0")
    with pytest.warns(OODWarning, match=r"passed over: 1 dead link, 1 file of other formats \(1 \.heic\)$") as seen:
        assert len(tiny_detector.score(tmp_path)["energy"]) == 1
    assert seen[0].filename == __file__  # points at the line of the user
    (tmp_path / "1.jfif").unlink()
    with pytest.raises(OODError, match=r"holds no pictures; passed over: 1 dead link, 1 file of other formats"):
        tiny_detector.score(tmp_path)


def encoded(folder):
    target = io.BytesIO()
    Image.open(files(folder)[0]).convert("RGB").save(target, "JPEG")
    return target.getvalue()


def test_a_stream_tells_what_cannot_be_read_where_it_stands(tiny_detector, folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    listed = [files(folder)[0], tmp_path / "broken.png", tmp_path / "broken.png", files(folder)[1]]
    batches = list(tiny_detector.stream(iter(listed), batch_size=2))
    assert [sorted(shown.errors) for shown, _ in batches] == [[1], [0]]
    assert [len(found) for _, found in batches] == [1, 1]
    assert "not a picture in a known format" in batches[0][0].errors[1]


def test_a_stream_reads_no_further_than_it_must(tiny_detector, arrays):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield arrays[0]

    stream = tiny_detector.stream(endless(), batch_size=4)
    next(stream)
    assert len(taken) <= 4 * 4
    stream.close()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("absent", "absent: no such file or folder"),
        ([], "there are no images to score"),
        (
            np.zeros((4, 4, 5), np.uint8),
            r"an array of images is \[H, W\], \[H, W, 3\] or \[N, H, W, 3\], not \[4, 4, 5\]",
        ),
        (np.zeros((4, 4, 3), np.int32), "holds uint8 or floats in \\[0, 1\\], not int32"),
        (torch.zeros(4, 4), r"a tensor of images is \[3, H, W\] or \[N, 3, H, W\], not \[4, 4\]"),
        (torch.full((3, 4, 4), 2.0), r"floats must lie in \[0, 1\], these reach from 2 to 2; the detector normalises"),
        (torch.full((3, 4, 4), float("nan")), "pixels are NaN or infinite"),
        ("", "an empty path names no image"),
        (Image.new("F", (4, 4)), "image 0: refused: floats have no known range"),
        (
            [Image.new("L", (4, 4)), Image.new("I", (4, 4), 200)],
            "image 1: refused: more than 16 bits have no known range",
        ),
        (np.zeros((4, 4, 3), np.uint16), "holds uint8 or floats in \\[0, 1\\], not uint16"),
        (np.zeros((4, 4, 3), bool), "holds uint8 or floats in \\[0, 1\\], not bool"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "holds uint8 or floats in \\[0, 1\\], not int64"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "holds uint8 or floats in \\[0, 1\\], not bool"),
        (torch.full((3, 4, 4), -1.8), "give images as they were before .or uint8., and Detector the mean and std"),
        ([np.zeros((4, 4)), np.full((4, 4), np.nan)], "image 1: pixels are NaN or infinite"),
        (np.zeros((0, 8, 3), np.uint8), "^image 0: the image is empty: 0 pixels high, 8 wide$"),
        (np.zeros((0, 8)), "^image 0: the image is empty: 0 pixels high, 8 wide$"),
        (torch.zeros(2, 3, 8, 0), "^image 0: the image is empty: 8 pixels high, 0 wide$"),
        (Image.new("RGB", (0, 8)), "^image 0: the image is empty: 8 pixels high, 0 wide$"),
        (3, "a int holds no images; give paths"),
    ],
)
def test_what_is_no_image_is_told(tiny_detector, images, message):
    with pytest.raises(OODError, match=message):
        tiny_detector.score(images)


def test_channels_are_last_in_arrays_and_first_in_tensors_also_where_both_would_fit(tiny_detector):
    ambiguous = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    as_array, as_tensor = (tiny_detector.score(of)["energy"] for of in (ambiguous, torch.from_numpy(ambiguous)))
    moved = tiny_detector.score(torch.from_numpy(ambiguous).movedim(2, 0))["energy"]
    assert as_array == moved != as_tensor


def test_a_pipe_is_no_picture_and_is_not_waited_for(tiny_detector, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for images in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(OODError, match=r"pipe\.png: not a regular file$"):
            tiny_detector.score(images)


def test_a_detector_says_what_it_is(tiny_detector):
    assert repr(tiny_detector) == (
        "Detector('tiny', 3 classes, scorers mahalanobis, softmax, entropy, energy, gradnorm, "
        f"ID accuracy {tiny_detector.id_accuracy:.1%})"
    )
    assert repr(Detector(name="new")) == "Detector('new', not fitted)"


def test_a_broken_picture_is_named(tiny_detector, tmp_path):
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(OODError, match=r"half\.png: "):
        tiny_detector.predict(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "enrgy"}, "the detector has no scorer 'enrgy'. Did you mean 'energy'?"),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"tpr": "0.9"}, "a TPR must lie between 0 and 1, not 0.9"),
        ({"tpr": 0.999}, "needs 999 calibration images, there are 24"),
        ({"per_class": True}, "a threshold for each class at a TPR of 0.95 needs 19"),
    ],
)
def test_what_a_detector_cannot_do_is_told(tiny_detector, arrays, options, message):
    with pytest.raises(OODError, match=message):
        tiny_detector.predict(arrays, **options)


def test_a_detector_without_anything_fitted_says_so(arrays):
    with pytest.raises(OODError, match=r"not fitted; call fit, or Detector.load"):
        Detector(image_size=8).score(arrays)


def test_a_device_that_is_not_there_is_told(tiny_run):
    with pytest.raises(OODError, match="device 'abacus' cannot be used here: "):
        Detector.load(tiny_run.detector, device="abacus")


def test_the_nearest_examples_are_training_images(tiny_run, tiny_detector):
    images = tiny_run.plan.rows[0].measure.fit.train.base.images.opened
    shown = torch.stack([images.pixels(0)])
    (_, scored), *_ = tiny_detector.stream(shown)
    distances, rows = tiny_detector.state.examples.nearest(scored.embeddings, 3)
    assert distances.shape == rows.shape == (1, 3)
    assert distances[0, 0] == pytest.approx(0, abs=1e-3)
    assert int(tiny_detector.state.examples.labels[rows[0, 0]]) == int(images.labels[0])

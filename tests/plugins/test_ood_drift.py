"""`ood drift`: one line about images or their scores, a drawing, exit codes."""

import csv
import io
import json
import os
import sys

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from ood_core.detector import Detector
from ood_core.detector.image_inputs import image_refs
from ood_core.evaluation.drift_tests import Sequential, kolmogorov_smirnov, verdict
from ood_drift import comparison
from ood_drift.drawing import draw_drift
from ood_timm.backbone import Timm

SMALL = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def digits():
    """Digits in random order, so that all are exchangeable: uint8 [N, 8, 8]."""
    images = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    return images[np.random.default_rng(0).permutation(len(images))]


@pytest.fixture(scope="module")
def detector(tmp_path_factory, digits):
    """The folder of a detector; its network is not trained, and scores by distance all the same."""
    train, held_out = digits[:300, :, :, None], digits[300:500, :, :, None]
    made = Detector(image_size=8).fit(
        Timm(model="vit_tiny_patch16_224", options=SMALL),
        (train, np.zeros(len(train), np.int64)),
        ["mahalanobis", "knn"],
        held_out=(held_out, np.zeros(len(held_out), np.int64)),
    )
    folder = tmp_path_factory.mktemp("made") / "detector"
    made.save(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, digits):
    """`same`: digits as those held out; `inverted`: black on white."""
    root = tmp_path_factory.mktemp("pictures")
    for name, images in (("same", digits[500:650]), ("inverted", 255 - digits[500:650])):
        (root / name).mkdir()
        for row, image in enumerate(images):
            PIL.Image.fromarray(image).save(root / name / f"{row:03}.png")
    return root


@pytest.fixture
def table(tmp_path, detector, pictures):
    """`table(name, form)`: the scores of these pictures as `ood score` writes them, with one that it could not read."""

    def write(name, form):
        files = sorted((pictures / name).iterdir())
        scores = Detector.load(detector).score(files)
        first, second = (scores[scorer].tolist() for scorer in ("mahalanobis", "knn"))
        rows = [
            {"file": str(file), "score": one, "knn": other, "error": None}
            for file, one, other in zip(files, first, second, strict=True)
        ]
        rows.insert(3, {"file": "gone.png", "score": None, "knn": None, "error": "gone.png: no such file"})
        path = tmp_path / f"scores.{form}"
        with path.open("w", newline="") as file:
            if form == "jsonl":
                file.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        return path

    return write


def compared(detector, stream, alpha=0.01):
    fitted = Detector.load(detector).state
    return comparison.compare(fitted, stream, None, Sequential(fitted.scorer(None).calibration.scores, alpha))


@pytest.fixture(scope="module")
def said(detector, pictures):
    """The verdict on `same`."""
    fitted = Detector.load(detector).state
    found = compared(detector, comparison.score_stream(fitted, image_refs(pictures / "same"), None))
    return verdict(found.ks, found.sequential, 0.01) + "\n"


def test_a_full_disk_is_one_line_and_leaves_the_drawing_that_was_there(ood, detector, table, tmp_path, disk_full):
    scores = table("same", "csv")
    (tmp_path / "drift.svg").write_text("before")
    with disk_full(100):
        code, _, err = ood("drift", detector, "--scores", scores)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("drift.svg: cannot be written, the disk is full: ")
    assert (tmp_path / "drift.svg").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drift.svg", scores.name]


def test_images_like_those_held_out_have_not_drifted(ood, detector, pictures, said, tmp_path) -> None:
    code, out, err = ood("drift", detector, pictures / "same", "--fail-on-drift")
    assert (code, err) == (0, "drawing: drift.svg\n")
    assert out.startswith("no drift: 150 images score like the 200 held-out ID images (KS 0.")
    assert out == said
    assert out.count("\n") == 1
    assert (tmp_path / "drift.svg").read_text().count("</svg>") == 1


def test_other_images_have_drifted_which_is_no_failure_unless_asked(ood, detector, pictures) -> None:
    code, out, _ = ood("drift", detector, pictures / "inverted")
    assert code == 0
    assert out.startswith("drift: 150 images score higher (more OOD) than the 200 held-out ID images (KS ")
    assert "sequential test: evidence of 100 reached at image " in out
    assert ood("drift", detector, pictures / "inverted", "--fail-on-drift")[0] == 1


def test_the_order_of_images_tells_when_it_began(ood, detector, pictures) -> None:
    _, out, _ = ood("drift", detector, pictures / "same", pictures / "inverted")
    alarm = int(out.split("reached at image ")[1].split(";")[0])
    assert 150 < alarm <= 200


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_scores_that_were_written_give_the_verdict_of_their_images(ood, detector, said, table, form) -> None:
    _, of_table, err = ood("drift", detector, "--scores", table("same", form))
    assert of_table == said
    assert "not scored: 1 image; the first: gone.png: no such file\n" in err


def test_the_column_of_a_scorer_is_read(ood, detector, pictures, said, table) -> None:
    _, of_images, _ = ood("drift", detector, pictures / "same", "--scorer", "knn")
    _, of_table, _ = ood("drift", detector, "--scores", table("same", "csv"), "--scorer", "knn")
    assert of_table == of_images != said


def test_paths_come_from_stdin(ood, detector, pictures, said, monkeypatch) -> None:
    files = sorted((pictures / "same").iterdir())
    lines = "\n".join(map(str, [*files, "gone.png"])) + "\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(lines))))
    _, from_stdin, err = ood("drift", detector, "-")
    assert from_stdin == said
    assert err.startswith("not scored: 1 image; the first: gone.png: ")


def test_a_glob_that_matches_nothing_is_a_mistake(ood, detector, pictures) -> None:
    assert ood("drift", detector, pictures / "same", "gone*") == (2, "", "gone*: matches no file\n")


def test_broken_pictures_are_told_and_left_out(ood, detector, pictures, tmp_path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    code, out, err = ood("drift", detector, tmp_path / "a.png", pictures / "same", tmp_path / "b.png")
    assert code == 0
    assert "150 images" in out
    assert f"not scored: 2 images; the first: {tmp_path / 'a.png'}" in err


def test_nothing_but_broken_pictures_is_a_mistake(ood, detector, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    code, out, err = ood("drift", detector, tmp_path / "a.png")
    assert (code, out) == (2, "")
    assert err.startswith(f"no image could be scored; the first of 1: {tmp_path / 'a.png'}")
    assert not (tmp_path / "drift.svg").exists()


@pytest.mark.parametrize(
    ("out", "file"), [("new/folder", "new/folder/drift.svg"), ("a.png", "a.png"), ("b/c.svg", "b/c.svg")]
)
def test_the_drawing_goes_where_it_is_wanted(ood, detector, table, tmp_path, out, file) -> None:
    code, _, err = ood("drift", detector, "--scores", table("same", "csv"), "--out", out)
    assert code == 0
    assert f"drawing: {file}\n" in err
    if file.endswith(".png"):
        with PIL.Image.open(tmp_path / file) as picture:
            assert picture.width > 800
    else:
        assert "held-out ID images" in (tmp_path / file).read_text()


def test_equal_scores_give_equal_drawings(detector, table) -> None:
    stream = comparison.read_scores(table("same", "csv"), None)
    first, second = (draw_drift(compared(detector, stream), "svg") for _ in range(2))
    assert first == second


def test_the_drawing_of_many_scores_is_small(detector) -> None:
    known = Detector.load(detector).state.scorer().calibration.scores
    stream = comparison.Stream(np.random.default_rng(0).choice(known, 30_000).tolist())
    assert len(draw_drift(compared(detector, stream), "svg")) < 300_000


def test_what_is_found_is_what_the_tests_say(detector, table) -> None:
    fitted, stream = Detector.load(detector).state, comparison.read_scores(table("inverted", "jsonl"), None)
    found = compared(detector, stream, alpha=0.001)
    assert found.ks == kolmogorov_smirnov(fitted.scorer().calibration.scores, found.scores)
    assert len(found.log_evidence) == len(found.scores) == found.sequential.images == 150
    alarm = found.sequential.alarm_at
    assert alarm is not None
    assert found.log_evidence[alarm - 1] >= np.log(1000) > found.log_evidence[: alarm - 1].max(initial=0)
    assert found.threshold == Detector.load(detector).threshold()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scorer", "mahalanobi"], "the detector has no scorer 'mahalanobi'. Did you mean 'mahalanobis'?\n"),
        (["--alpha", "0"], "alpha must lie between 0 and 1, not 0\n"),
        (["--out", "a.pdf"], "--out a.pdf: a drawing is a file that ends in .svg or .png, or a folder\n"),
    ],
)
def test_mistakes_are_told_in_a_line(ood, detector, pictures, arguments, message) -> None:
    assert ood("drift", detector, pictures / "same" / "000.png", *arguments) == (2, "", message)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,scored\nx,1\n", "a.csv, row 1: has no column 'score'. Did you mean 'scored'?\n"),
        ("b.csv", "file,score\nx,1\ny,much\n", "b.csv, row 2: 'score' is no number: 'much'\n"),
        ("c.jsonl", '{"score": 1}\n[1]\n', "c.jsonl, row 2: is no JSON object\n"),
        ("d.csv", "file,score\n", "there are no images to score\n"),
    ],
)
def test_mistakes_in_a_table_are_told_with_their_row(ood, detector, tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    assert ood("drift", detector, "--scores", name) == (2, "", message)


def test_a_table_that_is_not_there_is_a_mistake(ood, detector) -> None:
    code, _, err = ood("drift", detector, "--scores", "none.csv")
    assert (code, err) == (2, "none.csv: cannot be read: No such file or directory\n")


def test_images_and_scores_at_once_or_neither_are_refused(ood, detector, pictures) -> None:
    for arguments in ([], [pictures / "same", "--scores", "a.csv"]):
        code, _, err = ood("drift", detector, *arguments)
        assert code == 2
        assert "name images, or a table with --scores" in err

"""`ood detector`: that of one network of a run; and the detector that a run leaves by itself."""

import json
import shutil
from pathlib import Path

from PIL import Image

from ood_core.cli import runs
from ood_core.detector import Detector
from ood_core.detector.predictions import summary_lines

VARIED = """
vary:
  one: {training.0.epochs: 1}
  two: {training.0.epochs: 2}
seeds: [0, 1]
"""


def test_a_run_of_one_network_leaves_its_detector(ood_run, tiny):
    code, out, _ = ood_run(tiny, "--set", "data.holdout=0.2")
    assert code == 0
    assert out.rstrip().endswith("detector: runs/tiny/detector")
    assert Detector.load("runs/tiny").scorers == ("energy", "mahalanobis")


def test_a_run_without_held_out_images_says_why_it_has_none(ood_run, tiny, tmp_path):
    code, _, err = ood_run(tiny, "--set", "data.holdout=0")
    assert code == 0
    assert "no detector: no ID images were held out to set a threshold by; give 'data' a 'holdout', such as 0.2" in err
    assert not (tmp_path / "runs" / "tiny" / "detector").exists()


def test_too_few_held_out_images_are_noted_before_the_training_and_lower_the_rate_of_the_detector(
    ood_run, ood, tiny, tmp_path
):
    code, out, err = ood_run(tiny)
    assert code == 0
    before, _, _ = err.partition("train classification")
    assert "--set data.holdout=0.17 holds out enough" in " ".join(before.split())
    assert "detector: runs/tiny/detector, which accepts 92.3% of ID images: it has few to calibrate by" in out
    assert json.loads((tmp_path / "runs/tiny/detector/manifest.json").read_text())["tpr"] == 0.923
    Image.new("RGB", (8, 8)).save("one.png")
    assert ood("score", "tiny", "one.png")[0] == 0
    code, _, err = ood("score", "tiny", "one.png", "--tpr", "0.95")
    assert (code, err.count("\n")) == (2, 1)
    assert "a TPR of 0.95 needs 19 calibration images, there are 12, which can vouch for 0.923 at most" in err
    assert "to accept 92.3% of ID images or more" in ood("detector", "tiny")[1]


def test_of_several_networks_one_is_chosen(ood_run, ood, tiny, tmp_path):
    tiny.write_text(tiny.read_text().replace("seed: 0\n", "") + VARIED)
    code, out, err = ood_run(tiny, "--set", "data.holdout=0.2", "--jobs", "1")
    assert code == 0, err
    assert "detector: `ood detector runs/tiny --variant NAME` makes that of one network" in out

    code, _, err = ood("detector", "tiny")
    assert (code, err) == (2, "tiny has 2 variants; choose one: --variant 'one', 'two'\n")
    code, _, err = ood("detector", "tiny", "--variant", "tow")
    assert (code, err) == (2, "tiny has no variant 'tow'. Did you mean 'two'?\n")
    code, _, err = ood("detector", "tiny", "--variant", "two", "--seed", "4")
    assert (code, err) == (2, "tiny has no seed '4'. There is: 0, 1\n")

    code, out, err = ood("detector", "tiny", "--variant", "two", "--seed", "1", "--tpr", "0.9")
    assert code == 0, err
    assert "set by 24 held-out ID images to accept 90.0% of ID images or more on average" in out
    manifest = json.loads((tmp_path / "runs/tiny/detector/manifest.json").read_text())
    assert (manifest["variant"], manifest["seed"], manifest["tpr"]) == ("two", 1, 0.9)
    assert manifest["recipe"]["training"][0]["epochs"] == 2

    code, _, err = ood("detector", "tiny", "--variant", "one", "--store", "elsewhere")
    assert code == 2
    assert "tiny: its stages are not in the store elsewhere" in err
    code, _, err = ood("detector", "tiny", "--variant", "one", "--tpr", "0.99", "--out", "strict")
    assert code == 2
    assert "a TPR of 0.99 needs 99 calibration images, there are 24" in err
    assert not (tmp_path / "strict").exists()


def test_a_folder_that_is_no_run_is_told(ood, tmp_path):
    (tmp_path / "photos").mkdir()
    assert ood("detector", "photos")[2] == "photos: is no run: it has no recipe.lock.yaml\n"
    assert ood("score", "photos", "x.png")[2] == "photos: has no detector; and no run is there either\n"


def test_a_run_is_found_beside_a_data_folder_of_its_name(ood, tiny_run, tmp_path):
    (tmp_path / "tiny").mkdir()
    shutil.copytree(tiny_run.detector, tmp_path / "runs" / "tiny" / "detector")
    assert runs.detector_folder("tiny") == Path("runs/tiny/detector")


def test_a_run_that_is_not_there_is_told(ood):
    code, _, err = ood("detector", "mod")
    assert code == 2
    assert "no run 'mod', neither a folder nor below runs/" in err


def test_the_accuracy_on_the_held_out_images_is_among_what_is_said_of_a_detector(tiny_detector):
    said = f"the network classifies {tiny_detector.id_accuracy:.1%} of these images correctly"
    assert said in list(summary_lines(tiny_detector.state))

"""kill -9 in the middle of pre-training: the same command goes on, and ends with the scores of an uninterrupted run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ..conftest import TINY

OOD_RUN = Path(sys.executable).with_name("ood-run")
MIM = (
    "training=[{use: mim, epochs: 400, batch_size: 16, min_block: 1, crop_scale: 0.8, flip: false, color_jitter: 0, "
    "tokenizer: {use: kmeans, vocabulary: 8}}, {use: classification, epochs: 2, batch_size: 16, flip: false}]"
)


def command(folder, store):
    return [OOD_RUN, folder / "tiny.yaml", "--set", MIM, "--store", folder / store, "--out", folder / f"out of {store}"]


def wait_for_checkpoint(process, store):
    deadline = time.monotonic() + 200
    while not list(store.glob("unfinished/*/checkpoint.safetensors")):
        assert process.poll() is None, "the run ended before its first checkpoint; give it more epochs"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bits(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    process = subprocess.Popen(command(tmp_path, "broken"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for_checkpoint(process, tmp_path / "broken")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list((tmp_path / "broken").glob("train/*"))
    for store in ("broken", "whole"):
        subprocess.run(command(tmp_path, store), check=True, capture_output=True)
    scores = {
        store: {path.parent.name: np.load(path) for path in (tmp_path / store).glob("score/*/scores.npy")}
        for store in ("broken", "whole")
    }
    assert scores["broken"].keys() == scores["whole"].keys()
    assert len(scores["whole"]) == 8
    for key, whole in scores["whole"].items():
        assert whole.tobytes() == scores["broken"][key].tobytes()
    reports = [json.loads((tmp_path / f"out of {store}" / "report.json").read_text()) for store in ("broken", "whole")]
    assert reports[0]["rows"] == reports[1]["rows"]
    assert not list((tmp_path / "broken" / "unfinished").iterdir())

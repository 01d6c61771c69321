"""kill -9 in the middle of pre-training: the same command goes on, and ends with the scores of an uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ..conftest import TINY
from ..packaging.packages import write_package
from .test_processes import KILLER

OOD_RUN = Path(sys.executable).with_name("ood-run")
MIM = (
    "training=[{use: mim, epochs: 6, batch_size: 16, min_block: 1, crop_scale: 0.8, flip: false, color_jitter: 0, "
    "tokenizer: {use: kmeans, vocabulary: 8}}, {use: classification, epochs: 2, batch_size: 16, flip: false}]"
)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bits(tmp_path, ood_run):
    def command(store):
        return ["tiny.yaml", "--set", MIM, "--store", store, "--out", f"out of {store}"]

    (tmp_path / "tiny.yaml").write_text(TINY)
    environment = os.environ | {"PYTHONPATH": str(write_package(tmp_path, "ood-killer", KILLER))}
    killed = subprocess.run([OOD_RUN, *command("broken")], cwd=tmp_path, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "broken").glob("unfinished/*/checkpoint.safetensors"))) == 1
    assert not list((tmp_path / "broken").glob("train/*"))
    for store in ("broken", "whole"):
        assert ood_run(*command(store))[0] == 0
    broken, whole = (
        {path.parent.name: np.load(path) for path in (tmp_path / store).glob("score/*/scores.npy")}
        for store in ("broken", "whole")
    )
    assert broken.keys() == whole.keys()
    assert len(whole) == 8
    assert all(scores.tobytes() == broken[key].tobytes() for key, scores in whole.items())
    reports = [json.loads((tmp_path / f"out of {store}" / "report.json").read_text()) for store in ("broken", "whole")]
    assert reports[0]["rows"] == reports[1]["rows"]
    assert not list((tmp_path / "broken" / "unfinished").iterdir())

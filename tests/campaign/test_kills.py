"""kill -9 at random moments: the same command goes on, and ends with the bits of a run that was never killed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ..conftest import TINY

TRIALS, IN_ONE_STORE = 40, 4
MIM = (
    "training=[{use: mim, epochs: 3, batch_size: 16, min_block: 1, crop_scale: 0.8, flip: false, color_jitter: 0, "
    "tokenizer: {use: kmeans, vocabulary: 8}}, {use: classification, epochs: 2, batch_size: 16, flip: false}]"
)


class Launcher:
    """Starts `ood-run` in forked processes that have imported everything."""

    def __init__(self, folder):
        command = [sys.executable, str(Path(__file__).with_name("forking_launcher.py"))]
        settings = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=settings, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def start(self, *arguments):
        """Return the id of a process that has begun."""
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def exit_code(self):
        """Wait for it."""
        return int(self.process.stdout.readline())


@pytest.fixture
def launcher(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    started = Launcher(tmp_path)
    yield started
    started.process.stdin.close()
    started.process.wait(20)


def results(folder):
    """Return everything that a run leaves but times, and the names of all its files."""
    found = json.loads((folder / "report.json").read_text())
    return found["rows"], sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(generator, launcher, tmp_path):
    def command(name):
        return "tiny.yaml", "--set", MIM, "--store", f"store of {name}", "--out", name

    for name in ("warm", "whole"):
        begun = time.monotonic()
        launcher.start(*command(name))
        assert launcher.exit_code() == 0
    seconds = time.monotonic() - begun
    expected = results(tmp_path / "whole")
    for trial in range(TRIALS):
        name = f"killed {trial // IN_ONE_STORE}"
        child = launcher.start(*command(name))
        time.sleep(generator.uniform(0, seconds))
        with suppress(ProcessLookupError):  # it was done before
            os.kill(child, signal.SIGKILL)
        assert launcher.exit_code() in (0, -signal.SIGKILL)
        if trial % IN_ONE_STORE == IN_ONE_STORE - 1:
            launcher.start(*command(name))
            assert launcher.exit_code() == 0, f"trial {trial}"
            assert results(tmp_path / name) == expected, f"trial {trial}"
            leftovers = list((tmp_path / f"store of {name}" / "unfinished").glob("*"))
            assert not leftovers, f"trial {trial}"

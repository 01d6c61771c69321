"""kill -9 at random moments: the same command goes on, and ends with the bits of a run that was never killed."""

import json
import multiprocessing
import signal
import sys
import time

import pytest

from ood_core.cli import run

from ..conftest import TINY

TRIALS, IN_ONE_STORE = 40, 4
MIM = (
    "training=[{use: mim, epochs: 3, batch_size: 16, min_block: 1, crop_scale: 0.8, flip: false, color_jitter: 0, "
    "tokenizer: {use: kmeans, vocabulary: 8}}, {use: classification, epochs: 2, batch_size: 16, flip: false}]"
)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(*arguments)`: `ood-run` in a process that was forked from one that has imported everything."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ood_core.cli.launch"])

    def started(*arguments):
        monkeypatch.setattr(sys, "argv", ["ood-run", *arguments])  # which processes are given
        process = context.Process(target=run.main)
        process.start()
        return process

    return started


def exit_code(process):
    process.join()
    return process.exitcode


def results(folder):
    """Return everything that a run leaves but times, and the names of all its files."""
    found = json.loads((folder / "report.json").read_text())
    return found["rows"], sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(generator, start, tmp_path):
    def command(name):
        return "tiny.yaml", "--set", MIM, "--store", f"store of {name}", "--out", name

    for name in ("warm", "whole"):
        begun = time.monotonic()
        assert exit_code(start(*command(name))) == 0
    seconds = time.monotonic() - begun
    expected = results(tmp_path / "whole")
    for trial in range(TRIALS):
        name = f"killed {trial // IN_ONE_STORE}"
        process = start(*command(name))
        time.sleep(generator.uniform(0, seconds))
        process.kill()
        assert exit_code(process) in (0, -signal.SIGKILL)
        if trial % IN_ONE_STORE == IN_ONE_STORE - 1:
            assert exit_code(start(*command(name))) == 0, f"trial {trial}"
            assert results(tmp_path / name) == expected, f"trial {trial}"
            leftovers = list((tmp_path / f"store of {name}" / "unfinished").glob("*"))
            assert not leftovers, f"trial {trial}"

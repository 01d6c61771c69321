"""Idle threads of OpenMP spin only shortly, unless the user has chosen otherwise; no process waits for lost ones."""

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from ood_core.errors import OODError
from ood_core.runtime import openmp


@pytest.fixture
def unset(monkeypatch):
    for name in openmp.OWN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("unset")
def test_spinning_is_limited_for_gnu_and_llvm():
    openmp.limit_spinning()
    assert {name: os.environ.get(name) for name in openmp.OWN} == {**openmp.SETTINGS, "OMP_WAIT_POLICY": None}


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("name", openmp.OWN)
def test_a_setting_of_the_user_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "7")
    openmp.limit_spinning()
    assert {found: os.environ[found] for found in openmp.OWN if found in os.environ} == {name: "7"}


def shown(command, **settings):
    """Return the spin counts that each GNU OpenMP shows when a command loads it."""
    environment = {name: value for name, value in os.environ.items() if name not in openmp.OWN}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | settings
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = {command}\nfrom ood_core import cli\ncli.main()"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return {line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line}


@pytest.mark.slow  # imports torch anew, as OpenMP reads its settings when it is loaded
@pytest.mark.skipif(sys.platform != "linux", reason="other builds of torch have another OpenMP")
def test_the_command_sets_it_before_any_library_loads_openmp():
    assert shown(["ood", "list", "scorers"]) == {openmp.SETTINGS["GOMP_SPINCOUNT"]}
    assert shown(["ood", "list", "scorers"], GOMP_SPINCOUNT="5") == {"5"}


def in_fork(detector, threads):
    """Return the scores that a forked process gives with so many threads, or its error."""
    here, there = multiprocessing.Pipe()

    def work():
        torch.set_num_threads(threads)
        try:
            there.send(detector.score(torch.zeros(2, 3, 8, 8))["energy"].tolist())
        except OODError as error:
            there.send(str(error))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    try:
        assert here.poll(20), "it hangs"
        return here.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libraries do not survive a fork")
def test_a_process_forked_after_use_says_so_where_it_would_hang(tiny_detector):
    expected = tiny_detector.score(torch.zeros(2, 3, 8, 8))["energy"].tolist()
    message = in_fork(tiny_detector, 2)
    assert message.startswith("this process was forked from one that has computed, and lacks its threads: start it by ")
    assert "multiprocessing.get_context('spawn'), or call torch.set_num_threads(1)" in message
    assert in_fork(tiny_detector, 1) == pytest.approx(expected)

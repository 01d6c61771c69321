"""What a killed process left is removed, what a living one writes is not."""

import os
import subprocess
import sys
import time

import pytest

from ood_core.runtime import leftovers
from ood_core.runtime.leftovers import remove_leftovers, temporary_path


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_temporary_path_is_new_each_time_beside_its_place_with_its_suffix(tmp_path):
    first, second = (temporary_path(tmp_path / "report.html") for _ in range(2))
    assert first != second
    assert (first.parent, first.suffix) == (tmp_path, ".html")
    assert len(first.name) < 50


def test_files_and_folders_of_dead_processes_are_removed_and_no_others(tmp_path, gone):
    living = temporary_path(tmp_path / "a")
    others = [tmp_path / name for name in ("report.html", ".hidden", ".ood-", ".ood-notes.txt")]
    beside = living.with_name(living.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
    dead = living.with_name(living.name.replace(f"-{os.getpid()}-", f"-{gone}-"))
    folder = dead.with_name(f"{dead.name}.folder")
    folder.mkdir()
    for path in (living, *others, beside, dead, folder / "weights"):
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {living, *others, beside}


def test_one_of_an_earlier_process_with_the_same_number_is_removed(tmp_path, monkeypatch):
    path = temporary_path(tmp_path / "a")
    path.write_text("x")
    monkeypatch.setattr(leftovers, "_PROCESS", "abcdef")
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_one_of_another_machine_is_removed_after_a_day(tmp_path, monkeypatch):
    path = temporary_path(tmp_path / "a")
    path.write_text("x")
    monkeypatch.setattr(leftovers, "_MACHINE", "01234567")
    remove_leftovers(tmp_path)
    assert path.exists()
    os.utime(path, (0, time.time() - leftovers.FOREIGN_SECONDS - 1))
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_a_folder_that_is_not_there_has_none(tmp_path):
    remove_leftovers(tmp_path / "none")

"""What is kept on the machine: found again where it is right, and absent wherever it might not be."""

import os
import pickle
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from ood_core import cache, files
from ood_core.cache import PixelCache
from ood_core.data import Selection

from .test_data import FlatSource


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


def old(path, text):
    """Write a file as if long ago."""
    path.write_text(text)
    os.utime(path, (time.time() - 100,) * 2)
    return path


# ------------------------------------------------------------------------------------------------------- digests


def test_a_file_that_did_not_change_is_not_read_again(root, tmp_path, monkeypatch):
    path = old(tmp_path / "a", "content")
    first = files.file_digest(path)
    monkeypatch.setattr(files, "_read", lambda path: pytest.fail("read again"))
    assert files.file_digest(path) == first


@pytest.mark.parametrize("change", ["content", "size", "time"])
def test_a_file_that_changed_is_read_again(root, tmp_path, change):
    path = old(tmp_path / "a", "content")
    first = files.file_digest(path)
    if change == "time":
        os.utime(path, (time.time() - 50,) * 2)
    else:
        old(path, "c0ntent" if change == "content" else "longer content")
        os.utime(path, (time.time() - 60,) * 2)
    assert (files.file_digest(path) == first) == (change == "time")


def test_a_file_that_was_written_just_now_is_not_trusted(root, tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    first, known = files.file_digest(path), path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=(known, known))  # as a second write within the clock's resolution would look
    assert files.file_digest(path) != first


def test_many_files_are_looked_up_in_parts(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "AT_ONCE", 3)
    paths = [old(tmp_path / str(n), str(n)) for n in range(10)]
    first = files.digest_files(paths)
    assert len(cache.known_digests(paths)) == 10
    assert files.digest_files(paths) == first


@pytest.mark.parametrize("trouble", ["off", "a file", "broken", "locked"])
def test_without_a_usable_cache_everything_is_read(root, tmp_path, monkeypatch, trouble):
    path = old(tmp_path / "a", "content")
    expected = files.file_digest(path)
    held = None
    if trouble == "off":
        monkeypatch.setenv(cache.FOLDER, "off")
    elif trouble == "a file":
        monkeypatch.setenv(cache.FOLDER, str(path))
    elif trouble == "broken":
        (root / "digests.sqlite").write_bytes(b"no database" * 500)
    else:
        monkeypatch.setattr(cache, "PATIENCE", 0.1)
        held = sqlite3.connect(root / "digests.sqlite")
        held.execute("BEGIN EXCLUSIVE")
    assert files.file_digest(path) == expected
    if held is not None:
        held.close()


def test_a_missing_file_is_the_business_of_whoever_reads_it(root, tmp_path):
    with pytest.raises(FileNotFoundError):
        files.file_digest(tmp_path / "gone")


# ------------------------------------------------------------------------------------------------------ pictures


def picture(value, size=(4, 5)):
    return torch.full((3, *size), value, dtype=torch.uint8)


def opened(rows=6, fingerprint="set"):
    return PixelCache.of(fingerprint, rows, (3, 4, 5))


def test_pictures_are_found_again_also_by_others(root):
    opened().put(2, picture(7))
    other = opened()
    assert torch.equal(other.get(2), picture(7))
    assert other.get(1) is None


def test_a_black_picture_is_not_taken_for_an_absent_one(root):
    opened().put(0, picture(0))
    assert torch.equal(opened().get(0), picture(0))
    assert opened().get(1) is None


def test_sets_have_files_of_their_own(root):
    opened().put(0, picture(7))
    assert opened(fingerprint="other").get(0) is None
    assert opened(rows=7).get(0) is None


def test_a_picture_of_another_size_is_not_kept(root):
    kept = opened()
    kept.put(0, picture(1, (9, 9)))
    assert kept.get(0) is None


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_the_last_row_has_room(root, rows):
    kept = PixelCache.of("odd", rows, (3, 1, 1))
    for row in range(rows):
        kept.put(row, torch.full((3, 1, 1), row, dtype=torch.uint8))
    assert [int(kept.get(row)[0]) for row in range(rows)] == list(range(rows))


def test_a_row_that_was_half_written_counts_as_absent(root):
    kept = opened()
    kept.put(3, picture(9))
    with kept.file.open("r+b") as file:
        file.seek(3 * 60 + 5)
        file.write(b"x")
    assert opened().get(3) is None
    opened().put(3, picture(9))
    assert torch.equal(opened().get(3), picture(9))


def test_what_is_given_out_is_a_copy(root):
    kept = opened()
    kept.put(0, picture(1))
    kept.get(0).fill_(5)
    assert torch.equal(kept.get(0), picture(1))


def test_it_can_be_handed_to_another_process(root):
    kept = opened()
    kept.put(0, picture(4))
    assert torch.equal(pickle.loads(pickle.dumps(kept)).get(0), picture(4))  # noqa: S301 - our own


def test_a_killed_process_leaves_what_it_had_written(root):
    code = (
        "import os, torch; from ood_core.cache import PixelCache\n"
        "kept = PixelCache.of('set', 6, (3, 4, 5))\n"
        "kept.put(1, torch.full((3, 4, 5), 8, dtype=torch.uint8))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert torch.equal(opened().get(1), picture(8))


def test_sets_that_are_too_large_are_not_kept(root, monkeypatch):
    monkeypatch.setattr(cache, "LARGEST", 100)
    assert opened() is None


def test_a_full_disk_is_left_alone(root, monkeypatch):
    monkeypatch.setattr(cache, "SPARE", 2**62)
    assert opened() is None


def test_what_was_not_used_for_longest_goes_first(root, monkeypatch):
    for age, name in enumerate(("new", "older", "oldest")):
        kept = PixelCache.of(name, 50, (3, 40, 40))
        for row in range(50):
            kept.put(row, torch.full((3, 40, 40), 1, dtype=torch.uint8))
        os.utime(kept.file, (time.time() - 100 * age,) * 2)
    monkeypatch.setattr(cache, "KEPT", 3 * 50 * 4800)
    PixelCache.of("another", 50, (3, 40, 40))
    assert [PixelCache.of(name, 50, (3, 40, 40)).get(0) is not None for name in ("new", "oldest")] == [True, False]


# ----------------------------------------------------------------------------------------- pictures of a selection


def test_encoded_pictures_are_decoded_once_for_all_processes_and_runs(root, monkeypatch):
    images = Selection(name="flat", source=FlatSource()).open("train")
    images._pictures.images.encoded = True
    expected = [images.pixels(index) for index in range(5)]
    again = Selection(name="flat", source=FlatSource()).open("train")
    again._pictures.images.encoded = True
    decoded = []
    image = again._pictures.images.image
    monkeypatch.setattr(again._pictures.images, "image", lambda row: decoded.append(row) or image(row))
    assert all(torch.equal(again.pixels(index), expected[index]) for index in range(5))
    assert decoded == [0]  # tells the size


def test_without_a_cache_they_are_decoded_each_time(monkeypatch):
    monkeypatch.setenv(cache.FOLDER, "off")
    images = Selection(name="flat", source=FlatSource()).open("train")
    images._pictures.images.encoded = True
    assert np.array_equal(images.pixels(3), images.pixels(3))

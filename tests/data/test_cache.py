"""What is kept on the machine: found again where it is right, and absent wherever it might not be."""

import errno
import hashlib
import os
import pickle
import sqlite3
import subprocess
import sys
import time

import pytest
import torch

from ood_core.data import cache, files
from ood_core.data.cache import PixelCache
from ood_core.data.selection import Selection

from .test_selection import FlatSource


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trusting(monkeypatch):
    """Files that were written just now count as old ones: the time of an inode's change cannot be set."""
    monkeypatch.setattr(cache, "RACY_SECONDS", -1.0)


def written(path, text, age=100):
    """Write a file with a time long ago."""
    path.write_text(text)
    os.utime(path, (1_700_000_000 - age,) * 2)
    return path


# ------------------------------------------------------------------------------------------------------- digests


def test_a_file_that_did_not_change_is_not_read_again(root, trusting, tmp_path, monkeypatch):
    path = written(tmp_path / "a", "content")
    first = files.file_digest(path)
    monkeypatch.setattr(files, "content_digest", lambda path: pytest.fail("read again"))
    assert files.file_digest(path) == first


@pytest.mark.parametrize("change", ["content", "size", "time", "content under the same time", "another file"])
def test_a_file_that_changed_is_read_again(root, trusting, tmp_path, monkeypatch, change):
    path = written(tmp_path / "a", "content")
    files.file_digest(path)
    if change == "another file":  # as an archive is unpacked over an older one
        written(tmp_path / "b", "c0ntent").replace(path)
    else:
        text = {"size": "longer content", "time": "content"}.get(change, "c0ntent")
        written(path, text, age=100 if change == "content under the same time" else 50)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    reads = []
    original = files.content_digest
    monkeypatch.setattr(files, "content_digest", lambda path: reads.append(path) or original(path))
    assert files.file_digest(path) == expected
    assert reads == [path]


def test_a_file_that_changes_while_others_are_read_is_read_again(root, trusting, tmp_path, monkeypatch):
    path, original = written(tmp_path / "a", "one"), files.content_digest

    def read(path):
        digest = original(path)
        written(path, "two", age=60)
        return digest

    monkeypatch.setattr(files, "content_digest", read)
    first = files.file_digest(path)
    monkeypatch.setattr(files, "content_digest", original)
    assert files.file_digest(path) == hashlib.sha256(b"two").hexdigest() != first


def test_a_file_that_was_written_just_now_is_not_trusted(root, tmp_path, monkeypatch):
    path = written(tmp_path / "a", "one")
    files.file_digest(path)
    monkeypatch.setattr(files, "content_digest", lambda path: "read again")
    assert files.file_digest(path) == "read again"


def test_many_files_are_looked_up_in_parts(root, trusting, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "AT_ONCE", 3)
    paths = [written(tmp_path / str(n), str(n)) for n in range(10)]
    first = files.digest_files(paths)
    monkeypatch.setattr(files, "content_digest", lambda path: pytest.fail("read again"))
    assert files.digest_files(paths) == first


def test_an_interruption_loses_little_of_what_was_read(root, trusting, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SAVED_EVERY", 0.0)
    paths, reads = [written(tmp_path / str(n), str(n)) for n in range(6)], []

    def read(path):
        if len(reads) == 4:
            raise KeyboardInterrupt
        reads.append(path)
        return "digest"

    with pytest.raises(KeyboardInterrupt):
        cache.digests(paths, read)
    cache.digests(paths, lambda path: reads.append(path) or "digest")
    assert sorted(reads) == paths


@pytest.mark.parametrize("trouble", ["off", "a file", "broken", "locked"])
def test_without_a_usable_cache_everything_is_read(root, trusting, tmp_path, monkeypatch, trouble):
    path = written(tmp_path / "a", "content")
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
        file.seek(3 * (60 + 4) + 5)
        file.write(b"x")
    assert opened().get(3) is None
    opened().put(3, picture(9))
    assert torch.equal(opened().get(3), picture(9))


def test_the_picture_of_another_row_counts_as_absent(root):
    kept = opened()
    kept.put(3, picture(9))
    with kept.file.open("r+b") as file:
        file.seek(3 * (60 + 4))
        record = file.read(60 + 4)
        file.seek(0)
        file.write(record)
    assert opened().get(0) is None


def test_a_file_that_was_deleted_or_cut_off_holds_nothing(root):
    kept = opened()
    kept.put(0, picture(1))
    os.truncate(kept.file, 60)
    assert kept.get(0) is None
    assert opened().get(0) is None  # made anew, as its size is wrong
    handed = pickle.loads(pickle.dumps(opened()))  # noqa: S301 - our own
    handed.file.unlink()
    handed.put(0, picture(1))
    assert handed.get(0) is None


def test_a_disk_that_fills_up_is_no_trouble(root, monkeypatch):
    kept = opened()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    kept.put(0, picture(1))
    assert kept.get(0) is None


def test_pictures_of_another_decoder_are_not_taken(root, monkeypatch):
    opened().put(0, picture(7))
    monkeypatch.setattr(cache, "CONVERSION", 0)
    assert opened().get(0) is None


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
        "import os, torch; from ood_core.data.cache import PixelCache\n"
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
    monkeypatch.setattr(cache, "CAPACITY", 3 * 50 * 4800)
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


def test_without_a_cache_they_are_kept_in_memory(monkeypatch):
    monkeypatch.setenv(cache.FOLDER, "off")
    images = Selection(name="flat", source=FlatSource()).open("train")
    images._pictures.images.encoded = True
    assert images.pixels(3) is images.pixels(3)

"""Tar shards: samples and their classes, and shards that are compressed, cut off or damaged."""

import gzip
import io
import json
import multiprocessing
import pickle
import shutil
import tarfile

import pytest

from ood_core.errors import OODError
from ood_files.tars import TarShards

from .small_files import encoded, reds


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(*values):
    return {f"{v:04d}.{end}": c for v in values for end, c in (("png", encoded(v)), ("cls", str(v % 3).encode()))}


def refused(path, message, **options):
    with pytest.raises(OODError, match=message) as caught:
        TarShards(path=path, **options).open("test")
    assert "\n" not in str(caught.value)


def test_samples_of_shards_follow_each_other(tmp_path):
    shard(tmp_path / "train-0001.tar", samples(5, 6))
    shard(tmp_path / "train-0000.tar", samples(1, 2, 3))
    shard(tmp_path / "val-0000.tar", samples(7))
    source = TarShards(path=tmp_path)
    train, test = source.open("train"), source.open("test")
    assert (reds(train), train.labels) == ([1, 2, 3, 5, 6], [1, 2, 0, 2, 0])
    assert (reds(test), test.labels) == ([7], [1])
    assert train.encoded


def test_both_splits_number_the_same_classes(tmp_path):
    shard(tmp_path / "train-0.tar", {"a.png": encoded(1), "a.cls": b"04"})
    shard(tmp_path / "test-0.tar", {"b.png": encoded(2), "b.cls": b"1\n"})
    train, test = TarShards(path=tmp_path).open("train"), TarShards(path=tmp_path).open("test")
    assert train.classes == test.classes == ("0", "1", "2", "3", "4")
    assert (train.labels, test.labels) == ([4], [1])


def test_one_shard_is_both_splits(tmp_path):
    source = TarShards(path=shard(tmp_path / "a.tar", samples(1, 2)))
    assert reds(source.open("train")) == reds(source.open("test")) == [1, 2]


def test_labels_from_json_from_folders_and_none(tmp_path):
    told = {"a.png": encoded(1), "a.json": json.dumps({"kind": "dog"}).encode()}
    path = shard(tmp_path / "a.tar", told)
    assert TarShards(path=path, label="json", field="kind").open("test").classes == ("dog",)
    path = shard(tmp_path / "n.tar", {"a.png": encoded(1), "a.json": b'{"label": 2}'})
    images = TarShards(path=path, label="json").open("test")
    assert (images.classes, images.labels) == (("0", "1", "2"), [2])
    path = shard(
        tmp_path / "b.tar", {"x/cat/1.a.png": encoded(1), "x/cat/1.b.png": encoded(3), "007/2.jpg": encoded(2)}
    )
    images = TarShards(path=path, label="folder").open("test")
    assert (images.classes, images.labels) == (("007", "cat"), [1, 1, 0])
    assert TarShards(path=path, label="none").open("test").classes == ("unlabelled",)


def test_keys_end_at_the_first_dot_and_hidden_files_are_no_pictures(tmp_path):
    members = {"./a.b/1.img.png": encoded(1), "./a.b/1.cls": b"2", "./a.b/._1.png": b"of macOS", "./a.b/1.txt": b"text"}
    images = TarShards(path=shard(tmp_path / "a.tar", members)).open("test")
    assert (reds(images), images.labels) == ([1], [2])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_folders_do_not_move_the_pictures(tmp_path, form):
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for end, content in (("png", encoded(8)), ("cls", b"1")):
            member = tarfile.TarInfo(f"{'a' * 120}/{'ü' * 80}.{end}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    images = TarShards(path=tmp_path / "a.tar").open("test")
    assert (reds(images), images.labels) == ([8], [1])


def test_forked_and_pickled_images_are_read(tmp_path):
    global _forked
    _forked = TarShards(path=shard(tmp_path / "a.tar", samples(*range(6)))).open("test")
    assert reds(_forked) == list(range(6))
    assert reds(pickle.loads(pickle.dumps(_forked))) == list(range(6))  # noqa: S301 - our own
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_reds_of_forked, range(2)) == [list(range(6))] * 2


def _reds_of_forked(_):
    return [int(value) for value in reds(_forked)]


def test_a_shard_that_was_written_anew_is_read_anew(tmp_path):
    source = TarShards(path=shard(tmp_path / "a.tar", samples(1)))
    assert reds(source.open("test")) == [1]
    shard(tmp_path / "a.tar", samples(2, 4))
    assert reds(source.open("test")) == [2, 4]


def test_a_shard_that_is_cut_off_or_damaged_is_named(tmp_path):
    path = shard(tmp_path / "a.tar", samples(1, 2, 3))
    whole = path.read_bytes()
    block = tarfile.BLOCKSIZE
    for size in range(0, 12 * block, block // 4):  # three samples of two members of two blocks each
        path.write_bytes(whole[:size])
        refused(path, r"a\.tar: (cut off or damaged after|not a whole, uncompressed tar file: )")
    path.write_bytes(whole[: 4 * block] + b"damaged" + whole[4 * block + 7 :])
    refused(path, r"a\.tar: cut off or damaged after 0001\.cls$")
    path.write_bytes(b"no tar" * 200)
    refused(path, r"a\.tar: not a whole, uncompressed tar file: ")


def test_compressed_shards_are_refused_with_the_reason(tmp_path):
    plain = shard(tmp_path / "plain" / "a.tar", samples(1)).read_bytes()
    (tmp_path / "test.tar.gz").write_bytes(gzip.compress(plain))
    refused(
        tmp_path / "test.tar.gz",
        r"test\.tar\.gz: compressed \(gzip\), so no picture can be read at its place; unpack it to \.tar$",
    )
    refused(tmp_path, r"no test\*\.tar or .*; test\.tar\.gz is compressed, unpack it to \.tar$")
    (tmp_path / "test.tar.gz").rename(tmp_path / "test-0.tar")
    refused(tmp_path, r"test-0\.tar: compressed \(gzip\)")


def test_missing_shards_tell_what_was_looked_for(tmp_path):
    refused(tmp_path / "gone", r"gone: no such folder or file; the option 'path' sets it$")
    shard(tmp_path / "train-0.tar", samples(1))
    refused(tmp_path, r"no test\*\.tar or testing\*\.tar or val\*\.tar or .* for the test split, only train-0\.tar$")


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({"1.png": encoded(1)}, {}, "no 1.cls beside the picture; 'label' says where classes are$"),
        ({"1.cls": b"1"}, {}, "no pictures in it$"),
        ({}, {}, "no pictures in it$"),
        ({"1.png": encoded(1), "1.cls": b" "}, {}, "1.cls is empty$"),
        ({"1.png": encoded(1), "1.cls": b"20240131"}, {}, "label 20240131 is not a class number below 1000000$"),
        (
            {"1.jpg": encoded(1), "1.seg.png": encoded(2), "1.cls": b"1"},
            {},
            "two pictures of one sample, 1.jpg and 1.seg",
        ),
        ({"1.png": encoded(1), "./1.png": encoded(2), "1.cls": b"1"}, {}, "1.png is in it twice$"),
        (
            {"1.png": encoded(1)},
            {"label": "folder"},
            "1.png lies in no folder, which 'label: folder' takes for the class$",
        ),
        ({"1.png": encoded(1)}, {"label": "json"}, "no 1.json beside the picture; 'label' says where classes are$"),
        ({"1.png": encoded(1), "1.json": b"{}"}, {"label": "json"}, "1.json has no field 'label'$"),
        ({"1.png": encoded(1), "1.json": b"{"}, {"label": "json"}, "1.json has no field 'label'$"),
        (
            {"1.png": encoded(1), "1.json": b'{"label": 1.5}'},
            {"label": "json"},
            "'label' of 1.json is 1.5, neither name nor number$",
        ),
        (
            {"cat/1.png": encoded(1), "Cat/1.png": encoded(2)},
            {"label": "folder"},
            "the classes 'Cat' and 'cat' differ in writing alone; give them one name$",
        ),
    ],
)
def test_a_wrong_shard_is_one_line(tmp_path, members, options, message):
    refused(shard(tmp_path / "a.tar", members), rf"a\.tar: {message}", **options)


def test_the_fingerprint_follows_pixels_and_labels_and_not_the_place(tmp_path):
    def fingerprint(folder, picture=1, label=b"0"):
        members = {"a.png": encoded(picture), "a.cls": label, "b.png": encoded(2), "b.cls": b"1"}
        return TarShards(path=shard(folder / "test.tar", members)).open("test").fingerprint

    first = fingerprint(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    assert TarShards(path=tmp_path / "elsewhere" / "two").open("test").fingerprint == first
    assert len({first, fingerprint(tmp_path / "one", picture=3), fingerprint(tmp_path / "one", label=b"1")}) == 3


def test_a_picture_that_is_broken_or_gone_is_named_when_it_is_read(tmp_path):
    path = shard(tmp_path / "a.tar", {"1.png": encoded(1)[:40], "1.cls": b"0"})
    images = TarShards(path=path).open("test")
    with pytest.raises(OODError, match=r"a\.tar: 1\.png: (broken picture|not a picture)"):
        images.image(0)
    path.unlink()
    with pytest.raises(OODError, match=r"a\.tar: 1\.png cannot be read: No such file or directory$"):
        images.image(0)


def test_samples_without_a_picture_that_is_read_are_noted(tmp_path):
    members = {"1.png": encoded(1), "1.txt": b"x", "2.heic": b"x", "__MACOSX/1.png": b"x"}
    path = shard(tmp_path / "a.tar", members)
    images = TarShards(path=path, label="none").open("test")
    assert len(images) == 1
    assert images.notes == (f"{path} (test split): passed over: 1 hidden file, 1 file of other formats (1 .heic)",)


def test_json_that_is_nested_without_end_is_no_label(tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name, content in (("a.png", encoded(1)), ("a.json", b"[" * 100_000)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(OODError, match=r"all\.tar: a\.json has no field 'label'$"):
        TarShards(path=tmp_path / "all.tar", label="json").open("test")

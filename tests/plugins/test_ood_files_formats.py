"""Image lists, manifests, numpy archives and tar shards: what is read, how splits agree, and what is said when not."""

import csv
import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import PIL.Image
import pytest

from ood_core.errors import OODError
from ood_files.arrays import Arrays
from ood_files.folder import ImageFolder
from ood_files.lists import ImageList
from ood_files.manifests import Manifest
from ood_files.tars import TarShards


def encoded(value, form="PNG"):
    target = io.BytesIO()
    PIL.Image.new("RGB", (4, 3), (value, 0, 255 - value)).save(target, form)
    return target.getvalue()


def write(folder, *values):
    """Write N.png, whose red is N, for each value."""
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        (folder / f"{value}.png").write_bytes(encoded(value))
    return folder


def reds(images):
    return [np.asarray(images.image(i).convert("RGB"))[0, 0, 0] for i in range(len(images))]


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


# --------------------------------------------------------------------------------------------------- image lists


@pytest.fixture
def lists(tmp_path):
    write(tmp_path / "images", 1, 2, 3, 4)
    write(tmp_path / "images" / "with blank", 5)
    train = text(tmp_path / "lists" / "train.txt", "2.png 1", "1.png 0", "with blank/5.png 1")
    test = text(tmp_path / "lists" / "test.txt", "3.png 0", "4.png 2")
    return ImageList(train=train, test=test, path=tmp_path / "images")


def test_a_list_gives_its_pictures_in_its_order(lists):
    images = lists.open("train")
    assert reds(images) == [2, 1, 5]
    assert images.labels == [1, 0, 1]
    assert images.encoded


def test_both_lists_number_the_same_classes(lists):
    assert lists.open("train").classes == lists.open("test").classes == ("0", "1", "2")


def test_classes_get_names_from_a_file(lists, tmp_path):
    names = text(tmp_path / "names.txt", "cat", "dog", "fox")
    assert ImageList(test=lists.test, path=lists.path, names=names).open("test").classes == ("cat", "dog", "fox")


def test_paths_are_relative_to_the_list_where_no_folder_is_given(tmp_path):
    write(tmp_path, 7)
    assert reds(ImageList(test=text(tmp_path / "a.txt", "7.png 0")).open("test")) == [7]


def test_pictures_without_a_class_are_one_class(tmp_path):
    write(tmp_path, 7, 8)
    images = ImageList(test=text(tmp_path / "a.txt", "7.png -1", "8.png -1")).open("test")
    assert images.classes == ("unlabelled",)
    assert images.labels == [0, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1.png 0", "2.png"], r"a\.txt: line 2 is not 'path label': 2\.png"),
        (["1.png cat"], r"a\.txt: line 1 is not 'path label': 1\.png cat"),
        ([""], r"a\.txt: the list is empty"),
        (["1.png 0", "9.png 0", "8.png 1"], r"a\.txt: 2 of its pictures are not there, such as .*/9\.png"),
        (["1.png -1", "2.png 0"], r"some pictures have the label -1, no class, and others have a class"),
        (["1.png -2", "2.png 0"], r"label -2 is not a class number below 1"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path, lines, message):
    write(tmp_path, 1, 2)
    with pytest.raises(OODError, match=message):
        ImageList(test=text(tmp_path / "a.txt", *lines)).open("test")


def test_too_few_names_for_the_labels_are_refused(lists, tmp_path):
    with pytest.raises(OODError, match="label 2 is not a class number below 2"):
        ImageList(test=lists.test, path=lists.path, names=text(tmp_path / "names.txt", "cat", "dog")).open("test")


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OODError, match=r"gone\.txt: no such file"):
        ImageList(test=tmp_path / "gone.txt").open("test")
    with pytest.raises(OODError, match="has no list for the train split; the option 'train' sets it"):
        ImageList(test=text(tmp_path / "a.txt", "1.png 0")).open("train")
    with pytest.raises(OODError, match="dataset 'image-list' needs 'train' or 'test', the list of a split"):
        ImageList().open("test")


# ----------------------------------------------------------------------------------------------------- manifests


def write_csv(path, rows, header=("image", "label", "split")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])
    return path


ROWS = [("1.png", "dog", "train"), ("2.png", "cat", "train"), ("3.png", "dog", "val"), ("4.png", "eel", "train")]


def test_a_csv_gives_the_rows_of_a_split(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    source = Manifest(path=write_csv(tmp_path / "m.csv", ROWS), split_column="split")
    train, test = source.open("train"), source.open("test")
    assert train.classes == test.classes == ("cat", "dog", "eel")
    assert (reds(train), train.labels) == ([1, 2, 4], [1, 0, 2])
    assert (reds(test), test.labels) == ([3], [1])


def test_json_lines_are_read_alike(tmp_path):
    write(tmp_path, 1, 2)
    path = text(tmp_path / "m.jsonl", '{"file": "2.png", "y": 10}', "", '{"file": "1.png", "y": 9}')
    images = Manifest(path=path, image_column="file", label_column="y").open("train")
    assert (images.classes, images.labels, reds(images)) == (("9", "10"), [1, 0], [2, 1])


def test_without_labels_all_is_one_class(tmp_path):
    write(tmp_path, 1)
    path = write_csv(tmp_path / "m.csv", [("1.png",)], ("image",))
    assert Manifest(path=path, label_column=None).open("test").classes == ("unlabelled",)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"image_column": "img"}, r"m\.csv: line 2 has no column 'img'\. Did you mean 'image'\?"),
        ([("1.png", "", "train")], {}, r"m\.csv: line 2 has nothing in column 'label'"),
        ([("1.png", "cat", "x")], {"split_column": "split"}, r"no row whose 'split' is train or training, only x"),
        ([("9.png", "cat", "train")], {}, r"m\.csv: 1 of its pictures are not there, such as .*9\.png"),
        (
            [("1.png", "cat", ""), ("2.png", "Cat", "")],
            {},
            "the classes 'Cat' and 'cat' differ in writing",
        ),
        ([], {}, r"m\.csv: no rows"),
    ],
)
def test_a_wrong_manifest_is_one_line(tmp_path, rows, options, message):
    write(tmp_path, 1, 2, 3, 4)
    with pytest.raises(OODError, match=message):
        Manifest(path=write_csv(tmp_path / "m.csv", rows), **options).open("train")


@pytest.mark.parametrize(("line", "message"), [("{", "line 2 is not JSON"), ("[1]", "line 2 is no JSON object")])
def test_a_line_that_is_no_json_is_named(tmp_path, line, message):
    write(tmp_path, 1)
    with pytest.raises(OODError, match=message):
        Manifest(path=text(tmp_path / "m.jsonl", '{"image": "1.png", "label": 1}', line)).open("test")


def test_a_manifest_of_another_kind_or_none_is_refused(tmp_path):
    with pytest.raises(OODError, match=r"m\.csv: no such file"):
        Manifest(path=tmp_path / "m.csv").open("test")
    with pytest.raises(OODError, match=r"m\.txt: a manifest ends in \.csv or \.jsonl"):
        Manifest(path=text(tmp_path / "m.txt", "x")).open("test")


# -------------------------------------------------------------------------------------------------------- arrays


def pixels(*values, shape=(3, 4, 3)):
    return np.stack([np.full(shape, value, np.uint8) for value in values])


def test_an_archive_for_each_split(tmp_path):
    names = np.array(["cat", "dog"])
    np.savez(tmp_path / "train.npz", images=pixels(1, 2), labels=np.array([1, 0]), classes=names)
    np.savez(tmp_path / "test.npz", x=pixels(3, shape=(3, 4)), y=np.array([1], np.uint8), classes=names)
    train, test = Arrays(path=tmp_path).open("train"), Arrays(path=tmp_path).open("test")
    assert (reds(train), train.labels, train.classes) == ([1, 2], [1, 0], ("cat", "dog"))
    assert (reds(test), test.labels) == ([3], [1])
    assert test.image(0).mode == "L"


def test_one_archive_is_both_splits_and_needs_no_labels(tmp_path):
    np.savez(tmp_path / "all.npz", pixels(5, 6))
    images = Arrays(path=tmp_path / "all.npz").open("test")
    assert (reds(images), images.classes, images.labels) == ([5, 6], ("unlabelled",), [0, 0])


def test_rows_of_two_arrays_as_in_cifar10_c(tmp_path):
    np.save(tmp_path / "fog.npy", pixels(*range(10)))
    np.save(tmp_path / "labels.npy", np.arange(10) % 3)
    images = Arrays(path=tmp_path / "fog.npy", labels=tmp_path / "labels.npy", rows=(4, 6)).open("test")
    assert (reds(images), images.labels) == ([4, 5], [1, 2])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"images": pixels(1).astype(np.float32)}, {}, "images are float32, not uint8"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, {}, "channels first; transpose them"),
        ({"images": np.zeros((2, 8, 8, 4), np.uint8)}, {}, r"\[2, 8, 8, 4\], not \[N, H, W\]"),
        (
            {"pictures": pixels(1)},
            {},
            "no array images or x or data or arr_0, which image_key chooses",
        ),
        ({"images": pixels(1, 2), "labels": np.array([0])}, {}, "2 images, but 1 labels"),
        ({"images": pixels(1), "labels": np.array([-1])}, {}, "not class numbers"),
        ({"images": pixels(1), "labels": np.array([0.5])}, {}, "labels are float64"),
        ({"images": pixels(1), "labels": np.array([2]), "classes": np.array(["a"])}, {}, "label 2, but only 1 names"),
        ({"images": pixels(1)}, {"label_key": "y"}, "no array y, which label_key chooses"),
        ({"images": pixels(1)}, {"rows": (0, 2)}, r"'rows' \[0, 2\] must lie within the 1 images"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, {}, "no images"),
        ({"images": np.array([{}], dtype=object)}, {}, "it holds pickled objects, which are not read"),
    ],
)
def test_a_wrong_archive_is_one_line(tmp_path, arrays, options, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(OODError, match=rf"a\.npz: .*{message}"):
        Arrays(path=tmp_path / "a.npz", **options).open("test")


def test_archives_that_are_not_there_or_broken_are_named(tmp_path):
    with pytest.raises(OODError, match="no such file or folder"):
        Arrays(path=tmp_path / "gone").open("test")
    with pytest.raises(OODError, match=r"no train\.npz for the train split, only nothing"):
        Arrays(path=tmp_path).open("train")
    (tmp_path / "test.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(OODError, match=r"test\.npz: "):
        Arrays(path=tmp_path).open("test")


# ---------------------------------------------------------------------------------------------------- tar shards


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(*values):
    return {f"{v:04d}.{end}": c for v in values for end, c in (("png", encoded(v)), ("cls", str(v % 3).encode()))}


def test_samples_of_shards_follow_each_other(tmp_path):
    shard(tmp_path / "train-0001.tar", samples(5, 6))
    shard(tmp_path / "train-0000.tar", samples(1, 2, 3))
    shard(tmp_path / "val-0000.tar", samples(7))
    source = TarShards(path=tmp_path)
    train, test = source.open("train"), source.open("test")
    assert (reds(train), train.labels) == ([1, 2, 3, 5, 6], [1, 2, 0, 2, 0])
    assert reds(test) == [7]
    assert train.classes == test.classes == ("0", "1", "2")
    assert reds(pickle.loads(pickle.dumps(train))) == reds(train)  # noqa: S301 - our own


def test_labels_from_json_from_folders_and_none(tmp_path):
    told = {"a.png": encoded(1), "a.json": json.dumps({"kind": "dog"}).encode()}
    path = shard(tmp_path / "a.tar", told)
    assert TarShards(path=path, label="json", field="kind").open("test").classes == ("dog",)
    path = shard(tmp_path / "b.tar", {"cat/1.png": encoded(1), "eel/2.jpg": encoded(2, "JPEG")})
    assert TarShards(path=path, label="folder").open("test").classes == ("cat", "eel")
    assert TarShards(path=path, label="none").open("test").classes == ("unlabelled",)


def test_a_shard_that_is_cut_off_is_named(tmp_path):
    path = shard(tmp_path / "a.tar", samples(1))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(OODError, match=r"a\.tar: (the file ends within 0001\.png|not a whole, uncompressed tar file)"):
        TarShards(path=path).open("test")


def test_other_mistakes_with_shards_are_one_line(tmp_path):
    with pytest.raises(OODError, match=r"no train\*\.tar or training\*\.tar for the train split"):
        TarShards(path=tmp_path).open("train")
    with tarfile.open(tmp_path / "train.tar.gz", "w:gz"):
        pass
    with pytest.raises(OODError, match=r"train\.tar\.gz is compressed, unpack it to \.tar"):
        TarShards(path=tmp_path).open("train")
    with pytest.raises(OODError, match=r"x\.tar: no 0001\.cls beside the picture; 'label' says where classes are"):
        TarShards(path=shard(tmp_path / "x.tar", {"0001.png": encoded(1)})).open("test")
    with pytest.raises(OODError, match=r"y\.tar: no pictures in it"):
        TarShards(path=shard(tmp_path / "y.tar", {"0001.cls": b"1"})).open("test")
    (tmp_path / "z.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(OODError, match=r"z\.tar: not a whole, uncompressed tar file"):
        TarShards(path=tmp_path / "z.tar").open("test")


# ------------------------------------------------------------------------------------------------- all of them


def make(kind, folder):
    """Return a source of two pictures of this kind, written into a folder."""
    folder.mkdir(parents=True)
    if kind == "image-list":
        write(folder, 1, 2)
        return ImageList(test=text(folder / "a.txt", "1.png 0", "2.png 1"))
    if kind == "manifest":
        write(folder, 1, 2)
        return Manifest(path=write_csv(folder / "m.csv", [("1.png", "a"), ("2.png", "b")], ("image", "label")))
    if kind == "arrays":
        np.savez(folder / "a.npz", images=pixels(1, 2), labels=np.array([0, 1]))
        return Arrays(path=folder / "a.npz")
    if kind == "folder":
        write(folder / "a", 1)
        write(folder / "b", 2)
        return ImageFolder(path=folder)
    return TarShards(path=shard(folder / "a.tar", samples(1, 2)))


@pytest.mark.parametrize("kind", ["image-list", "manifest", "arrays", "folder", "tar"])
def test_the_fingerprint_is_that_of_the_content_not_of_the_place(kind, tmp_path):
    one = make(kind, tmp_path / "one").open("test").fingerprint
    assert make(kind, tmp_path / "elsewhere" / "two").open("test").fingerprint == one
    shutil.rmtree(tmp_path / "one")
    source = make(kind, tmp_path / "one")
    changed = next(path for path in sorted((tmp_path / "one").rglob("*")) if path.suffix in (".png", ".npz", ".tar"))
    if kind == "arrays":
        np.savez(changed, images=pixels(1, 3), labels=np.array([0, 1]))
    elif kind == "tar":
        shard(changed, samples(1, 5))
    else:
        changed.write_bytes(encoded(9))
    assert source.open("test").fingerprint != one


@pytest.mark.parametrize("kind", ["image-list", "manifest", "folder", "tar"])
def test_a_broken_picture_is_named_when_it_is_read(kind, tmp_path):
    source = make(kind, tmp_path / "one")
    if kind == "tar":
        shard(tmp_path / "one" / "a.tar", {"0001.png": encoded(1)[:40], "0001.cls": b"0"})
    else:
        picture = next((tmp_path / "one").rglob("1.png"))
        picture.write_bytes(encoded(1)[:40])
    with pytest.raises(OODError, match=r"1\.png: (broken picture|not a picture)"):
        source.open("test").image(0)


def test_folders_that_differ_by_case_alone_are_refused(tmp_path):
    write(tmp_path / "cat", 1)
    write(tmp_path / "Cat", 2)
    with pytest.raises(OODError, match="the classes 'Cat' and 'cat' differ in writing alone; give them one name"):
        ImageFolder(path=tmp_path).open("test")

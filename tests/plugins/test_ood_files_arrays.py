"""Numpy archives and pairs of arrays: what is read, which classes both splits have, and what is refused."""

import pickle
import shutil

import numpy as np
import pytest

from ood_core.errors import OODError
from ood_files.arrays import Arrays

from .small_files import encoded, reds


def pixels(*values, shape=(3, 4, 3)):
    return np.stack([np.full(shape, value, np.uint8) for value in values])


def archive(path, values, labels=None, **more):
    told = {} if labels is None else {"labels": np.array(labels)}
    np.savez(path, images=pixels(*values), **told, **more)
    return path


def test_an_archive_for_each_split(tmp_path):
    names = np.array(["cat", "dog"])
    archive(tmp_path / "train.npz", [1, 2], [1, 0], classes=names)
    np.savez(tmp_path / "test.npz", x=pixels(3, shape=(3, 4)), y=np.array([1], np.uint8), classes=names)
    train, test = Arrays(path=tmp_path).open("train"), Arrays(path=tmp_path).open("test")
    assert (reds(train), train.labels, train.classes) == ([1, 2], [1, 0], ("cat", "dog"))
    assert (reds(test), test.labels, test.classes) == ([3], [1], ("cat", "dog"))
    assert (train.image(0).mode, test.image(0).mode) == ("RGB", "L")
    assert not train.encoded


def test_both_archives_number_the_same_classes(tmp_path):
    archive(tmp_path / "train.npz", [1, 2], [0, 2])
    archive(tmp_path / "test.npz", [3], [1])
    assert Arrays(path=tmp_path).open("train").classes == Arrays(path=tmp_path).open("test").classes == ("0", "1", "2")


def test_names_in_one_archive_are_those_of_both(tmp_path):
    archive(tmp_path / "train.npz", [1, 2], [0, 1], classes=np.array(["cat", "dog"]))
    archive(tmp_path / "test.npz", [3], [1])
    assert Arrays(path=tmp_path).open("test").classes == ("cat", "dog")


def test_one_archive_is_both_splits_and_needs_no_labels(tmp_path):
    np.savez_compressed(tmp_path / "all.npz", pixels(5, 6))
    for split in ("train", "test"):
        images = Arrays(path=tmp_path / "all.npz").open(split)
        assert (reds(images), images.classes, images.labels) == ([5, 6], ("unlabelled",), [0, 0])


def test_other_keys_are_chosen(tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels(1), noisy=pixels(2), y=np.array([0]), fine=np.array([3]))
    images = Arrays(path=tmp_path / "a.npz", image_key="noisy", label_key="fine").open("test")
    assert (reds(images), images.labels) == ([2], [3])


def test_rows_of_two_arrays_as_in_cifar10_c(tmp_path):
    np.save(tmp_path / "fog.npy", pixels(*range(10)))
    np.save(tmp_path / "labels.npy", np.arange(10) % 3)
    images = Arrays(path=tmp_path / "fog.npy", labels=tmp_path / "labels.npy", rows=(4, 6)).open("test")
    assert (reds(images), images.labels, images.classes) == ([4, 5], [1, 2], ("0", "1", "2"))
    assert isinstance(images._images, np.memmap)
    assert reds(pickle.loads(pickle.dumps(images))) == [4, 5]  # noqa: S301 - our own


def test_one_array_without_labels_is_one_class(tmp_path):
    np.save(tmp_path / "fog.npy", pixels(7))
    images = Arrays(path=tmp_path / "fog.npy").open("train")
    assert (reds(images), images.classes) == ([7], ("unlabelled",))


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"images": pixels(1).astype(np.float32)}, {}, "images are float32, not uint8 from 0 to 255$"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, {}, r"channels first; transpose them to \[N, H, W, 3\]$"),
        ({"images": np.zeros((2, 8, 8, 4), np.uint8)}, {}, r"\[2, 8, 8, 4\], not \[N, H, W\] or \[N, H, W, 3\]$"),
        ({"pictures": pixels(1)}, {}, "no array images or x or data or arr_0, which image_key chooses; there is: pict"),
        ({"images": pixels(1, 2), "labels": np.array([0])}, {}, "2 images, but 1 labels$"),
        ({"images": pixels(1), "labels": np.array([-1])}, {}, r"labels are int64 \[1\], not class numbers"),
        ({"images": pixels(1), "labels": np.array([[0]])}, {}, r"labels are int64 \[1, 1\], not class numbers"),
        ({"images": pixels(1), "labels": np.array([0.5])}, {}, r"labels are float64 \[1\], not class numbers"),
        (
            {"images": pixels(1), "labels": np.array([10**9])},
            {},
            "label 1000000000 is not a class number below 1000000$",
        ),
        ({"images": pixels(1), "labels": np.array([2]), "classes": np.array(["a"])}, {}, "label 2, but only 1 names"),
        (
            {"images": pixels(1), "labels": np.array([0]), "classes": np.array(["cat", "Cat"])},
            {},
            "the classes 'cat' and 'Cat' differ in writing alone; give them one name$",
        ),
        (
            {"images": pixels(1), "labels": np.array([0]), "classes": np.array(["cat", "cat"])},
            {},
            "classes 0 and 1 are both called 'cat'$",
        ),
        ({"images": pixels(1)}, {"label_key": "y"}, "no array y, which label_key chooses; there is: images$"),
        ({"images": pixels(1)}, {"rows": (0, 2)}, r"'rows' \[0, 2\] must lie within the 1 images$"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, {}, "no images$"),
        (
            {"images": np.array([{}], dtype=object)},
            {},
            "it holds pickled objects, which are not read; save plain arrays$",
        ),
    ],
)
def test_a_wrong_archive_is_one_line(tmp_path, arrays, options, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(OODError, match=rf"a\.npz: .*{message}") as caught:
        Arrays(path=tmp_path / "a.npz", **options).open("test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"labels": [0]}, {}, "one has labels, the other has none$"),
        (
            {"labels": [0], "classes": np.array(["cat", "dog"])},
            {"labels": [0], "classes": np.array(["cat", "Dog"])},
            "the names in 'classes' differ: '(dog|Dog)' and '(dog|Dog)'$",
        ),
        (
            {"labels": [0], "classes": np.array(["cat", "dog"])},
            {"labels": [0], "classes": np.array(["cat"])},
            "the names in 'classes' differ: (1 and 2|2 and 1) of them$",
        ),
    ],
)
def test_archives_that_disagree_are_refused(tmp_path, train, test, message):
    archive(tmp_path / "train.npz", [1], **train)
    archive(tmp_path / "test.npz", [2], **test)
    for split in ("train", "test"):
        with pytest.raises(OODError, match=rf"test\.npz and .*train\.npz: {message}"):
            Arrays(path=tmp_path).open(split)


def test_archives_that_are_not_there_or_broken_are_named(tmp_path):
    with pytest.raises(OODError, match=r"gone: no such file or folder; the option 'path' sets it$"):
        Arrays(path=tmp_path / "gone").open("test")
    with pytest.raises(OODError, match=r"no train\.npz for the train split, only nothing$"):
        Arrays(path=tmp_path).open("train")
    for content in (b"", b"PK\x03\x04 cut off", encoded(1)):
        (tmp_path / "test.npz").write_bytes(content)
        with pytest.raises(OODError, match=r"test\.npz: not a whole numpy archive \(\.npz\)$"):
            Arrays(path=tmp_path).open("test")
    content = archive(tmp_path / "test.npz", [1] * 50).read_bytes()
    (tmp_path / "test.npz").write_bytes(content[:500] + b"damaged" + content[507:])
    with pytest.raises(OODError, match=r"test\.npz: cannot be read: Bad CRC-32"):
        Arrays(path=tmp_path).open("test")


def test_single_arrays_that_are_not_there_or_broken_are_named(tmp_path):
    path = tmp_path / "fog.npy"
    np.save(path, pixels(1, 2))
    with pytest.raises(OODError, match=r"labels\.npy: no such file; the option 'labels' sets it$"):
        Arrays(path=path, labels=tmp_path / "labels.npy").open("test")
    for content in (b"", encoded(1), path.read_bytes()[:-10]):
        path.write_bytes(content)
        with pytest.raises(OODError, match=r"fog\.npy: cannot be read: ") as caught:
            Arrays(path=path).open("test")
        assert "\n" not in str(caught.value)
    np.save(path, np.array([{}], dtype=object))
    with pytest.raises(OODError, match=r"fog\.npy: it holds pickled objects, which are not read; save plain arrays$"):
        Arrays(path=path).open("test")


def test_options_for_the_other_kind_of_file_are_refused(tmp_path):
    np.save(tmp_path / "fog.npy", pixels(1))
    archive(tmp_path / "a.npz", [1])
    with pytest.raises(
        OODError, match=r"a\.npz: 'labels' is for an \.npy file; in an archive 'label_key' chooses the lab"
    ):
        Arrays(path=tmp_path / "a.npz", labels=tmp_path / "fog.npy").check()
    with pytest.raises(
        OODError, match=r"fog\.npy: 'image_key' and 'label_key' are for archives \(\.npz\); 'labels' is for"
    ):
        Arrays(path=tmp_path / "fog.npy", image_key="x").check()


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_the_fingerprint_follows_pixels_and_labels_and_not_the_place(kind, tmp_path):
    def fingerprint(folder, values=(1, 2), labels=(0, 1), rows=None):
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "npz":
            return Arrays(path=archive(folder / "a.npz", values, labels), rows=rows).open("test").fingerprint
        np.save(folder / "a.npy", pixels(*values))
        np.save(folder / "b.npy", np.array(labels))
        return Arrays(path=folder / "a.npy", labels=folder / "b.npy", rows=rows).open("test").fingerprint

    first = fingerprint(tmp_path / "one")
    assert fingerprint(tmp_path / "elsewhere" / "two") == first
    others = [{"values": (1, 3)}, {"labels": (1, 0)}, {"values": (2, 1)}, {"rows": (0, 1)}, {"rows": (1, 2)}]
    found = {fingerprint(tmp_path / "one", **changed) for changed in others}
    assert len(found | {first}) == 6
    shutil.rmtree(tmp_path / "one")
    assert fingerprint(tmp_path / "one") == first


def test_headers_and_compressions_that_numpy_stumbles_over_are_named(tmp_path):
    np.save(tmp_path / "fog.npy", pixels(1, 2))
    content = (tmp_path / "fog.npy").read_bytes()
    (tmp_path / "fog.npy").write_bytes(content.replace(b"}", b" "))  # tokenize.TokenError
    with pytest.raises(OODError, match=r"fog\.npy: cannot be read: .*EOF in multi-line statement"):
        Arrays(path=tmp_path / "fog.npy").open("test")
    content = archive(tmp_path / "test.npz", [1, 2]).read_bytes()
    (tmp_path / "test.npz").write_bytes(content.replace(b"PK\x01\x02\x2d\x03\x2d", b"PK\x01\x02\x2d\x03\x7b"))
    with pytest.raises(OODError, match=r"test\.npz: cannot be read: zip file version 12\.3"):  # NotImplementedError
        Arrays(path=tmp_path).open("test")

"""Image folders: classes, splits, links, and what is missing or may not be read."""

import errno
import os
from pathlib import Path

import pytest

from ood_core.errors import OODError
from ood_files.folder import ImageFolder

from .small_files import cut_off, picture, red


def write_folder(root, *files):
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / file)
    return root


def test_folders_are_classes(tmp_path):
    write_folder(tmp_path, "dog/1.png", "cat/b/2.bmp", "cat/a.PNG")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "cat" / "._a.PNG").write_bytes(b"not a picture either")
    images = ImageFolder(path=tmp_path).open("train")
    assert images.encoded
    assert images.classes == ("cat", "dog")
    assert images.labels == [0, 0, 1]
    assert [red(images, i) for i in range(3)] == [2, 1, 0]
    assert ImageFolder(path=tmp_path).open("test").fingerprint == images.fingerprint


@pytest.mark.parametrize("test", ["test", "val"])
def test_classes_have_the_same_labels_in_both_splits(tmp_path, test):
    write_folder(tmp_path, "train/cat/1.png", "train/dog/1.png", f"{test}/dog/1.png", f"{test}/emu/1.png")
    train, tested = ImageFolder(path=tmp_path).open("train"), ImageFolder(path=tmp_path).open("test")
    assert train.classes == tested.classes == ("cat", "dog", "emu")
    assert (train.labels, tested.labels) == ([0, 1], [1, 2])
    assert red(tested, 0) == 2


def test_test_is_preferred_to_val(tmp_path):
    write_folder(tmp_path, "train/cat/1.png", "val/cat/1.png", "test/cat/1.png")
    assert red(ImageFolder(path=tmp_path).open("test"), 0) == 2


def test_class_may_be_called_train(tmp_path):
    write_folder(tmp_path, "bus/1.png", "train/1.png")
    assert ImageFolder(path=tmp_path).open("test").classes == ("bus", "train")


def test_folder_fingerprint_follows_content_and_class(tmp_path):
    names = ("cat/1.png", "dog/1.png")
    a, b = (ImageFolder(path=write_folder(tmp_path / root, *names)).open("test").fingerprint for root in "ab")
    c = ImageFolder(path=write_folder(tmp_path / "c", *reversed(names))).open("test").fingerprint
    (tmp_path / "b" / "bee").mkdir()
    d = ImageFolder(path=tmp_path / "b").open("test").fingerprint
    assert a == b
    assert len({a, c, d}) == 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_picture_keeps_its_mode(tmp_path, mode):
    (tmp_path / "cat").mkdir()
    picture(200).convert(mode).save(tmp_path / "cat" / "1.png")
    assert ImageFolder(path=tmp_path).open("test").image(0).mode == mode


def test_broken_file_is_named(tmp_path):
    write_folder(tmp_path, "cat/1.png")
    images = ImageFolder(path=tmp_path).open("test")
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(OODError, match=r"cat/1\.png: not a picture in a known format$"):
        images.image(0)
    (tmp_path / "cat" / "1.png").unlink()
    with pytest.raises(OODError, match=r"cat/1\.png: cannot be read: No such file"):
        images.image(0)


def test_missing_folder_is_refused_before_the_run(tmp_path):
    with pytest.raises(OODError, match=r"nowhere: no such folder$"):
        ImageFolder(path=tmp_path / "nowhere").check()
    (tmp_path / "file").touch()
    with pytest.raises(OODError, match=r"file: not a folder$"):
        ImageFolder(path=tmp_path / "file").check()


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(OODError, match=r"no pictures in class folders, only nothing$"):
        ImageFolder(path=tmp_path).open("test")
    for name in "abcdefg":
        (tmp_path / name).mkdir()
    with pytest.raises(OODError, match=r"no pictures in class folders, only a, b, c, d, e, 2 more$"):
        ImageFolder(path=tmp_path).open("test")


def test_pictures_without_class_folders_are_refused(tmp_path):
    write_folder(tmp_path, "1.png")
    with pytest.raises(OODError, match=r"the pictures lie in no class folder; put them into one folder a class$"):
        ImageFolder(path=tmp_path).open("test")


def test_missing_split_folder_is_named(tmp_path):
    write_folder(tmp_path, "test/cat/1.png")
    with pytest.raises(OODError, match=r"no folder train for the train split, only test$"):
        ImageFolder(path=tmp_path).open("train")


def test_truncated_picture_is_named_with_the_reason(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(cut_off())
    with pytest.raises(OODError, match=r"cat/1\.png: broken picture: .*truncated"):
        ImageFolder(path=tmp_path).open("test").image(0)


def test_folders_that_differ_by_case_alone_are_refused_also_over_splits(tmp_path):
    write_folder(tmp_path, "train/cat/1.png", "test/Cat/1.png")
    for split in ("train", "test"):
        with pytest.raises(OODError, match="the classes 'Cat' and 'cat' differ in writing alone; give them one name"):
            ImageFolder(path=tmp_path).open(split)


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("dog", "dog", r"/dog: a link that leads nowhere, or in a circle$"),
        ("dog", "gone", r"/dog: a link that leads nowhere, or in a circle$"),
        ("dog", ".", r"/dog: a link to a folder that it lies in$"),
        ("dog", "..", r"/dog: a link to a folder that it lies in$"),
        ("cat/2.png", "2.png", r": 1 of its pictures are not there, such as .*/cat/2\.png$"),
        ("cat/2.png", "gone.png", r": 1 of its pictures are not there, such as .*/cat/2\.png$"),
    ],
)
def test_link_that_leads_nowhere_or_in_a_circle_is_refused(tmp_path, link, target, message):
    write_folder(tmp_path, "cat/1.png")
    (tmp_path / link).symlink_to(target)
    with pytest.raises(OODError, match=message):
        ImageFolder(path=tmp_path).open("test")


def test_links_to_pictures_and_folders_elsewhere_are_followed(tmp_path):
    write_folder(tmp_path / "store", "1.png", "emu/2.png")
    write_folder(tmp_path / "set", "cat/3.png")
    (tmp_path / "set" / "cat" / "4.png").symlink_to(tmp_path / "store" / "1.png")
    (tmp_path / "set" / "emu").symlink_to(tmp_path / "store" / "emu")
    images = ImageFolder(path=tmp_path / "set").open("test")
    assert (images.classes, images.labels) == (("cat", "emu"), [0, 0, 1])
    assert [red(images, i) for i in range(3)] == [0, 0, 1]


@pytest.mark.parametrize("what", ["cat", "cat/1.png"])
def test_what_may_not_be_read_is_named(tmp_path, monkeypatch, what):
    write_folder(tmp_path, "cat/1.png")
    forbidden = tmp_path / what
    for owner, name in ((os, "scandir"), (Path, "open")):
        monkeypatch.setattr(owner, name, _forbidding(forbidden, getattr(owner, name)))
    with pytest.raises(OODError, match=rf"/{what}: cannot be read: Permission denied$"):
        ImageFolder(path=tmp_path).open("test")


def _forbidding(forbidden, real):
    # Root, which tests may run as, can read whatever the permissions are.
    def call(path, *arguments, **options):
        if Path(path) == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    return call


def test_hidden_folders_are_no_classes_and_what_is_passed_over_is_noted(tmp_path):
    write_folder(tmp_path, "cat/1.png", "__MACOSX/2.png", "cat/.ipynb_checkpoints/1-checkpoint.png")
    (tmp_path / "cat" / "2.heic").touch()
    images = ImageFolder(path=tmp_path).open("test")
    assert (images.classes, len(images)) == (("cat",), 1)
    assert images.notes == (f"{tmp_path}: passed over: 2 hidden folders, 1 file of other formats (1 .heic)",)


def test_what_lies_beside_the_splits_is_noted(tmp_path):
    write_folder(tmp_path, "training/cat/1.png", "valid/cat/2.png", "valid/cat/3.jfif")
    assert ImageFolder(path=tmp_path).open("train").notes == ()
    (tmp_path / "training" / "list.txt").touch()
    (tmp_path / "masks").mkdir()
    assert ImageFolder(path=tmp_path).open("train").notes == (
        f"{tmp_path}: passed over: 1 folder beside the splits",
        f"{tmp_path}/training: passed over: 1 file of other formats (1 .txt)",
    )
    assert len(ImageFolder(path=tmp_path).open("test")) == 2


def test_the_folder_above_a_data_set_is_refused_by_a_line_that_says_which_is_meant(tmp_path):
    write_folder(tmp_path, "id/train/cat/1.png", "id/test/cat/2.png", "far/sea/3.png")
    with pytest.raises(
        OODError, match=r"'id' in it is no class but a data set with the splits train and test; say .*/id$"
    ):
        ImageFolder(path=tmp_path).open("train")


def test_only_other_formats_are_counted_in_the_error(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.heic").touch()
    with pytest.raises(OODError, match=r"only cat; passed over: 1 file of other formats \(1 \.heic\)$"):
        ImageFolder(path=tmp_path).open("test")

"""Image lists: what is read, how both splits agree on classes, and what is said when they do not."""

import shutil

import pytest

from ood_core.errors import OODError
from ood_files.lists import ImageList

from .small_files import encoded, reds, text, write


@pytest.fixture
def lists(tmp_path):
    write(tmp_path / "images", 1, 2, 3, 4)
    write(tmp_path / "images" / "with blank", 5)
    train = text(tmp_path / "lists" / "train.txt", "2.png 1", "1.png 0", "with blank/5.png 1")
    test = text(tmp_path / "lists" / "test.txt", "3.png 0", "4.png 2")
    return ImageList(train=train, test=test, path=tmp_path / "images")


def opened(tmp_path, *lines, **options):
    return ImageList(test=text(tmp_path / "a.txt", *lines), **options).open("test")


def test_a_list_gives_its_pictures_in_its_order(lists):
    train, test = lists.open("train"), lists.open("test")
    assert (reds(train), train.labels) == ([2, 1, 5], [1, 0, 1])
    assert (reds(test), test.labels) == ([3, 4], [0, 2])
    assert train.encoded


def test_both_lists_number_the_same_classes(lists):
    assert lists.open("train").classes == lists.open("test").classes == ("0", "1", "2")


def test_classes_get_names_from_a_file(lists, tmp_path):
    names = text(tmp_path / "names.txt", "cat", "dog ", "fox", "")
    images = ImageList(train=lists.train, test=lists.test, path=lists.path, names=names).open("train")
    assert images.classes == ("cat", "dog", "fox")


def test_paths_are_relative_to_the_list_where_no_folder_is_given(tmp_path):
    write(tmp_path, 7)
    assert reds(opened(tmp_path, "7.png 0")) == [7]


def test_pictures_without_a_class_are_one_class(tmp_path):
    write(tmp_path, 7, 8)
    images = opened(tmp_path, "7.png -1", "8.png -1")
    assert (images.classes, images.labels) == (("unlabelled",), [0, 0])


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("1.png 3", "1.png", 3),
        ("1.png\t3", "1.png", 3),
        ("1.png,3", "1.png", 3),
        ("1.png; 3", "1.png", 3),
        ("1,2.png,3", "1,2.png", 3),
        ('"1 ,2.png",3', "1 ,2.png", 3),
        ("1.png  3  ", "1.png", 3),
        ("\ufeff1.png 3", "1.png", 3),
        ("a 1 2.png 3", "a 1 2.png", 3),
        ("a {1} 2.png 3", "a {1} 2.png", 3),
        ("1.png 3 {'coarse': 1}", "1.png", 3),
        ('1.png 3 {"boxes": [[1, 2]]}', "1.png", 3),
        ("1.png 3 [0.1, 0.9]", "1.png", 3),
        ("1.png {'label': 3, 'coarse': 1}", "1.png", 3),
    ],
)
def test_lines_of_every_kind_are_read(tmp_path, line, path, label):
    (tmp_path / path).write_bytes(encoded(9))
    images = opened(tmp_path, line)
    assert (reds(images), images.labels) == ([9], [label])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1.png 0", "2.png"], r"a\.txt: line 2 is not 'path label': 2\.png$"),
        (["1.png cat", "2.png 1"], r"a\.txt: line 1 is not 'path label', as those .* 'manifest': 1\.png cat$"),
        (
            ["path,label", "1.png,0"],
            r"a\.txt: line 1 is not 'path label', as those below; a table with a header is read",
        ),
        (["1.png 1", "2.png cat"], r"a\.txt: line 2 is not 'path label': 2\.png cat$"),
        (["1.png 0 cat"], r"a\.txt: line 1 is not 'path label': 1\.png 0 cat$"),
        (["1.png {'coarse': 1}"], r"a\.txt: line 1 is not 'path label': 1\.png {'coarse': 1}$"),
        (["1.png {coarse}"], r"a\.txt: line 1 is not 'path label': 1\.png {coarse}$"),
        (["", " "], r"a\.txt: the list is empty$"),
        (
            ["1.png 0", "9.png 0", "8.png 1"],
            r"a\.txt: 2 of its pictures are not there, such as .*/9\.png; the option 'path' sets",
        ),
        (["1.png -1", "2.png 0"], r"a\.txt: some pictures have the label -1, no class, and others have a class$"),
        (["1.png -2", "2.png 0"], r"a\.txt: label -2 is not a class number below 1$"),
        (["1.png 20240131"], r"a\.txt: label 20240131 is not a class number below 1000000$"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path, lines, message):
    write(tmp_path, 1, 2)
    with pytest.raises(OODError, match=message):
        opened(tmp_path, *lines)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog"], r"test\.txt: label 2 is not a class number below 2$"),
        (["cat", "dog", "dog"], r"names\.txt: classes 1 and 2 are both called 'dog'$"),
        (
            ["cat", "dog", "Dog"],
            r"names\.txt: the classes 'dog' and 'Dog' differ in writing alone; give them one name$",
        ),
        (["cat", "", "dog"], r"names\.txt: class 1 has no name$"),
    ],
)
def test_names_that_do_not_fit_are_refused(lists, tmp_path, names, message):
    source = ImageList(test=lists.test, path=lists.path, names=text(tmp_path / "names.txt", *names))
    with pytest.raises(OODError, match=message):
        source.open("test")


def test_names_of_no_class_are_refused(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(OODError, match=r"names\.txt: names of classes, but all labels in .*a\.txt are -1, no class$"):
        opened(tmp_path, "1.png -1", names=text(tmp_path / "names.txt", "cat"))


def test_a_split_without_classes_beside_one_with_classes_is_refused(lists, tmp_path):
    unlabelled = text(tmp_path / "unlabelled.txt", "1.png -1")
    source = ImageList(train=lists.train, test=unlabelled, path=lists.path)
    for split in ("train", "test"):
        with pytest.raises(OODError, match=r"train\.txt and .*unlabelled\.txt: some pictures have the label -1"):
            source.open(split)


def test_a_list_that_is_not_there_is_named_with_its_option(tmp_path, lists):
    with pytest.raises(OODError, match=r"gone\.txt: no such file; the option 'test' sets it$"):
        ImageList(test=tmp_path / "gone.txt").open("test")
    with pytest.raises(OODError, match=r"gone\.txt: no such file; the option 'test' sets it$"):
        ImageList(train=lists.train, path=lists.path, test=tmp_path / "gone.txt").open("train")
    with pytest.raises(OODError, match=r"gone\.txt: no such file; the option 'names' sets it$"):
        ImageList(train=lists.train, path=lists.path, names=tmp_path / "gone.txt").open("train")
    with pytest.raises(OODError, match=r"gone: no such folder; the option 'path' sets what the paths in .*train\.txt"):
        ImageList(train=lists.train, path=tmp_path / "gone").open("train")
    with pytest.raises(OODError, match=r"has no list for the train split; the option 'train' sets it$"):
        ImageList(test=text(tmp_path / "a.txt", "1.png 0")).open("train")
    with pytest.raises(OODError, match=r"dataset 'image-list' needs 'train' or 'test', the list of a split$"):
        ImageList().check()


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(encoded(1))
    with pytest.raises(OODError, match=r"a\.txt: cannot be read: 'utf-8' codec") as caught:
        ImageList(test=tmp_path / "a.txt").open("test")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_follows_pixels_and_labels_and_not_the_place(tmp_path):
    def fingerprint(folder, line="1.png 0"):
        return opened(folder, line, "2.png 1").fingerprint

    first = fingerprint(write(tmp_path / "one", 1, 2))
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    assert fingerprint(tmp_path / "elsewhere" / "two") == first
    assert fingerprint(tmp_path / "one", "1.png 1") != first
    (tmp_path / "one" / "1.png").write_bytes(encoded(3))
    assert fingerprint(tmp_path / "one") != first


def test_a_broken_picture_is_named_when_it_is_read(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "1.png").write_bytes(encoded(1)[:40])
    with pytest.raises(OODError, match=r"/1\.png: (broken picture|not a picture)"):
        opened(tmp_path, "1.png 0").image(0)


@pytest.mark.parametrize("lines", [("3.png dog", "4.png cat"), ("3.png,dog", "4.png,cat"), ("3.png;dog", "4.png;cat")])
def test_labels_may_be_names(tmp_path, lines):
    write(tmp_path, 3, 4)
    images = opened(tmp_path, *lines)
    assert (images.classes, images.labels, reds(images)) == (("cat", "dog"), [1, 0], [3, 4])


def test_names_with_blanks_stand_behind_a_separator_in_the_order_of_the_file_of_names(tmp_path):
    write(tmp_path / "a b", 3, 4)
    names = text(tmp_path / "names.txt", "golden retriever", "emu", "cat, big")
    images = opened(tmp_path, "a b/3.png\tcat, big", '"a b/4.png"\tgolden retriever', names=names)
    assert (images.classes, images.labels) == (("golden retriever", "emu", "cat, big"), [2, 0])
    with pytest.raises(OODError, match=r"a\.txt: no class 'emo'\. Did you mean 'emu'\?"):
        opened(tmp_path, "a b/3.png\temo", names=names)


def test_labels_are_names_in_both_lists_or_in_neither(tmp_path):
    write(tmp_path, 3, 4)
    one, other = text(tmp_path / "one.txt", "3.png cat"), text(tmp_path / "other.txt", "4.png 1")
    with pytest.raises(OODError, match=r"one\.txt: line 1 is not 'path label': 3\.png cat$"):
        ImageList(train=one, test=other).open("test")


def test_backslashes_part_folders_unless_a_file_is_called_so(tmp_path):
    write(tmp_path / "a", 3)
    assert reds(opened(tmp_path, "a\\3.png 0")) == [3]
    (tmp_path / "b\\4.png").write_bytes(encoded(4))
    assert reds(opened(tmp_path, "b\\4.png 0")) == [4]
    with pytest.raises(OODError, match=r"such as .*; the option 'path' sets what the paths are relative to$"):
        opened(tmp_path, "C:\\data\\3.png 0")


def test_a_list_may_be_utf_16_as_excel_writes_it(tmp_path):
    write(tmp_path, 3)
    (tmp_path / "a.txt").write_text("3.png\tcät\n", encoding="utf-16")
    assert ImageList(test=tmp_path / "a.txt").open("test").classes == ("cät",)


@pytest.mark.parametrize("label", ["9" * 5000, '{"label": ' + "[" * 3000 + "]" * 3000 + "}"])
def test_a_label_that_python_cannot_hold_is_refused(tmp_path, label):
    write(tmp_path, 1)
    with pytest.raises(OODError, match=r"a\.txt: line 1 is not 'path label'"):
        ImageList(test=text(tmp_path / "a.txt", f"1.png {label}", "1.png 0")).open("test")

"""Pictures that are files: what tells two sets of them apart."""

import os

import pytest
from PIL import Image

from ood_core.data.image_files import FileImages, numbers_first, require_distinct, require_files
from ood_core.errors import OODError


@pytest.fixture
def pictures(tmp_path):
    for number in (1, 2):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    return [tmp_path / "1.png", tmp_path / "2.png"]


def test_swapped_labels_and_another_order_have_fingerprints_of_their_own(pictures):
    prints = {
        FileImages(paths, labels, ("a", "b")).fingerprint
        for paths in (pictures, pictures[::-1])
        for labels in ([0, 1], [1, 0])
    }
    assert len(prints) == 4


def test_the_fingerprint_knows_the_names_of_the_classes(pictures):
    assert FileImages(pictures, [0, 1], ("a", "b")).fingerprint != FileImages(pictures, [0, 1], ("a", "c")).fingerprint


def test_missing_pictures_are_counted_and_the_first_named(pictures, tmp_path):
    with pytest.raises(OODError, match=r"list\.txt: 2 of its pictures are not there, such as .*8\.png"):
        require_files([*pictures, tmp_path / "8.png", tmp_path / "9.png"], "list.txt")


def test_a_folder_or_pipe_among_pictures_is_no_regular_file(pictures, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OODError, match=r"list\.txt: 2 of its pictures are not regular files, such as .*pipe\.png"):
        require_files([*pictures, tmp_path / "8.png", tmp_path / "pipe.png", tmp_path], "list.txt")


@pytest.mark.parametrize("other", ["Cat", " cat", "CAT "])
def test_names_that_differ_in_writing_alone_are_refused(other):
    with pytest.raises(OODError, match="differ in writing alone; give them one name"):
        require_distinct(["cat", "dog", other], "here")
    require_distinct(["cat", "dog", "cats"], "here")


def test_numbers_are_sorted_by_value_before_names():
    assert sorted(["10", "b", "9", "a"], key=numbers_first) == ["9", "10", "a", "b"]


def test_numbers_of_thousands_of_digits_are_sorted_as_names():
    assert sorted(["9" * 5000, "b", "10", "9"], key=numbers_first) == ["9", "10", "9" * 5000, "b"]

"""Manifests: rows of CSV and JSONL files, their splits, and the line that names a wrong one."""

import csv
import os
import shutil

import pytest

from ood_core.errors import OODError
from ood_files.manifests import Manifest

from .small_files import encoded, reds, text, write

ROWS = [("1.png", "dog", "train"), ("2.png", "cat", "train"), ("3.png", "dog", "val"), ("4.png", "eel", "train")]


def write_csv(path, rows, header=("image", "label", "split")):
    with path.open("w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])
    return path


def test_a_csv_gives_the_rows_of_a_split(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    source = Manifest(path=write_csv(tmp_path / "m.csv", ROWS), split_column="split")
    train, test = source.open("train"), source.open("test")
    assert train.classes == test.classes == ("cat", "dog", "eel")
    assert (reds(train), train.labels) == ([1, 2, 4], [1, 0, 2])
    assert (reds(test), test.labels) == ([3], [1])
    assert train.encoded


def test_test_is_preferred_to_val(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    path = write_csv(tmp_path / "m.csv", [*ROWS[:3], ("4.png", "cat", "test")])
    assert reds(Manifest(path=path, split_column="split").open("test")) == [4]


def test_without_a_split_column_both_splits_are_all_rows(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    source = Manifest(path=write_csv(tmp_path / "m.csv", ROWS))
    assert reds(source.open("train")) == reds(source.open("test")) == [1, 2, 3, 4]


def test_json_lines_are_read_alike(tmp_path):
    write(tmp_path, 1, 2)
    path = text(tmp_path / "m.jsonl", '{"file": "2.png", "y": 10}', "", '{"file": "1.png", "y": 9}')
    images = Manifest(path=path, image_column="file", label_column="y").open("train")
    assert (images.classes, images.labels, reds(images)) == (("9", "10"), [1, 0], [2, 1])


def test_paths_may_be_absolute_and_endings_in_capitals(tmp_path):
    picture = write(tmp_path / "elsewhere", 6) / "6.png"
    path = write_csv(tmp_path / "m.CSV", [(picture, "cat", "")])
    assert reds(Manifest(path=path).open("test")) == [6]


def test_without_labels_all_is_one_class(tmp_path):
    write(tmp_path, 1)
    path = write_csv(tmp_path / "m.csv", [("1.png",)], ("image",))
    assert Manifest(path=path, label_column=None).open("test").classes == ("unlabelled",)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            ROWS,
            {"image_column": "img"},
            r"m\.csv: line 2 has no column 'img'\. Did you mean 'image'\? The option 'image_column' names the column$",
        ),
        (
            ROWS,
            {"label_column": "y"},
            r"m\.csv: line 2 has no column 'y'\. There is: .* The option 'label_column' names the column$",
        ),
        (
            ROWS,
            {"split_column": "part"},
            r"m\.csv: line 2 has no column 'part'\. There is: .* The option 'split_column' names the column$",
        ),
        ([("1.png", "", "train")], {}, r"m\.csv: line 2 has nothing in column 'label'$"),
        ([("1.png",)], {}, r"m\.csv: line 2 has nothing in column 'label'$"),
        (
            [("1.png", "cat", "x")],
            {"split_column": "split"},
            r"no row whose 'split' is train or training, only x; the option 'train' says",
        ),
        (
            [("9.png", "cat", "train")],
            {},
            r"m\.csv: 1 of its pictures are not there, such as .*/9\.png; the option 'folder' sets",
        ),
        (
            [("1.png", "cat", "train"), ("2.png", "Cat", "test")],
            {"split_column": "split"},
            r"m\.csv: the classes 'Cat' and 'cat' differ in writing alone; give them one name$",
        ),
        ([], {}, r"m\.csv: no rows$"),
    ],
)
def test_a_wrong_manifest_is_one_line(tmp_path, rows, options, message):
    write(tmp_path, 1, 2, 3, 4)
    with pytest.raises(OODError, match=message):
        Manifest(path=write_csv(tmp_path / "m.csv", rows), **options).open("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"m\.jsonl: line 2 is not JSON: "),
        ("[1]", r"m\.jsonl: line 2 is no JSON object$"),
        ('{"image": "1.png"}', r"m\.jsonl: line 2 has no column 'label'\. There is: image The option 'label_column'"),
        ('{"image": "1.png", "label": null}', r"m\.jsonl: line 2 has nothing in column 'label'$"),
        ('{"image": "1.png", "label": [1]}', r"m\.jsonl: line 2 has the label \[1\], neither a name nor a number$"),
        ('{"image": "1.png", "label": true}', r"m\.jsonl: line 2 has the label true, neither a name nor a number$"),
        ('{"image": "1.png", "label": 1.5}', r"m\.jsonl: line 2 has the label 1\.5, neither a name nor a number$"),
    ],
)
def test_a_wrong_line_of_json_is_named(tmp_path, line, message):
    write(tmp_path, 1)
    with pytest.raises(OODError, match=message):
        Manifest(path=text(tmp_path / "m.jsonl", '{"image": "1.png", "label": 1}', line)).open("test")


def test_a_manifest_of_another_kind_or_none_is_refused(tmp_path):
    with pytest.raises(OODError, match=r"m\.csv: no such file; the option 'path' sets it$"):
        Manifest(path=tmp_path / "m.csv").open("test")
    with pytest.raises(OODError, match=r"m\.txt: a manifest ends in \.csv or \.tsv or \.jsonl$"):
        Manifest(path=text(tmp_path / "m.txt", "x")).open("test")
    (tmp_path / "m.csv").write_bytes(encoded(1))
    with pytest.raises(OODError, match=r"m\.csv: cannot be read: 'utf-8' codec"):
        Manifest(path=tmp_path / "m.csv").open("test")


def test_the_fingerprint_follows_pixels_and_labels_and_not_the_place(tmp_path):
    def fingerprint(folder, label="cat"):
        rows = [("1.png", label, ""), ("2.png", "dog", ""), ("3.png", "cat", "")]
        return Manifest(path=write_csv(folder / "m.csv", rows)).open("test").fingerprint

    first = fingerprint(write(tmp_path / "one", 1, 2, 3))
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    assert fingerprint(tmp_path / "elsewhere" / "two") == first
    assert fingerprint(tmp_path / "one", "dog") != first
    (tmp_path / "one" / "1.png").write_bytes(encoded(4))
    assert fingerprint(tmp_path / "one") != first


def test_a_broken_picture_is_named_when_it_is_read(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "1.png").write_bytes(encoded(1)[:40])
    with pytest.raises(OODError, match=r"/1\.png: (broken picture|not a picture)"):
        Manifest(path=write_csv(tmp_path / "m.csv", [("1.png", "cat", "")])).open("test").image(0)


def test_a_column_of_splits_that_is_not_used_is_noted(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    path = write_csv(tmp_path / "m.csv", ROWS)
    note = f"{path}: all rows are in both splits; the option 'split_column' can name the column 'split'"
    assert Manifest(path=path).open("test").notes == (note,)
    assert Manifest(path=path, split_column="split").open("test").notes == ()
    assert Manifest(path=path, label_column="split").open("test").notes == ()


def test_a_table_in_another_encoding_is_refused_with_those_that_are_read(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes("image,label\n1.png,cät\n".encode("latin-1"))
    with pytest.raises(OODError, match=r"m\.csv: cannot be read: 'utf-8' codec .*; save it as UTF-8, or as UTF-16"):
        Manifest(path=path).open("test")


def test_a_listed_pipe_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(OODError, match=r"m\.csv: 1 of its pictures are not regular files, such as .*/1\.png"):
        Manifest(path=write_csv(tmp_path / "m.csv", ROWS[:1])).open("test")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_what_separates_columns_is_found_by_the_header(tmp_path, delimiter):
    write(tmp_path, 1, 2)
    rows = ["image^label^note", '1.png^"dog, big; old"^a,b', "2.png^cat^;"]
    path = text(tmp_path / "m.csv", *(row.replace("^", delimiter) for row in rows))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # the byte order mark that Excel writes
    images = Manifest(path=path).open("test")
    assert (images.classes, reds(images)) == (("cat", "dog, big; old"), [1, 2])
    with pytest.raises(OODError, match=r"no column 'img'\. Did you mean 'image'\? The option 'image_column'"):
        Manifest(path=path, image_column="img").open("test")


def test_a_table_may_be_utf_16_with_tabs_as_excel_writes_it(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "m.tsv").write_text("image\tlabel\n1.png\tcät\n", encoding="utf-16")
    assert Manifest(path=tmp_path / "m.tsv").open("test").classes == ("cät",)


def test_a_table_without_a_header_is_read_by_another_source(tmp_path):
    path = write_csv(tmp_path / "m.csv", [("2.png", "cat")], header=("1.png", "dog"))
    with pytest.raises(OODError, match=r"has no column 'image'.* A table without a header is read by 'image-list'$"):
        Manifest(path=path).open("test")


def test_splits_are_called_as_the_options_say_and_others_are_noted(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    rows = [("1.png", "dog", "Training"), ("2.png", "cat", "VAL"), ("3.png", "dog", "1"), ("4.png", "eel", "trian")]
    path = write_csv(tmp_path / "m.csv", rows)
    train = Manifest(path=path, split_column="split").open("train")
    assert (reds(train), reds(Manifest(path=path, split_column="split").open("test"))) == ([1], [2])
    assert train.notes == (f"{path}: 2 rows are of neither split, their 'split' is 1, trian",)
    named = Manifest(path=path, split_column="split", train=("trian",), test=(1, "VAL"))
    assert (reds(named.open("train")), reds(named.open("test"))) == ([4], [3])


def test_paths_start_from_the_folder_that_is_given_and_may_have_backslashes(tmp_path):
    write(tmp_path / "images" / "cat", 5)
    path = write_csv(tmp_path / "m.csv", [("cat\\5.png", "cat", "")])
    with pytest.raises(OODError, match="the option 'folder' sets what the paths are relative to"):
        Manifest(path=path).open("test")
    assert reds(Manifest(path=path, folder=tmp_path / "images").open("test")) == [5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": ' + "[" * 100_000, "m.jsonl: line 1 is not JSON: maximum recursion depth exceeded"),
        ('{"image": "1.png", "label": ' + "9" * 5000 + "}", "m.jsonl: line 1 is not JSON: Exceeds the limit"),
    ],
)
def test_json_that_python_cannot_hold_is_one_line(tmp_path, line, message):
    with pytest.raises(OODError, match=message):
        Manifest(path=text(tmp_path / "m.jsonl", line)).open("test")


@pytest.mark.parametrize("label", ["9" * 5000, "a\nb"])
def test_strange_labels_are_classes(tmp_path, label):
    write(tmp_path, 1, 2)
    path = write_csv(tmp_path / "m.csv", [("1.png", label), ("2.png", "7")], ("image", "label"))
    assert Manifest(path=path).open("test").classes == ("7", label)

"""What a command line names, to paths: sorted, lazy, and as it was named."""

import io
import os
import sys
from types import SimpleNamespace

import pytest

from ood_core.data import image_paths as paths
from ood_core.data.folders import PassedOver
from ood_core.errors import OODError

NAMES = [
    *("b.png", "a/z.JPG", "a.png", "a/a.webp", "B.bmp", ".hidden.png", "notes.txt", "a/deep/x.gif", "a-b/1.png"),
    *(".cache/y.png", "é.png"),
]
BENEATH = "a/a.webp a/deep/x.gif a/z.JPG link/a.webp link/deep/x.gif link/z.JPG"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in NAMES:
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "tree" / "a")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tree"


def listed(monkeypatch, content, *images, null=False):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    return list(paths.named(images or ["-"], PassedOver(), null))


def test_paths_are_called_as_they_were_named(tree):
    assert next(paths.named(["./tree"], PassedOver())) == "./tree/B.bmp"
    assert list(paths.named(["./tree/b.png", "tree//a.png"], PassedOver())) == ["./tree/b.png", "tree//a.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("tree/*.png", "a.png b.png é.png"),
        ("tree/[ab].p?g", "a.png b.png"),
        ("tree/*/*.png", "a-b/1.png"),
        ("tree/**/*.png", "a-b/1.png a.png b.png é.png"),
        ("tree/**/**/x.gif", "a/deep/x.gif"),
        ("tree/**/deep/*", "a/deep/x.gif"),
        ("tree/*/deep/*", "a/deep/x.gif link/deep/x.gif"),
        (
            "tree/**",
            f"a-b/1.png a.png b.png é.png B.bmp notes.txt {BENEATH}",
        ),
        ("tree/.*.png", ".hidden.png"),
        ("tree/note*", "notes.txt"),
        ("tree/a*/", "a-b/1.png a.png a/a.webp a/deep/x.gif a/z.JPG"),
        ("*/b.png", "b.png"),
    ],
)
def test_a_glob_that_no_shell_expanded_matches_as_in_a_shell(tree, pattern, expected):
    found = [path.removeprefix("tree/") for path in paths.named([pattern], PassedOver())]
    assert sorted(found) == sorted(expected.split())


def test_an_absolute_glob_begins_at_the_root(tree):
    assert list(paths.named([f"{tree}/b*"], PassedOver())) == [f"{tree}/b.png"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tree):
    (tree / "[a].png").touch()
    assert list(paths.named(["tree/[a].png"], PassedOver())) == ["tree/[a].png"]


def test_what_is_not_there_is_named_too(tree):
    paths.require(["tree/absent.png"])
    assert list(paths.named(["tree/absent.png"], PassedOver())) == ["tree/absent.png"]


def test_a_folder_without_pictures_and_a_glob_without_matches_are_refused(tree):
    (tree / "empty").mkdir()
    with pytest.raises(OODError, match=r"^tree/empty: the folder holds no pictures$"):
        paths.require(["tree", "tree/empty"])
    with pytest.raises(OODError, match=r"^tree/\*\.tif: matches no file$"):
        paths.require(["tree/*.tif"])


@pytest.fixture
def forbidden(monkeypatch):
    """The folders a-b may not be read."""
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("a-b"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_may_not_be_read_is_a_row_and_not_the_end(tree, forbidden):
    found = list(paths.named(["tree"], PassedOver()))
    assert "tree/a-b" in found
    assert found[-1] == "tree/é.png"


def test_a_list_has_a_path_on_each_line_and_folders_are_walked(tree, monkeypatch):
    content = b"tree/b.png\r\n\ntree/a\nabsent.png"
    expected = ["tree/b.png", "tree/a/a.webp", "tree/a/deep/x.gif", "tree/a/z.JPG", "absent.png"]
    assert listed(monkeypatch, content) == expected
    assert listed(monkeypatch, b"absent.png\n", "tree/b.png", "-") == ["tree/b.png", "absent.png"]


def test_a_list_with_nul_holds_any_name(tree, monkeypatch):
    content = b"one\ntwo.png\0\xff\xfe.png\0\0last\r"
    assert listed(monkeypatch, content, null=True) == ["one\ntwo.png", os.fsdecode(b"\xff\xfe.png"), "last\r"]


@pytest.mark.parametrize("read", [1, 2, 5])
def test_a_list_is_the_same_in_whatever_pieces_it_comes(monkeypatch, read):
    monkeypatch.setattr(paths, "READ", read)
    assert list(paths.lines(io.BytesIO(b"ab\r\nc\n\nd"), b"\n")) == ["ab", "c", "d"]


def test_a_list_is_not_read_further_than_it_came():
    ends = os.pipe()
    with os.fdopen(ends[0], "rb") as source, os.fdopen(ends[1], "wb", 0) as sink:
        sink.write(b"first.png\nsec")
        assert next(paths.lines(source, b"\n")) == "first.png"


def test_a_glob_goes_on_behind_a_link_in_a_circle(tree):
    (tree / "a" / "_").symlink_to("_")
    assert list(paths.named(["tree/**/*.JPG"], PassedOver())) == ["tree/a/z.JPG"]
    assert list(paths.named(["tree/a/z*"], PassedOver())) == ["tree/a/z.JPG"]


def test_links_that_a_glob_does_not_follow_are_counted(tree):
    passed = PassedOver()
    assert "tree/link/z.JPG" not in list(paths.named(["tree/**/*.JPG"], passed))
    assert str(passed) == "passed over: 1 folder link that ** does not follow"


def test_a_glob_lists_a_folder_that_may_not_be_read(tree, forbidden):
    assert list(paths.named(["tree/*/*.png"], PassedOver())) == ["tree/a-b"]

"""The one reader of folders: pictures, classes, splits, and what is passed over by reason."""

import io
import os

import pytest
from PIL import Image

from ood_core.data import folders
from ood_core.data.decoding import decode
from ood_core.data.folders import PassedOver, class_folders, is_dir, is_picture, pictures, pictures_in, split_folders
from ood_core.errors import OODError

NAMES = [
    *("b.png", "a/z.JPG", "a.png", "a/a.webp", "B.bmp", ".hidden.png", "notes.txt", "a/deep/x.gif", "a-b/1.png"),
    *(".cache/y.png", "é.png"),
]


def written(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def tree(tmp_path):
    return written(tmp_path / "tree", *NAMES)


@pytest.fixture
def shut(monkeypatch):
    """Folders called "shut" may not be read; root, who may run the tests, may read every folder."""
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)


def found(root, **options):
    """Return the paths beneath a folder as the shell lists them, and what was passed over."""
    passed = PassedOver()
    return [os.path.relpath(path, root) for path in pictures(str(root), passed, **options)], str(passed)


def test_pictures_are_sorted_by_path_and_the_rest_is_counted(tree):
    names, passed = found(tree)
    assert names == ["B.bmp", "a/a.webp", "a/deep/x.gif", "a/z.JPG", "a-b/1.png", "a.png", "b.png", "é.png"]
    assert passed == "passed over: 1 hidden file, 1 hidden folder, 1 file of other formats (1 .txt)"
    listed = pictures_in(tree, PassedOver())
    assert [str(path.relative_to(tree)) for path in listed] == names
    assert listed == sorted(listed)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_folder_of_more_names_than_are_kept_is_whole_and_sorted(tree, at_once):
    assert found(tree, at_once=at_once) == found(tree)


@pytest.mark.parametrize("name", sorted(folders.SYSTEM | {".git", ".ipynb_checkpoints", ".DS_Store", "._x.jpg"}))
def test_what_systems_put_beside_pictures_is_none(tmp_path, name):
    written(tmp_path, "1.png", f"cat/{name}/2.png")
    written(tmp_path, "dog/3.png")
    (tmp_path / "dog" / name).touch()
    assert found(tmp_path) == (["1.png", "dog/3.png"], "passed over: 1 hidden file, 1 hidden folder")
    assert not is_picture(name)


def test_a_hidden_folder_that_is_named_itself_is_read(tmp_path):
    written(tmp_path / ".cache", "1.png")
    assert found(tmp_path / ".cache") == (["1.png"], "")


def test_files_of_other_formats_are_counted_by_suffix(tmp_path):
    written(tmp_path, "1.heic", "2.HEIC", "3", "4.", "5.txt", "6.json", "7.xml", "8.md", "9.pdf", "10.jpe", "11.JFIF")
    names, passed = found(tmp_path)
    assert names == ["10.jpe", "11.JFIF"]
    assert passed == (
        "passed over: 2 files without a suffix, 7 files of other formats (2 .heic, 1 .json, 1 .md, 1 .pdf, 1 .txt, ...)"
    )


def test_a_note_is_one_line_that_can_be_printed_whatever_the_names(tmp_path):
    for name in (b"1.a\nb", b"2.\xff"):
        (tmp_path / os.fsdecode(name)).touch()
    (note,) = _passed(tmp_path).notes("here")
    assert note == "here: passed over: 2 files of other formats (1 .a\\nb, 1 .\\udcff)"
    assert PassedOver().notes("here") == ()


def _passed(folder):
    passed = PassedOver()
    list(pictures(str(folder), passed))
    return passed


def test_what_pillow_opens_is_a_picture_or_a_format_of_data():
    Image.init()
    opened = {suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN}
    others = {".blp", ".bufr", ".bw", ".cur", ".dcx", ".dds", ".emf", ".eps", ".fit", ".fits", ".flc", ".fli", ".ftc"}
    others |= {".ftu", ".gbr", ".grib", ".h5", ".hdf", ".icb", ".icns", ".ico", ".iim", ".im", ".mpeg", ".mpg", ".msp"}
    others |= {".pcd", ".pcx", ".pfm", ".ps", ".psd", ".pxr", ".ras", ".rgb", ".rgba", ".sgi", ".vda", ".vst", ".wmf"}
    others |= {".xbm", ".xpm", ".avifs"}
    assert opened - others <= folders.SUFFIXES
    assert folders.SUFFIXES - {".mpo"} <= opened | {".avif"}  # an MPO is registered as it is written alone


@pytest.mark.parametrize("suffix", sorted(folders.SUFFIXES))
def test_every_suffix_is_of_a_format_that_is_decoded(suffix):
    Image.init()
    form = Image.registered_extensions().get(suffix)
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {suffix}")
    target = io.BytesIO()
    Image.new("1" if suffix == ".pbm" else "RGB", (8, 8), 1).save(target, form)
    assert decode(target.getvalue(), "here").size == (8, 8)


# --------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("target", [".", "..", "../..", "cat", "../dog"])
def test_a_link_in_a_circle_hides_no_picture_behind_it(tmp_path, target):
    root = written(tmp_path / "tree", "cat/1.png", "dog/2.png")
    (root / "cat" / "a").symlink_to(target if target != "cat" else "../cat")
    expected = "passed over: 1 link back into the same folders"
    assert found(root) == (["cat/1.png", "dog/2.png"], expected)
    assert len(pictures_in(root, PassedOver())) == 2


def test_a_link_to_itself_hides_no_picture_behind_it(tmp_path):
    written(tmp_path, "b.png")
    (tmp_path / "a").symlink_to("a")
    assert found(tmp_path) == (["b.png"], "passed over: 1 dead link")
    assert len(pictures_in(tmp_path, PassedOver())) == 1


def test_links_to_folders_elsewhere_are_followed_once(tmp_path):
    root, store = written(tmp_path / "tree", "b.png"), written(tmp_path / "store", "1.png", "deep/2.png")
    (store / "deep" / "up").symlink_to(store)
    (store / "round").symlink_to(root)
    (root / "a").symlink_to(store)
    (root / "c").symlink_to(store / "deep")
    names, passed = found(root)
    assert names == ["a/1.png", "a/deep/2.png", "b.png"]
    assert passed == "passed over: 3 links back into the same folders"


def test_a_link_into_a_hidden_folder_is_followed(tmp_path):
    written(tmp_path, ".store/1.png")
    (tmp_path / "a").symlink_to(".store")
    assert found(tmp_path)[0] == ["a/1.png"]


def test_a_picture_that_is_a_dead_link_is_listed_and_another_counted(tmp_path):
    (tmp_path / "1.png").symlink_to("gone.png")
    (tmp_path / "2").symlink_to("gone")
    assert found(tmp_path) == (["1.png"], "passed over: 1 dead link")


# ------------------------------------------------------------------------------------------------- what may not be read


def test_a_folder_that_may_not_be_read_is_an_error_or_a_row(tmp_path, shut):
    written(tmp_path, "a.png", "shut/b.png", "z.png")
    with pytest.raises(OODError, match="shut: cannot be read: Permission denied"):
        pictures_in(tmp_path, PassedOver())
    assert found(tmp_path) == (["a.png", "shut", "z.png"], "")


def test_a_file_of_which_nothing_can_be_found_out_is_an_error_or_a_row(tmp_path, monkeypatch):
    written(tmp_path, "a.png", "odd", "z.png")
    real = folders.entries

    class Odd:
        name, path = "odd", str(tmp_path / "odd")

        def is_dir(self):
            raise PermissionError(13, "Permission denied", self.path)

    monkeypatch.setattr(folders, "entries", lambda *a: (Odd() if e.name == "odd" else e for e in real(*a)))
    assert found(tmp_path)[0] == ["a.png", "odd", "z.png"]
    with pytest.raises(OODError, match="odd: cannot be read: Permission denied"):
        pictures_in(tmp_path, PassedOver())


def test_a_folder_below_one_that_may_not_be_read_is_no_missing_folder(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "stat", refuse)
    with pytest.raises(OODError, match="below: cannot be read: Permission denied"):
        is_dir(tmp_path / "below")


# ------------------------------------------------------------------------------------------------- classes and splits


def test_classes_are_folders_that_are_not_hidden_and_the_rest_is_counted(tmp_path):
    written(tmp_path, "dog/1.png", "cat/1.png", ".git/x", "__MACOSX/1.png", "labels.csv", "stray.jpg", "Thumbs.db")
    passed = PassedOver()
    assert [folder.name for folder in class_folders(tmp_path, passed)] == ["cat", "dog"]
    assert str(passed) == (
        "passed over: 1 hidden file, 2 hidden folders, 1 picture in no class folder, 1 file of other formats (1 .csv)"
    )


def test_the_folder_above_a_data_set_has_no_classes(tmp_path):
    written(tmp_path, "id/train/cat/1.png", "id/val/cat/1.png", "far/sea/1.png")
    with pytest.raises(
        OODError, match=r"'id' in it is no class but a data set with the splits train and val; say .*id$"
    ):
        class_folders(tmp_path, PassedOver())


def test_a_class_that_is_no_text_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(OODError, match=r"the class folder b'\\xff' has no name in UTF-8"):
        class_folders(tmp_path, PassedOver())


@pytest.mark.parametrize("test", ["test", "testing", "val", "valid", "validation", "Test"])
@pytest.mark.parametrize("train", ["train", "training", "Train"])
def test_splits_have_several_names(tmp_path, train, test):
    written(tmp_path, f"{train}/cat/1.png", f"{test}/cat/1.png")
    splits = split_folders(tmp_path, PassedOver())
    assert splits == {"train": tmp_path / train, "test": tmp_path / test}


def test_what_lies_beside_the_splits_is_counted(tmp_path):
    written(tmp_path, "train/cat/1.png", "test/cat/1.png", "val/cat/1.png", "annotations/1.xml", "1.png")
    passed = PassedOver()
    assert split_folders(tmp_path, passed) == {"train": tmp_path / "train", "test": tmp_path / "test"}
    assert str(passed) == "passed over: 2 folders beside the splits, 1 picture in no class folder"


def test_a_class_may_be_called_train(tmp_path):
    assert split_folders(written(tmp_path, "bus/1.png", "train/1.png"), PassedOver()) == {}

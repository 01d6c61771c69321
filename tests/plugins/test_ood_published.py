"""Published sets: every one is described, found in each of its layouts, and said to be missing with what to do."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.io
import yaml

from ood_core.errors import OODError, OODErrors
from ood_core.plugins import find
from ood_published.folders import Birds, Dogs, FlatFolder, Scenes, TinyImageNet, WordNetFolders
from ood_published.source import LISTS, PATHS, SETS, Published, facts, names

PLUGINS = find()


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (6, 5), (value, 0, 0)).save(path)
    return path


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def reds(images):
    return [np.asarray(images.image(index))[0, 0, 0] for index in range(len(images))]


# ------------------------------------------------------------------------------------------------------ the list


@pytest.mark.parametrize("name", names())
def test_a_set_is_described_and_its_layouts_are_sources_that_are_installed(name):
    known = facts(name)
    assert set(known) == {"title", "classes", "images", "licence", "source", "citation", "layouts"}
    assert known["source"].startswith("http")
    assert set(known["images"]) <= {"train", "test"}
    assert known["images"]["test"] > 0
    for layout in known["layouts"]:
        cls = PLUGINS.get("dataset", layout["use"])
        made = cls(**{key: value for key, value in layout.items() if key != "use"})
        if layout["use"] == "torchvision":
            made.check()  # that torchvision has it; other sources look for files here


@pytest.mark.parametrize("name", names())
def test_alternatives_lie_beneath_the_root(name, tmp_path):
    for layout in Published(dataset=name, root=tmp_path).alternatives():
        paths = [layout[option] for option in PATHS if option in layout]
        assert paths
        assert all(path.startswith(str(tmp_path)) for path in paths)


def test_lists_of_classes_are_whole():
    for name, count in (("imagenet-30", 30), ("imagenet-200", 200)):
        rows = [line.split() for line in (LISTS / f"{name}.txt").read_text().splitlines()]
        assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == count
        assert all(row[0].startswith("n") and len(row[0]) == 9 for row in rows)
    thirty = [line.split()[1] for line in (LISTS / "imagenet-30.txt").read_text().splitlines()]
    assert thirty == sorted(thirty)  # the order of the labels in the paper


def test_the_200_classes_are_those_of_imagenet_r_as_timm_lists_them():
    timm = Path(importlib.util.find_spec("timm").origin).parent
    listed = (timm / "data" / "_info" / "imagenet_r_synsets.txt").read_text().split()
    assert [line.split()[0] for line in (LISTS / "imagenet-200.txt").read_text().splitlines()] == listed


def test_every_file_in_the_folder_is_yaml():
    assert sorted(path.suffix for path in SETS.iterdir()) == [".yaml"] * len(names())
    assert all(yaml.safe_load(path.read_text()) for path in SETS.iterdir())


def test_an_unknown_set_names_the_nearest():
    with pytest.raises(OODError, match=r"no published set 'cifar-10'\. Did you mean 'cifar10'\?"):
        Published(dataset="cifar-10").check()


# --------------------------------------------------------------------------------------------------- in a recipe


def near(**options):
    spelled = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"data.near=[{{use: published, {spelled}}}]"


def ood(plan):
    return next(row.measure.ood_scores.images for row in plan.rows if row.group == "near")


def test_a_set_is_found_in_whichever_layout_it_lies(make_plan, tiny, tmp_path):
    picture(tmp_path / "iSUN" / "1.png")
    assert len(ood(make_plan(tiny, near(dataset="isun", root=tmp_path))).opened) == 1
    (tmp_path / "iSUN").rename(tmp_path / "isun")
    assert ood(make_plan(tiny, near(dataset="isun", root=tmp_path))).opened.classes == ("scene",)


def test_the_root_of_all_sets_is_theirs(make_plan, tiny, tmp_path):
    picture(tmp_path / "NINCO" / "NINCO_OOD_classes" / "caracal" / "1.jpg")
    plan = make_plan(tiny, f"data.root={tmp_path}", near(dataset="ninco", name="NINCO"))
    assert ood(plan).opened.classes == ("caracal",)


def test_a_missing_set_says_what_to_fetch_from_where_and_how_to_lay_it_out(make_plan, tiny, tmp_path):
    with pytest.raises(OODErrors) as caught:
        make_plan(tiny, near(dataset="lsun-resize", root=tmp_path))
    (line,) = str(caught.value).splitlines()
    for part in (
        f"LSUN (resized), of ODIN is not in '{tmp_path}'",
        "fetch it from https://github.com/ShiyuLiang/odin-pytorch",
        "lay it out as flat-folder (LSUN_resize) or flat-folder (lsun-resize) there",
        "or set 'root' (of all sets: 'data.root')",
        "LSUN_resize: no such folder",
    ):
        assert part in line


def test_a_set_without_any_of_its_sources_says_so():
    with pytest.raises(OODError, match="no source for any of its layouts is installed"):
        Published(dataset="isun").open("test")


def test_the_catalogue_has_a_line_for_every_set():
    table = Published.catalogue()
    assert sorted(table) == names()
    assert table["cifar10"][1:3] == ("10", "train 50000, test 10000")


# ------------------------------------------------------------------------------------------------------- layouts


def test_a_flat_folder_is_one_class_in_both_splits(tmp_path):
    picture(tmp_path / "b.png", 2)
    picture(tmp_path / "deep" / "a.jpg", 1)
    images = FlatFolder(path=tmp_path, label="scene").open("test")
    assert (images.classes, images.labels) == (("scene",), [0, 0])
    assert images.fingerprint == FlatFolder(path=tmp_path, label="scene").open("train").fingerprint


def test_an_empty_or_missing_flat_folder_is_named(tmp_path):
    with pytest.raises(OODError, match="gone: no such folder"):
        FlatFolder(path=tmp_path / "gone").open("test")
    text(tmp_path / "readme.txt", "x")
    with pytest.raises(OODError, match=r"no pictures, only readme\.txt"):
        FlatFolder(path=tmp_path).open("test")


@pytest.fixture
def imagenet(tmp_path):
    for split, value in (("train", 10), ("val", 20)):
        for number, wnid in enumerate(("n03", "n01", "n02")):
            picture(tmp_path / split / wnid / "1.png", value + number)
    return tmp_path


def test_wordnet_folders_are_classes(imagenet):
    images = WordNetFolders(path=imagenet).open("test")
    assert images.classes == ("n01", "n02", "n03")
    assert reds(images) == [21, 22, 20]


def test_classes_are_carved_out_of_them_in_the_order_of_a_list(imagenet, tmp_path):
    text(tmp_path / "list.txt", "n03 acorn", "n01 great white")
    images = WordNetFolders(path=imagenet, wnids=tmp_path / "list.txt").open("train")
    assert images.classes == ("acorn", "great white")
    assert (reds(images), images.labels) == ([10, 11], [0, 1])


def test_a_class_without_its_folder_is_named(imagenet, tmp_path):
    text(tmp_path / "list.txt", "n03 acorn", "n09 oak")
    with pytest.raises(OODError, match="no folder for 1 of 2 classes, such as n09"):
        WordNetFolders(path=imagenet, wnids=tmp_path / "list.txt").open("train")
    (tmp_path / "list.txt").write_bytes(b"n01 \xe4\n")
    with pytest.raises(OODError, match=r"list\.txt: cannot be read: 'utf-8' codec"):
        WordNetFolders(path=imagenet, wnids=tmp_path / "list.txt").open("train")
    with pytest.raises(OODError, match=r"gone/val or .*gone/test: no such folder"):
        WordNetFolders(path=tmp_path / "gone").open("test")


@pytest.fixture
def tiny_imagenet(tmp_path):
    text(tmp_path / "wnids.txt", "n02", "n01", "n03")
    text(tmp_path / "words.txt", "n01\tgoldfish, Carassius auratus", "n02\tcrane", "n03\tcrane, bird", "n99\tother")
    picture(tmp_path / "train" / "n02" / "images" / "n02_0.JPEG", 1)
    picture(tmp_path / "train" / "n01" / "images" / "n01_0.JPEG", 2)
    picture(tmp_path / "val" / "images" / "val_0.JPEG", 3)
    text(tmp_path / "val" / "val_annotations.txt", "val_0.JPEG\tn01\t0\t0\t5\t5")
    return tmp_path


def test_tiny_imagenet_as_it_is_distributed(tiny_imagenet):
    train, test = (TinyImageNet(path=tiny_imagenet).open(split) for split in ("train", "test"))
    assert train.classes == test.classes == ("crane (n02)", "goldfish", "crane (n03)")
    assert (train.labels, test.labels) == ([0, 1], [1])


def test_a_wrong_annotation_of_tiny_imagenet_is_named(tiny_imagenet):
    text(tiny_imagenet / "val" / "val_annotations.txt", "val_0.JPEG\tn77\t0")
    with pytest.raises(OODError, match=r"val_annotations\.txt: 'val_0\.JPEG n77' names no class"):
        TinyImageNet(path=tiny_imagenet).open("test")
    text(tiny_imagenet / "val" / "val_annotations.txt", "val_9.JPEG\tn01\t0")
    with pytest.raises(OODError, match=r"1 of its pictures are not there, such as .*val_9\.JPEG"):
        TinyImageNet(path=tiny_imagenet).open("test")


@pytest.fixture
def birds(tmp_path):
    text(tmp_path / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Laysan_Albatross")
    text(tmp_path / "images.txt", "1 a/1.jpg", "2 b/2.jpg", "3 b/3.jpg")
    text(tmp_path / "image_class_labels.txt", "1 1", "2 2", "3 2")
    text(tmp_path / "train_test_split.txt", "1 1", "2 0", "3 1")
    for number, name in enumerate(("a/1", "b/2", "b/3")):
        picture(tmp_path / "images" / f"{name}.jpg", number)
    return tmp_path


def test_cub_has_a_split_of_its_own(birds):
    train, test = (Birds(path=birds).open(split) for split in ("train", "test"))
    assert train.classes == test.classes == ("Black_footed_Albatross", "Laysan_Albatross")
    assert (train.labels, test.labels) == ([0, 1], [1])


def test_what_cub_lacks_is_named(birds):
    text(birds / "image_class_labels.txt", "1 1", "3 2")
    with pytest.raises(OODError, match=r"image_class_labels\.txt: no class for image 2"):
        Birds(path=birds).open("test")
    (birds / "images.txt").unlink()
    with pytest.raises(OODError, match=r"images\.txt: no such file"):
        Birds(path=birds).open("test")


@pytest.fixture
def scenes(tmp_path):
    text(tmp_path / "categories_places365.txt", "/a/airfield 0", "/b/barn 1")
    text(tmp_path / "places365_val.txt", "Places365_val_1.jpg 1", "Places365_val_2.jpg 0")
    text(tmp_path / "places365_train_standard.txt", "/a/airfield/1.jpg 0")
    for number in (1, 2):
        picture(tmp_path / "val_256" / f"Places365_val_{number}.jpg", number)
    picture(tmp_path / "data_256_standard" / "a" / "airfield" / "1.jpg")
    return tmp_path


def test_places365_has_the_classes_of_its_lists(scenes):
    train, test = (Scenes(path=scenes).open(split) for split in ("train", "test"))
    assert train.classes == test.classes == ("/a/airfield", "/b/barn")
    assert (train.labels, test.labels) == ([0], [1, 0])


def test_pictures_of_places365_may_be_large(scenes):
    expected = Scenes(path=scenes).open("test").fingerprint
    (scenes / "val_256").rename(scenes / "val_large")
    assert Scenes(path=scenes).open("test").fingerprint == expected


def test_what_places365_lacks_is_named(scenes):
    (scenes / "data_256_standard").rename(scenes / "data")
    with pytest.raises(OODError, match=r"data_256_standard or .*data_256 or .*data_large_standard: no such folder$"):
        Scenes(path=scenes).open("train")
    text(scenes / "places365_val.txt", "Places365_val_1.jpg 2")
    with pytest.raises(OODError, match=r"places365_val\.txt: Places365_val_1\.jpg has label 2, which is not in cat"):
        Scenes(path=scenes).open("test")
    (scenes / "categories_places365.txt").unlink()
    with pytest.raises(OODError, match=r"categories_places365\.txt: no such file$"):
        Scenes(path=scenes).open("test")


def write_matlab_list(path, *rows):
    content = {
        "file_list": np.array([[name] for name, _ in rows], dtype=object),
        "labels": np.array([[label] for _, label in rows]),
    }
    target = io.BytesIO()
    scipy.io.savemat(target, content)
    path.write_bytes(target.getvalue())


def test_stanford_dogs_are_read_by_their_lists(tmp_path):
    for folder in ("n01-Chihuahua", "n02-Pug"):
        picture(tmp_path / "Images" / folder / "1.jpg")
        picture(tmp_path / "Images" / folder / "2.jpg")
    write_matlab_list(tmp_path / "train_list.mat", ("n01-Chihuahua/1.jpg", 1), ("n02-Pug/1.jpg", 2))
    write_matlab_list(tmp_path / "test_list.mat", ("n01-Chihuahua/2.jpg", 1), ("n02-Pug/2.jpg", 2))
    test = Dogs(path=tmp_path).open("test")
    assert (test.classes, test.labels) == (("Chihuahua", "Pug"), [0, 1])
    assert Dogs(path=tmp_path).open("train").fingerprint != test.fingerprint


def test_lists_of_dogs_that_are_none_are_named(tmp_path):
    with pytest.raises(OODError, match=r"test_list\.mat: no such file"):
        Dogs(path=tmp_path).open("test")
    (tmp_path / "test_list.mat").write_bytes(b"x" * 300)
    with pytest.raises(OODError, match=r"test_list\.mat: not one of Stanford Dogs' lists"):
        Dogs(path=tmp_path).open("test")

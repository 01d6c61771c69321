"""Data sets of the hub: saved to disk, or in the library's cache, and without a network."""

import builtins
import io
import pickle

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import constants

from ood_core.errors import OODError
from ood_huggingface.source import HubDataset

NAMES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    """Keep the library's cache and the network out of the tests, and its progress bars out of their output."""

    def refuse(*arguments, **options):
        raise AssertionError("a test wanted the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def encoded(red):
    target = io.BytesIO()
    PIL.Image.new("RGB", (6, 5), (red, 0, 0)).save(target, "PNG")
    return {"bytes": target.getvalue(), "path": None}


def rows(reds=(1, 2, 3), labels=(0, 2, 1), feature=None, **more):
    """Return a `Dataset` with pictures in the column img and labels in the column label."""
    features = {"img": datasets.Image(), "label": feature or ClassLabel(names=list(NAMES))}
    content = {"img": [encoded(red) for red in reds], "label": list(labels)}
    features |= {name: Value("string") for name in more}
    return Dataset.from_dict(content | more, features=Features(features))


@pytest.fixture
def saved(tmp_path):
    """`saved(train=rows(), ...)`: the folder of a set with these splits."""

    def save(**splits):
        folder = tmp_path / f"saved{len(list(tmp_path.iterdir()))}"
        DatasetDict(splits).save_to_disk(folder)
        return str(folder)

    return save


def one(tmp_path, *arguments, **more):
    """Save a set without splits, and return its folder."""
    folder = tmp_path / f"one{len(list(tmp_path.iterdir()))}"
    rows(*arguments, **more).save_to_disk(folder)
    return str(folder)


def reds(images):
    return [np.asarray(images.image(index))[0, 0, 0] for index in range(len(images))]


# -------------------------------------------------------------------------------------------- pictures and labels


def test_a_saved_set_has_its_splits_names_labels_and_pixels(saved):
    source = HubDataset(dataset=saved(train=rows(), test=rows((9,), (2,))))
    train, test = source.open("train"), source.open("test")
    assert train.classes == test.classes == NAMES
    assert (train.labels, test.labels) == ([0, 2, 1], [2])
    assert (reds(train), reds(test)) == ([1, 2, 3], [9])
    assert train.image(0).size == (6, 5)


def test_pictures_stay_encoded_until_they_are_asked_for(tmp_path, monkeypatch):
    folder = one(tmp_path)
    monkeypatch.setattr(PIL.Image, "open", None)  # whoever decodes fails
    images = HubDataset(dataset=folder).open("test")
    assert images.encoded
    assert len(images) == 3


def test_other_splits_can_be_named(saved):
    source = HubDataset(dataset=saved(fit=rows(), validation=rows((7,), (1,))), train_split="fit")
    assert source.open("train").labels == [0, 2, 1]
    with pytest.raises(OODError, match=r"no split 'test', which 'test_split' sets\. There is: fit, validation$"):
        source.open("test")


def test_a_set_saved_without_splits_is_both_of_them(tmp_path):
    source = HubDataset(dataset=one(tmp_path))
    assert source.open("train").fingerprint == source.open("test").fingerprint


def test_names_and_whole_numbers_are_labels_where_they_are_asked_for(tmp_path):
    folder = one(tmp_path, labels=(0, 4, 1), feature=Value("int64"), kind=["owl", "cat", "owl"], size=["10", "9", "9"])
    numbers = HubDataset(dataset=folder, label_column="label").open("test")
    assert (numbers.labels, numbers.classes) == ([0, 4, 1], ("0", "1", "2", "3", "4"))
    names = HubDataset(dataset=folder, label_column="kind").open("test")
    assert (names.labels, names.classes) == ([1, 0, 1], ("cat", "owl"))
    assert HubDataset(dataset=folder, label_column="size").open("test").classes == ("9", "10")


def test_pictures_without_a_column_of_classes_are_of_one_class(tmp_path):
    images = HubDataset(dataset=one(tmp_path, feature=Value("int64"))).open("test")
    assert (images.labels, images.classes) == ([0, 0, 0], ("unlabelled",))


def test_pictures_may_lie_in_files_of_their_own(tmp_path, monkeypatch):
    paths = [tmp_path / f"{red}.png" for red in (4, 5)]
    for red, path in enumerate(paths, 4):
        path.write_bytes(encoded(red)["bytes"])
    found = Dataset.from_dict({"img": list(map(str, paths))}, features=Features({"img": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: DatasetDict(test=found))
    source = HubDataset(dataset="nobody/tiny")
    before = source.open("test")
    assert reds(before) == [4, 5]
    paths[1].write_bytes(encoded(6)["bytes"])
    assert source.open("test").fingerprint != before.fingerprint
    paths[0].unlink()
    with pytest.raises(OODError, match=r"row 0: .*4\.png: no such file$"):
        source.open("test")


def test_images_can_be_handed_to_another_process(tmp_path):
    images = HubDataset(dataset=one(tmp_path)).open("test")
    assert reds(pickle.loads(pickle.dumps(images))) == [1, 2, 3]  # noqa: S301 - it was written here


def test_a_recipe_takes_classes_of_a_saved_set(make_plan, tiny, saved):
    near = f"{{use: huggingface, dataset: {saved(train=rows(), test=rows())}, name: pets, classes: [owl, cat]}}"
    (row, *_) = [row for row in make_plan(tiny, f"data.near=[{near}]").rows if row.group == "near"]
    images = row.measure.ood_scores.images
    assert (images.name, images.opened.classes, len(images.opened)) == ("pets", ("owl", "cat"), 2)


# ---------------------------------------------------------------------------------------------------- fingerprint


def fingerprint(folder):
    return HubDataset(dataset=folder).open("test").fingerprint


def test_the_fingerprint_follows_pictures_labels_and_names_alone(tmp_path):
    first = fingerprint(one(tmp_path))
    assert fingerprint(one(tmp_path)) == first
    assert fingerprint(one(tmp_path, note=["a", "b", "c"])) == first
    assert fingerprint(one(tmp_path, (1, 2, 4))) != first
    assert fingerprint(one(tmp_path, labels=(0, 2, 2))) != first
    assert fingerprint(one(tmp_path, feature=ClassLabel(names=["cat", "dog", "emu"]))) != first


def test_the_fingerprint_does_not_depend_on_how_rows_are_cut_into_files(tmp_path):
    rows().save_to_disk(tmp_path / "cut", num_shards=3)
    assert fingerprint(str(tmp_path / "cut")) == fingerprint(one(tmp_path))


# --------------------------------------------------------------------------------------------------------- errors


def test_a_label_that_is_no_class_is_named(tmp_path):
    hint = "labels of a test split may be secret, and another split has them"
    with pytest.raises(OODError, match=rf"\(test\): row 1 has -1 in column 'label', not a class; {hint}$"):
        HubDataset(dataset=one(tmp_path, labels=(0, -1, 1))).open("test")
    with pytest.raises(OODError, match=r"row 0 has 0\.5 in column 'label', not a class$"):
        folder = one(tmp_path, labels=(0.5, 1.0, 2.0), feature=Value("float32"))
        HubDataset(dataset=folder, label_column="label").open("test")


def test_a_split_without_rows_is_named(tmp_path, monkeypatch):
    with pytest.raises(OODError, match=r"one0' cannot be read: .*index"):  # the library cannot read what it wrote
        HubDataset(dataset=one(tmp_path, (), ())).open("test")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: DatasetDict(test=rows((), ())))
    with pytest.raises(OODError, match=r"\(test\): the split has no rows$"):
        HubDataset(dataset="nobody/tiny").open("test")


def test_a_wrong_column_names_the_nearest(tmp_path):
    folder = one(tmp_path)
    with pytest.raises(OODError, match=r"\(test\): no column 'lable'\. Did you mean 'label'\?$"):
        HubDataset(dataset=folder, label_column="lable").open("test")
    with pytest.raises(OODError, match=r"column 'label' holds no pictures, but ClassLabel\("):
        HubDataset(dataset=folder, image_column="label").open("test")
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "words")
    with pytest.raises(OODError, match=r"no column of pictures; there is: text$"):
        HubDataset(dataset=str(tmp_path / "words")).open("test")


def test_a_row_without_a_picture_and_a_broken_one_are_named(tmp_path):
    content = {"img": [None, {"bytes": b"no picture", "path": None}]}
    Dataset.from_dict(content, features=Features({"img": datasets.Image()})).save_to_disk(tmp_path / "saved")
    images = HubDataset(dataset=str(tmp_path / "saved")).open("test")
    with pytest.raises(OODError, match=r"^Hugging Face .*saved' \(test\): row 0: no picture in column 'img'$"):
        images.image(0)
    with pytest.raises(OODError, match=r"row 1: not a picture in a known format$"):
        images.image(1)


def test_a_broken_saved_set_is_one_line(tmp_path):
    folder = one(tmp_path)
    (file,) = (tmp_path / folder).glob("*.arrow")
    file.write_bytes(b"x" * 100)
    with pytest.raises(OODError, match=r"^Hugging Face data set '.+' cannot be read: .+[^.]$") as caught:
        HubDataset(dataset=folder).open("test")
    assert "\n" not in str(caught.value)


def test_a_folder_that_the_library_did_not_save_is_refused(tmp_path):
    with pytest.raises(OODError, match=r"not a folder that save_to_disk made, which has .+json or state\.json in it$"):
        HubDataset(dataset=str(tmp_path)).open("test")
    with pytest.raises(OODError, match=r"'csv': no such folder, nor a name on the hub, as 'uoft-cs/cifar10' is$"):
        HubDataset(dataset="csv").open("test")


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OODError, match=r"needs the library 'datasets': pip install 'ood-framework\[huggingface\]'$"):
        HubDataset(dataset="nobody/tiny").open("test")


# -------------------------------------------------------------------------------------------------------- the hub


def write_cache(root, name="tiny"):
    """Write what the library keeps of a set that it once fetched."""
    folder = root / f"nobody___{name}" / "default" / "0.0.0" / "0123"
    folder.mkdir(parents=True)
    parts = {"train": rows(), "test": rows((9,), (2,))}
    for split, part in parts.items():
        part.save_to_disk(root / "tmp" / split)
        (arrow,) = (root / "tmp" / split).glob("*.arrow")
        arrow.rename(folder / f"{name}-{split}.arrow")
    sizes = {split: {"name": split, "num_examples": len(part), "dataset_name": name} for split, part in parts.items()}
    info = datasets.DatasetInfo(
        features=rows().features, splits=sizes, builder_name="parquet", dataset_name=name, config_name="default"
    )
    info.write_to_directory(str(folder))


def test_what_the_library_has_in_its_cache_needs_no_network(tmp_path):
    write_cache(tmp_path / "cache")
    test = HubDataset(dataset="nobody/tiny").open("test")
    assert (test.labels, test.classes, reds(test)) == ([2], NAMES, [9])


def test_what_is_not_in_the_cache_is_not_fetched_unasked():
    with pytest.raises(OODError, match=r"'nobody/tiny': not in the library's cache; download: true fetches it$"):
        HubDataset(dataset="nobody/tiny").open("test")


@pytest.mark.parametrize("download", [False, True])
def test_the_libraries_may_use_the_network_only_where_the_recipe_says_so(monkeypatch, download):
    seen = []

    def load(name, config):
        seen.append((name, config, constants.is_offline_mode(), datasets.config.HF_HUB_OFFLINE))
        return DatasetDict(test=rows())

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    HubDataset(dataset="nobody/tiny", config="small", download=download).open("test")
    assert seen == [("nobody/tiny", "small", not download, not download)]
    assert not constants.is_offline_mode()
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_download_that_fails_is_one_line(monkeypatch):
    def load(name, config):
        raise ConnectionError("Couldn't reach the hub\n(timeout). Try later.")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(OODError, match=r"^Hugging Face data set 'nobody/tiny' cannot be read: .* hub \(timeout\)$"):
        HubDataset(dataset="nobody/tiny", download=True).open("test")

"""torchvision's data sets, with small files in their own formats and without a network."""

import struct

import numpy as np
import PIL.Image
import pytest
from scipy.io import savemat

from ood_core.data.decoding import to_rgb
from ood_core.errors import OODError
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_torchvision.source import SPLITS, TorchvisionDataset

prepare_torchvision()
from torchvision import datasets  # noqa: E402 - its operators are declared first


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a test wanted the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def write_mnist(root, images=6):
    """Write the four files of MNIST: magic number, sizes, bytes."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, first in (("train", 0), ("t10k", 100)):
        pixels = np.stack([np.full((28, 28), first + i, np.uint8) for i in range(images)])
        labels = np.arange(images, dtype=np.uint8)
        header = struct.pack(">IIII", 0x803, images, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, images) + labels.tobytes())
    return root


def write_dtd(root):
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for split, names in {"train": ["dotted/1.jpg", "woven/1.jpg"], "test": ["dotted/2.jpg", "woven/2.jpg"]}.items():
        (folder / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")
        for name in names:
            file = folder / "images" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (20, 30), "red" if "woven" in name else "blue").save(file)
    return root


def test_mnist_has_its_names_labels_and_pixels(tmp_path):
    source = TorchvisionDataset(dataset="MNIST", root=write_mnist(tmp_path))
    train, test = source.open("train"), source.open("test")
    assert train.classes[7] == "7 - seven"
    assert train.labels == test.labels == list(range(6))
    assert [np.asarray(images.image(3)).max() for images in (train, test)] == [3, 103]
    assert train.image(3).mode == "L"
    assert train.fingerprint != test.fingerprint


def test_set_of_files_is_read_from_them(tmp_path):
    images = TorchvisionDataset(dataset="DTD", root=write_dtd(tmp_path)).open("test")
    assert images.classes == ("dotted", "woven")
    assert images.labels == [0, 1]
    assert images.image(1).size == (20, 30)
    assert images.image(1).getpixel((3, 3))[0] > 200


def test_set_without_class_names_has_numbers(tmp_path):
    for label in ("00000", "00001"):
        folder = tmp_path / "gtsrb" / "GTSRB" / "Training" / label
        folder.mkdir(parents=True)
        PIL.Image.new("RGB", (5, 5)).save(folder / "1.ppm")
    images = TorchvisionDataset(dataset="GTSRB", root=tmp_path).open("train")
    assert images.classes == ("0", "1")
    assert images.labels == [0, 1]


def test_set_without_splits_gives_all_images_for_either(tmp_path):
    for name in ("Forest", "River"):
        (tmp_path / "eurosat" / "2750" / name).mkdir(parents=True)
        PIL.Image.new("RGB", (5, 5)).save(tmp_path / "eurosat" / "2750" / name / "1.jpg")
    source = TorchvisionDataset(dataset="EuroSAT", root=tmp_path)
    assert source.open("train").fingerprint == source.open("test").fingerprint
    assert source.open("test").classes == ("Forest", "River")


def test_emnist_is_turned_upright(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[:, 3, :] = 200  # a row in the file, a column in the picture
    for split in ("train", "test"):
        header = struct.pack(">IIII", 0x803, 2, 28, 28)
        (folder / f"emnist-balanced-{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = struct.pack(">II", 0x801, 2) + bytes([0, 46])
        (folder / f"emnist-balanced-{split}-labels-idx1-ubyte").write_bytes(labels)
    images = TorchvisionDataset(dataset="EMNIST", root=tmp_path).open("test")
    assert images.labels == [0, 46]
    assert len(images.classes) == 47
    assert np.asarray(images.image(1))[:, 3].tolist() == [200] * 28


def save(path, value=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, (8, 8), value).save(path)


def test_sun397_is_sorted_whatever_the_file_system_says(tmp_path):
    root = tmp_path / "SUN397"
    for name in ("b/bar/sun_z.jpg", "a/abbey/sun_b.jpg", "a/abbey/sun_a.jpg"):
        save(root / name)
    (root / "ClassName.txt").write_text("/a/abbey\n/b/bar\n")
    images = TorchvisionDataset(dataset="SUN397", root=tmp_path).open("test")
    assert images.classes == ("abbey", "bar")
    assert images.labels == [0, 0, 1]
    source = datasets.SUN397(str(tmp_path))
    assert [source._image_files[row].name for row in images._order] == ["sun_a.jpg", "sun_b.jpg", "sun_z.jpg"]


@pytest.mark.parametrize("dataset", ["EuroSAT", "Caltech101"])
def test_an_eps_is_not_interpreted(tmp_path, monkeypatch, dataset):
    def start(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", start)
    folder = {"EuroSAT": "eurosat/2750", "Caltech101": "caltech101/101_ObjectCategories"}[dataset]
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / folder / "cat").mkdir(parents=True)
    (tmp_path / folder / "cat" / "image_0001.jpg").write_bytes(script)
    if dataset == "Caltech101":
        (tmp_path / folder / "BACKGROUND_Google").mkdir()
    with pytest.raises(OODError, match=r"cannot identify image file|EPS is a program"):
        to_rgb(TorchvisionDataset(dataset=dataset, root=tmp_path).open("test").image(0))


def test_stanford_cars_are_read_by_their_annotations(tmp_path):
    root = tmp_path / "stanford_cars"
    for split in ("train", "test"):
        for number in (1, 2):
            save(root / f"cars_{split}" / f"{number}.jpg")
    kinds = [("fname", object), ("class", object)]
    rows = np.array([("1.jpg", 2), ("2.jpg", 1)], dtype=kinds)
    (root / "devkit").mkdir()
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": rows})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["Acura", "BMW"], dtype=object)})
    images = TorchvisionDataset(dataset="StanfordCars", root=tmp_path).open("train")
    assert (images.classes, images.labels) == (("Acura", "BMW"), [1, 0])
    assert images.image(0).size == (8, 8)


def test_stanford_cars_cannot_be_downloaded(tmp_path):
    with pytest.raises(OODError, match="'StanfordCars' cannot be downloaded, so set download: false"):
        TorchvisionDataset(dataset="StanfordCars", root=tmp_path, download=True).check()
    with pytest.raises(OODError) as caught:
        TorchvisionDataset(dataset="StanfordCars", root=tmp_path).open("train")
    assert "download" not in str(caught.value)


def test_omniglot_has_a_class_for_each_character(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.Omniglot, "_check_integrity", lambda self: True)
    for folder, alphabet in (("images_background", "Greek"), ("images_evaluation", "Ge_ez")):
        for character in ("character01", "character02"):
            save(tmp_path / "omniglot-py" / folder / alphabet / character / "1_01.png", 255, "L")
    source = TorchvisionDataset(dataset="Omniglot", root=tmp_path)
    assert source.open("train").classes == ("Greek/character01", "Greek/character02")
    test = source.open("test")
    assert test.labels == [0, 1]
    assert test.image(1).mode == "L"


def test_inaturalist_has_a_class_for_each_species(tmp_path):
    species = ("00000_Animalia_A_B_C_D_E_f", "00001_Animalia_A_B_C_D_E_g")
    for version in ("2021_train_mini", "2021_valid"):
        for name in species:
            for number in (2, 1):
                save(tmp_path / version / name / f"{number}.jpg", number)
    images = TorchvisionDataset(dataset="INaturalist", root=tmp_path).open("test")
    assert images.classes == species
    assert images.labels == [0, 0, 1, 1]


def test_set_that_keeps_no_list_of_files_has_a_fingerprint_of_them(tmp_path):
    folder = tmp_path / "caltech256" / "256_ObjectCategories" / "001.ak47"
    folder.mkdir(parents=True)
    source = TorchvisionDataset(dataset="Caltech256", root=tmp_path)
    PIL.Image.new("RGB", (5, 5)).save(folder / "001_0001.jpg")
    before = source.open("test")
    PIL.Image.new("RGB", (5, 5), "red").save(folder / "001_0001.jpg")
    assert before.classes == ("001.ak47",)
    assert before.image(0).size == (5, 5)
    assert source.open("test").fingerprint != before.fingerprint


def test_fingerprint_follows_a_changed_file_and_not_the_place(tmp_path):
    a, b = (
        TorchvisionDataset(dataset="DTD", root=write_dtd(tmp_path / root)).open("test").fingerprint for root in "ab"
    )
    PIL.Image.new("RGB", (20, 30), "green").save(tmp_path / "b" / "dtd" / "dtd" / "images" / "woven" / "2.jpg")
    c = TorchvisionDataset(dataset="DTD", root=tmp_path / "b").open("test").fingerprint
    assert a == b != c


def test_fingerprint_follows_pixels_in_memory(tmp_path):
    a = TorchvisionDataset(dataset="MNIST", root=write_mnist(tmp_path)).open("test").fingerprint
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert TorchvisionDataset(dataset="MNIST", root=tmp_path).open("test").fingerprint != a


def test_broken_file_is_named(tmp_path):
    images = TorchvisionDataset(dataset="DTD", root=write_dtd(tmp_path)).open("test")
    (tmp_path / "dtd" / "dtd" / "images" / "woven" / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(OODError, match=r"^torchvision data set 'DTD', image 1: .*woven/2\.jpg"):
        images.image(1)


def test_unknown_set_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(OODError, match=r"^no torchvision data set 'CIFAR-10'\. Did you mean 'CIFAR10'\?$"):
        TorchvisionDataset(dataset="CIFAR-10", root=tmp_path).check()


def test_download_of_a_set_that_has_none_is_refused(tmp_path):
    with pytest.raises(
        OODError, match=r"^torchvision data set 'ImageNet' cannot be downloaded, so set download: false$"
    ):
        TorchvisionDataset(dataset="ImageNet", root=tmp_path, download=True).check()


def test_missing_root_is_named(tmp_path):
    with pytest.raises(OODError, match=r"'MNIST' in .*nowhere: no such folder; download: true fetches it$"):
        TorchvisionDataset(dataset="MNIST", root=tmp_path / "nowhere").open("test")
    assert not (tmp_path / "nowhere").exists()


def test_incomplete_set_names_the_missing_file(tmp_path):
    (write_dtd(tmp_path) / "dtd" / "dtd" / "labels" / "test1.txt").unlink()
    with pytest.raises(OODError, match=r"'DTD' in .*: .*No such file.*test1\.txt'; download: true fetches it$"):
        TorchvisionDataset(dataset="DTD", root=tmp_path).open("test")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("dataset", sorted(SPLITS))
def test_every_set_knows_the_name_of_the_split_and_misses_its_files(tmp_path, dataset, split):
    with pytest.raises(OODError, match=rf"^torchvision data set '{dataset}' in .+: .+[^.]$") as caught:
        TorchvisionDataset(dataset=dataset, root=tmp_path).open(split)
    assert "\n" not in str(caught.value)
    assert "download=True" not in str(caught.value)
    assert ("download: true" in str(caught.value)) == (dataset not in ("ImageNet", "StanfordCars"))


def test_download_is_passed_on_and_its_failure_is_one_line(tmp_path, monkeypatch):
    asked = []

    def fail(self):
        asked.append(self.root)
        raise RuntimeError("Error downloading\nall mirrors. Try later")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(OODError, match=r"^torchvision data set 'MNIST' in .+: Error downloading all mirrors$"):
        TorchvisionDataset(dataset="MNIST", root=tmp_path, download=True).open("test")
    assert asked == [str(tmp_path)]

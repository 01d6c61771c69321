"""Digits, patches of photographs and noise."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from ood_core.errors import OODError
from ood_samples.sources import Digits, Noise, PhotoPatches

SOURCES = [Digits(), PhotoPatches(count=20), Noise(count=20)]


def pixels(images, index):
    return np.asarray(images.image(index))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_opening_twice_gives_the_same_images(source):
    first, second = source.open("test"), source.open("test")
    assert first.fingerprint == second.fingerprint
    assert list(first.labels) == list(second.labels)
    assert np.array_equal(pixels(first, 7), pixels(second, 7))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_splits_share_no_picture(source):
    train, test = source.open("train"), source.open("test")
    assert train.fingerprint != test.fingerprint
    # Two of the 1797 digits could be the same picture by chance; none are.
    assert not {pixels(train, i).tobytes() for i in range(len(train))} & {
        pixels(test, i).tobytes() for i in range(len(test))
    }


def test_digits_are_those_that_scikit_learn_loads():
    from sklearn.datasets import load_digits

    expected = load_digits()
    rows = Counter((*row.astype(int), label) for row, label in zip(expected.data, expected.target, strict=True))
    found = Counter()
    for split in ("train", "test"):
        images = Digits().open(split)
        for i, label in enumerate(images.labels):
            grey = np.rint(pixels(images, i).astype(float) * 16 / 255).astype(int).ravel()
            found[(*grey, label)] += 1
    assert found == rows


def test_digits_are_split_in_every_class():
    test, train = Digits(test_fraction=0.3).open("test"), Digits(test_fraction=0.3).open("train")
    assert test.classes == tuple("0123456789")
    for digit in range(10):
        of_class = [list(images.labels).count(digit) for images in (test, train)]
        assert of_class[0] == round(0.3 * sum(of_class))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_extreme_fraction_leaves_every_digit_in_both_splits(fraction):
    for split in ("train", "test"):
        assert set(Digits(test_fraction=fraction).open(split).labels) == set(range(10))


def test_digits_fill_the_grey_scale():
    images = Digits().open("train")
    assert images.image(0).mode == "L"
    assert images.image(0).size == (8, 8)
    values = np.stack([pixels(images, i) for i in range(len(images))])
    assert sorted(set(values.ravel().tolist())) == [round(level * 255 / 16) for level in range(17)]


def test_opening_digits_imports_no_scikit_learn():
    code = (
        "import sys; from ood_samples.sources import Digits; Digits().open('train'); sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_fingerprint_follows_the_content():
    assert Digits().open("train").fingerprint != Digits(test_fraction=0.5).open("train").fingerprint


def test_patches_are_cut_from_their_photograph():
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    images = PhotoPatches(patch_size=16, count=6).open("train")
    assert images.classes == ("china", "flower")
    for index, label in enumerate(images.labels):
        windows = np.lib.stride_tricks.sliding_window_view(photographs[label], (16, 16, 3))
        patch = pixels(images, index)
        assert (windows[:, :, 0, 0, 0, 0] == patch[0, 0, 0]).any()
        candidates = np.argwhere((windows[:, :, 0, 0, 0] == patch[0, 0]).all(axis=-1))
        assert any(np.array_equal(windows[y, x, 0], patch) for y, x in candidates)


def test_fewer_patches_are_the_first_of_more():
    few, many = PhotoPatches(count=3).open("train"), PhotoPatches(count=30).open("train")
    assert all(np.array_equal(pixels(few, i), pixels(many, i)) for i in range(3))


def test_patch_larger_than_the_photographs_is_refused():
    with pytest.raises(
        OODError, match=r"^dataset 'photo-patches': patch_size 428 is above the photographs' 427 pixels$"
    ):
        PhotoPatches(patch_size=428).check()


def test_patch_as_large_as_the_photographs_fits():
    assert PhotoPatches(patch_size=427, count=2).open("test").image(0).size == (427, 427)


def test_noise_has_the_mean_and_spread_asked_for():
    images = Noise(size=64, count=10, mean=0.4, std=0.1).open("train")
    values = np.stack([pixels(images, i) for i in range(10)]) / 255
    assert values.mean() == pytest.approx(0.4, abs=0.002)
    assert values.std() == pytest.approx(0.1, abs=0.002)


def test_wide_noise_is_clipped():
    values = pixels(Noise(std=5.0, count=1).open("train"), 0)
    assert (values == 0).mean() == pytest.approx(0.46, abs=0.03)
    assert (values == 255).mean() == pytest.approx(0.46, abs=0.03)


@pytest.mark.parametrize("option", [{"seed": 1}, {"std": 0.3}, {"count": 21}, {"size": 31}])
def test_noise_fingerprint_follows_every_option(option):
    assert Noise(**({"count": 20} | option)).open("train").fingerprint != Noise(count=20).open("train").fingerprint


@pytest.mark.parametrize("name", ["noise", "photo-patches"])
def test_no_source_makes_labels_for_more_images_than_memory_holds(make_plan, tiny, name):
    with pytest.raises(OODError, match=f"option 'count' of dataset '{name}' must be less than or equal to 1000000"):
        make_plan(tiny, f"data.far=[{{use: {name}, count: 1000000000000}}]")

"""What tests of recipes share: small pictures in the layouts of the published sets."""

import io
import json

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ood_core.plan import superclasses

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def folder(root, *classes, count=2):
    """Write pictures for each class, `root/CLASS/N.png`."""
    random = np.random.default_rng(len(str(root)))
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(root / name / f"{number}.png")


def split_folder(root, *classes):
    for split in ("train", "test"):
        folder(root / split, *classes)


def wordnet_folder(root):
    """Write the folders of ImageNet-30 and ImageNet-200, which share some classes."""
    from ood_published.source import LISTS

    wnids = {line.split()[0] for file in LISTS.glob("*.txt") for line in file.read_text().splitlines()}
    folder(root / "train", *sorted(wnids), count=6)  # one is held out
    folder(root / "val", *sorted(wnids))


def lists(root, data, benchmark, **of_lists):
    """Write image lists as OpenOOD has them, and their pictures."""
    for name, count in of_lists.items():
        lines = []
        for number in range(count):
            label = number % 2 if benchmark in name else -1
            folder(root / data / benchmark / name, str(number), count=1)
            lines.append(f"{benchmark}/{name}/{number}/0.png {label}")
        path = root / "benchmark_imglist" / benchmark / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def small_sets(tmp_path_factory):
    """A data folder with a few pictures of every set that a benchmark names."""
    root = tmp_path_factory.mktemp("sets")
    for name in ("iSUN", "LSUN_resize", "iNaturalist", "SUN", "Places"):
        folder(root / name, "images")
    for name in ("stanford-dogs", "places365", "flowers102", "oxford-pets"):
        split_folder(root / name, "one", "two")
    folder(root / "food-101" / "images", "pizza", "hot_dog")
    folder(root / "256_ObjectCategories", *("104.homer-simpson", "053.desk-globe"))
    folder(root / "dtd" / "images", "woven", "dotted")
    wordnet_folder(root / "imagenet")
    for one, other in (("cifar10", "cifar100"), ("cifar100", "cifar10")):
        sets = {f"test_{name}": 3 for name in (other, "tin", "mnist", "svhn", "texture", "places365")}
        lists(root, "images_classic", one, **{f"train_{one}": 40, f"test_{one}": 6}, **sets)
    for one in ("imagenet", "imagenet200"):
        shifted = {f"test_{one}_{kind}": 2 for kind in ("v2", "c", "r")}
        sets = {f"test_{name}": 3 for name in ("ssb_hard", "ninco", "inaturalist", "openimage_o")}
        lists(root, "images_largescale", one, **{f"train_{one}": 40, f"test_{one}": 6}, **shifted)
    lists(root, "images_largescale", "imagenet", **sets)  # of both
    lists(root, "images_classic", "imagenet", test_textures=3)
    write_parquet(root / "cifar10", "airplane", "automobile", "bird")
    write_parquet(root / "cifar100", "apple", "baby", "bear")
    write_parquet(root / "svhn", "0", "1")
    return root


def write_parquet(root, *classes, count=8):
    """Write a train and a test file of so many pictures a class in Hugging Face's format."""
    root.mkdir(parents=True)
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)}}
    for seed, split in enumerate(("train", "test")):
        random = np.random.default_rng([seed, len(classes), len(str(root))])
        rows = []
        for _ in range(count * len(classes)):
            target = io.BytesIO()
            PIL.Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(target, "PNG")
            rows.append({"bytes": target.getvalue(), "path": None})
        table = pa.table({"img": rows, "label": [n % len(classes) for n in range(len(rows))]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def parquet():
    """`parquet(root, *classes)`: writes a small set in Hugging Face's format."""
    return write_parquet


@pytest.fixture(scope="session")
def paper_sets(small_sets, tmp_path_factory):
    """The same with all classes of the CIFAR sets, and images enough for ten shots."""
    root = tmp_path_factory.mktemp("paper")
    for path in small_sets.iterdir():
        if not path.name.startswith("cifar"):
            (root / path.name).symlink_to(path)
    write_parquet(root / "cifar10", *CIFAR10, count=12)
    fine = sorted(name for names in superclasses.load("cifar100").values() for name in names)
    write_parquet(root / "cifar100", *fine, count=12)
    return root

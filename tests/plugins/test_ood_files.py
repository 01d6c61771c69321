"""Parquet files."""

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ood_core.errors import OODError
from ood_files import parquet
from ood_files.parquet import ParquetFiles

from .small_files import cut_off, encoded, red

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def write_parquet(path, labels, names=("cat", "dog"), image="img", label="label", pictures=None, group=2):
    pictures = [encoded(i) for i in range(len(labels))] if pictures is None else pictures
    table = pa.table({image: [{"bytes": content, "path": None} for content in pictures], label: labels})
    if names:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(names)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


def test_rows_of_several_files_follow_each_other(tmp_path):
    write_parquet(tmp_path / "train-00001.parquet", [1, 1], pictures=[encoded(30), encoded(31)])
    write_parquet(tmp_path / "train-00000.parquet", [0, 1, 0])
    write_parquet(tmp_path / "test-00000.parquet", [1])
    images = ParquetFiles(path=tmp_path).open("train")
    assert images.encoded
    assert images.classes == ("cat", "dog")
    assert images.labels == [0, 1, 0, 1, 1]
    assert [red(images, i) for i in (4, 0, 2, 3, 1)] == [31, 0, 2, 30, 1]
    assert ParquetFiles(path=tmp_path).open("test").labels == [1]


def test_one_file_is_both_splits(tmp_path):
    source = ParquetFiles(path=write_parquet(tmp_path / "all.parquet", [0, 1]))
    assert source.open("train").labels == source.open("test").labels == [0, 1]


def test_test_files_may_be_called_otherwise(tmp_path):
    write_parquet(tmp_path / "validation-00000.parquet", [1, 0])
    write_parquet(tmp_path / "test-00000.parquet", [-1, -1])
    assert ParquetFiles(path=tmp_path, test_prefix="validation").open("test").labels == [1, 0]


def test_usual_columns_are_found(tmp_path):
    images = ParquetFiles(path=write_parquet(tmp_path / "a.parquet", [1], image="image", label="fine_label")).open(
        "test"
    )
    assert images.classes == ("cat", "dog")
    assert red(images, 0) == 0


def test_other_columns_are_named(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [1], image="photo", label="animal")
    assert ParquetFiles(path=path, image_column="photo", label_column="animal").open("test").labels == [1]


def test_classes_without_names_are_numbers(tmp_path):
    images = ParquetFiles(path=write_parquet(tmp_path / "a.parquet", [2, 0], names=())).open("test")
    assert images.classes == ("0", "1", "2")


def test_images_survive_pickling_while_in_use(tmp_path):
    images = ParquetFiles(path=write_parquet(tmp_path / "a.parquet", [0, 1, 0])).open("test")
    assert red(images, 2) == 2
    assert red(pickle.loads(pickle.dumps(images)), 1) == 1  # noqa: S301 - our own


def test_forked_processes_read_images_opened_before(tmp_path):
    images = ParquetFiles(path=write_parquet(tmp_path / "a.parquet", [0] * 8)).open("test")
    assert red(images, 0) == 0
    global _forked
    _forked = images
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_red_of_forked, range(8), chunksize=1) == list(range(8))


def _red_of_forked(index):
    return int(red(_forked, index))


def test_cache_stays_within_its_limit(tmp_path, monkeypatch):
    images = ParquetFiles(path=write_parquet(tmp_path / "a.parquet", [0] * 20)).open("test")
    group = len(encoded(0)) * 2
    monkeypatch.setattr(parquet, "CACHE_BYTES", 4 * group)
    reads = []
    read = parquet._read
    monkeypatch.setattr(parquet, "_read", lambda row_group: reads.append(row_group.number) or read(row_group))
    for index in (0, 2, 0, 4, 6, 8, 10, 0, 2):
        assert red(images, index) == index
        assert sum(column.nbytes for column in images._cache.values()) <= 4 * group
    assert reads[:3] == [0, 1, 2]
    assert len(reads) < 9


def test_fingerprint_follows_content_and_not_the_place(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    write_parquet(tmp_path / "a" / "test.parquet", [0, 1])
    shutil.copy(tmp_path / "a" / "test.parquet", tmp_path / "b" / "test.parquet")
    write_parquet(tmp_path / "c" / "test.parquet", [1, 1])
    a, b, c = (ParquetFiles(path=tmp_path / folder).open("test").fingerprint for folder in "abc")
    assert a == b != c


def test_broken_picture_is_named_by_file_and_row(tmp_path):
    pictures = [encoded(0), encoded(1), b"no picture", cut_off(), None]
    path = write_parquet(tmp_path / "a.parquet", [0] * 5, pictures=pictures)
    images = ParquetFiles(path=path).open("test")
    assert red(images, 1) == 1
    with pytest.raises(OODError, match=r"a\.parquet: row 2: not a picture in a known format$"):
        images.image(2)
    with pytest.raises(OODError, match=r"a\.parquet: row 3: broken picture: "):
        images.image(3)
    with pytest.raises(OODError, match=r"a\.parquet: row 4: no bytes in column 'img'$"):
        images.image(4)


def test_missing_path_is_refused_before_the_run(tmp_path):
    with pytest.raises(OODError, match=r"nowhere: no such folder or file$"):
        ParquetFiles(path=tmp_path / "nowhere").check()


def test_missing_split_tells_what_is_there(tmp_path):
    write_parquet(tmp_path / "test-00000.parquet", [0])
    with pytest.raises(OODError, match=r"no train-\*\.parquet for the train split, only test-00000\.parquet$"):
        ParquetFiles(path=tmp_path).open("train")


def test_missing_column_tells_which_there_are(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [0], image="photo")
    with pytest.raises(OODError, match=r"no column img or image, which image_column chooses; there is: photo, label$"):
        ParquetFiles(path=path).open("test")


def test_columns_of_the_wrong_kind_are_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [0])
    with pytest.raises(OODError, match=r"column 'label' holds int64, not pictures \(a struct with bytes\)$"):
        ParquetFiles(path=path, image_column="label").open("test")
    with pytest.raises(OODError, match=r"column 'img' holds struct<.*>, not class numbers$"):
        ParquetFiles(path=path, label_column="img").open("test")


@pytest.mark.parametrize("label", [-1, 2, None])
def test_label_without_a_class_is_refused(tmp_path, label):
    path = write_parquet(tmp_path / "a.parquet", [0, 1, label])
    with pytest.raises(OODError, match=rf"row 2 has label {label}, not a class number below 2$"):
        ParquetFiles(path=path).open("test")


def test_row_without_a_label_is_named_where_classes_are_numbers(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [0, None], names=())
    with pytest.raises(OODError, match=r"a\.parquet: row 1 has label None, not a class number below 1$"):
        ParquetFiles(path=path).open("test")


def test_parquet_without_rows_is_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [0], names=())
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(OODError, match=r"a\.parquet: no rows for the test split$"):
        ParquetFiles(path=path).open("test")


def test_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(OODError, match=r"a\.parquet: not a readable parquet file: .+") as caught:
        ParquetFiles(path=path).open("test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("folder", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_opens(folder, classes):
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"no CIFAR parquet files in {path}")
    images = ParquetFiles(path=path).open("test")
    assert len(images.classes) == classes
    assert np.bincount(images.labels).tolist() == [10000 // classes] * classes
    assert {images.image(i).size for i in (0, 999, 1000, 9999)} == {(32, 32)}


def test_names_of_classes_that_are_no_json_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    table = pq.read_table(write_parquet(path, [0, 1]))
    pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), path)
    with pytest.raises(OODError, match=r"a\.parquet: not a readable parquet file: Expecting"):
        ParquetFiles(path=path).open("test")


def test_a_row_group_with_fewer_rows_than_announced_is_named(tmp_path):
    images = ParquetFiles(path=write_parquet(tmp_path / "a.parquet", [0, 1, 0])).open("test")
    write_parquet(tmp_path / "a.parquet", [0])
    with pytest.raises(OODError, match=r"a\.parquet: rows from 0 cannot be read: there are 1 of 2$"):
        images.image(1)

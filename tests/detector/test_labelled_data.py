"""ID images as users hold them: data sets of torch and Hugging Face, loaders, tables, labels of any kind."""

import io

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from ood_core.detector.from_module import split_holdout
from ood_core.detector.labelled_data import read_labelled
from ood_core.errors import OODError

NAMES = ["red", "green", "blue"]
LABELS = np.array([2, 0, 1, 1, 0, 2, 0, 1])
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 5, 3), dtype=np.uint8)
TENSORS = torch.from_numpy(IMAGES).movedim(3, 1)
PICTURES = [Image.fromarray(image) for image in IMAGES]
PAIRS = list(zip(PICTURES, LABELS.tolist(), strict=True))
INFINITY = float("inf")


class Streamed(IterableDataset):
    def __iter__(self):
        return iter([(image, int(label)) for image, label in zip(TENSORS, LABELS, strict=True)])


class Told(Dataset):
    """Has labels and names beside its images, as torchvision's data sets do."""

    def __init__(self, change=None):
        self.targets, self.classes, self.target_transform = LABELS.tolist(), NAMES, change
        self.read = []

    def __len__(self):
        return len(PICTURES)

    def __getitem__(self, row):
        self.read.append(row)
        label = self.targets[row]
        return PICTURES[row], label if self.target_transform is None else self.target_transform(label)


def encoded(image):
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def pixels(found):
    return [item.pixels().tolist() for item in found.images]


@pytest.fixture(scope="module")
def table():
    """A table of Hugging Face whose columns have types."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"photo": datasets.Image(), "row": datasets.Value("int64"), "kind": datasets.ClassLabel(names=NAMES)}
    )
    columns = {"photo": PICTURES, "row": list(range(8)), "kind": LABELS.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize(
    "dataset",
    [
        [(image, label, {"row": 3}) for image, label in PAIRS],
        [(image, label, "id", 1) for image, label in PAIRS],
        [{"image": image, "label": label} for image, label in PAIRS],
        [
            {"labels": torch.tensor(label), "pixel_values": image}
            for (_, label), image in zip(PAIRS, TENSORS, strict=True)
        ],
        iter(PAIRS),
        Streamed(),
        DataLoader(Streamed(), batch_size=3),
        DataLoader(TensorDataset(TENSORS, torch.from_numpy(LABELS), torch.arange(8)), batch_size=3),
        [{"pixel_values": TENSORS[at], "labels": torch.from_numpy(LABELS[at])} for at in (slice(5), slice(5, 8))],
        TensorDataset(TENSORS, torch.from_numpy(LABELS)),
        ConcatDataset([TensorDataset(TENSORS[at], torch.from_numpy(LABELS[at])) for at in (slice(3), slice(3, 8))]),
        Subset(TensorDataset(TENSORS.flip(0), torch.from_numpy(LABELS).flip(0)), list(range(7, -1, -1))),
        {"image": IMAGES, "label": LABELS},
        [TENSORS, torch.from_numpy(LABELS)],
        (pandas.Series(PICTURES), pandas.Series(LABELS)),
        pandas.DataFrame({"image": PICTURES, "label": LABELS}),
        [{"image": {"bytes": encoded(image), "path": None}, "label": label} for image, label in PAIRS],
    ],
    ids=[
        "triples",
        "four",
        "dicts",
        "dicts-of-tensors",
        "generator",
        "stream",
        "loader-of-a-stream",
        "loader-of-triples",
        "batches-of-dicts",
        "tensors",
        "concatenated",
        "subset",
        "columns",
        "list",
        "series",
        "frame",
        "encoded",
    ],
)
def test_whatever_holds_images_and_labels_is_read(dataset):
    found = read_labelled(dataset)
    assert found.labels.tolist() == LABELS.tolist()
    assert found.classes == ("0", "1", "2")
    assert found.has_labels
    assert pixels(found) == TENSORS.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table,
        lambda table: table.with_format("numpy"),
        lambda table: table.select_columns(["photo", "kind"]).rename_columns({"photo": "x", "kind": "y"}),
        lambda table: table.with_transform(lambda rows: {"pixel_values": [to_tensor(of) for of in rows["photo"]]}),
        lambda table: table.to_iterable_dataset().rename_columns({"photo": "img", "kind": "label"}),
        lambda table: table.cast_column("photo", type(table.features["photo"])(decode=False)),
    ],
    ids=["plain", "numpy", "other-names", "transform", "iterable", "encoded"],
)
def test_a_table_of_hugging_face_is_read_by_the_types_of_its_columns(table, change):
    found = read_labelled(change(table))
    assert found.labels.tolist() == LABELS.tolist()
    assert found.classes == tuple(NAMES)
    assert pixels(found) == TENSORS.tolist()


def to_tensor(picture):
    return torch.from_numpy(np.array(picture)).movedim(2, 0)


def test_splits_of_hugging_face_have_to_be_named(table):
    import datasets

    with pytest.raises(OODError, match=r"these are several splits, 'train', 'test'; name one: dataset\['train'\]"):
        read_labelled(datasets.DatasetDict({"train": table, "test": table}))


def test_a_table_without_images_or_with_several_labels_says_so(table):
    with pytest.raises(OODError, match=r"none of the columns 'row', 'kind' has images; cast one to datasets.Image"):
        read_labelled(table.remove_columns("photo"))
    with pytest.raises(OODError, match=r"several columns are ClassLabel: 'kind', 'other'; keep one"):
        read_labelled(table.add_column("other", LABELS.tolist()).cast_column("other", table.features["kind"]))


@pytest.mark.parametrize(
    ("dataset", "rows"),
    [
        (Told(), range(8)),
        (Subset(Told(), [5, 1]), [5, 1]),
        (Subset(Subset(Told(), [7, 5, 1]), [1, 2]), [5, 1]),
        (ConcatDataset([Subset(Told(), [0, 2]), Told()]), [0, 2, *range(8)]),
        (
            DataLoader(Subset(Told(), [5, 1, 2]), batch_size=2, collate_fn=lambda rows: tuple(zip(*rows, strict=True))),
            [5, 1, 2],
        ),
    ],
    ids=["whole", "subset", "twice", "concatenated", "loader"],
)
def test_labels_and_names_of_a_data_set_inside_another_are_found(dataset, rows):
    found = read_labelled(dataset)
    assert found.classes == tuple(NAMES)
    assert found.labels.tolist() == LABELS[list(rows)].tolist()
    assert pixels(found) == TENSORS[list(rows)].tolist()


def test_labels_beside_the_images_spare_reading_them():
    dataset = Told()
    read_labelled(random_split(dataset, [0.5, 0.5])[0])
    assert len(dataset.read) == 2


def test_labels_that_are_changed_on_the_way_are_those_that_are_yielded():
    found = read_labelled(Told(lambda label: (label + 1) % 3))
    assert found.labels.tolist() == ((LABELS + 1) % 3).tolist()
    assert found.classes == ("0", "1", "2")  # the names belong to the others


def test_data_sets_of_other_classes_are_not_concatenated():
    other = Told()
    other.classes = ["a", "b", "c"]
    with pytest.raises(OODError, match="the data sets that are concatenated have different classes"):
        read_labelled(ConcatDataset([Told(), other]))


def test_files_may_come_with_their_classes(tmp_path):
    for row, picture in enumerate(PICTURES):
        picture.save(tmp_path / f"{row}.png")
    found = read_labelled([(str(tmp_path / f"{row}.png"), NAMES[label]) for row, label in enumerate(LABELS)])
    assert found.classes == ("blue", "green", "red")
    assert [found.classes[label] for label in found.labels] == [NAMES[label] for label in LABELS]
    assert pixels(found) == TENSORS.tolist()


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.tolist(),
        tuple(LABELS.tolist()),
        LABELS.astype(np.uint8),
        LABELS.astype(float),
        LABELS.astype(object),
        LABELS[:, None],
        np.eye(3)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
        torch.eye(3, dtype=torch.bfloat16)[torch.from_numpy(LABELS)],
        torch.from_numpy(LABELS).requires_grad_(False).to(torch.int16),
        torch.from_numpy(LABELS).float().requires_grad_(),
        list(torch.from_numpy(LABELS)),
        pandas.Series(LABELS.astype(float), index=range(8, 0, -1)),
        pandas.Series(LABELS.tolist(), dtype="category"),
        pandas.Series(LABELS.tolist(), dtype="Int64"),
    ],
    ids=lambda labels: f"{type(labels).__name__}-{getattr(labels, 'dtype', '')}-{getattr(labels, 'ndim', '')}",
)
def test_labels_are_whatever_numpy_reads_as_numbers(labels):
    assert read_labelled((IMAGES, labels)).labels.tolist() == LABELS.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.gpu
def test_labels_may_lie_on_a_gpu():
    assert read_labelled((TENSORS, torch.from_numpy(LABELS).cuda())).labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    "of",
    [
        list,
        np.array,
        lambda names: np.array(names, dtype=object),
        lambda names: np.array(names).astype("S"),
        lambda names: [name.encode() for name in names],
        lambda names: pandas.Series(names),
        lambda names: pandas.Series(names, dtype="category"),
    ],
)
def test_labels_are_whatever_numpy_reads_as_names(of):
    names = [NAMES[label] for label in LABELS]
    found = read_labelled((IMAGES, of(names)))
    assert found.classes == ("blue", "green", "red")
    assert [found.classes[label] for label in found.labels] == names
    assert read_labelled((IMAGES, of(names)), NAMES).labels.tolist() == LABELS.tolist()


def test_yes_and_no_are_two_classes():
    assert read_labelled((IMAGES, LABELS > 0)).labels.tolist() == (LABELS > 0).astype(int).tolist()


def test_the_names_of_a_data_set_in_another_order_renumber_its_labels_and_others_rename_them():
    order = ["blue", "red", "green"]
    found = read_labelled(Told(), order)
    assert [found.classes[label] for label in found.labels] == [NAMES[label] for label in LABELS]
    assert found.classes == tuple(order)
    renamed = read_labelled(Told(), ["rot", "grün", "blau"])
    assert renamed.labels.tolist() == LABELS.tolist()


def test_so_do_those_of_folders(tmp_path):
    for row, (picture, label) in enumerate(PAIRS):
        folder = tmp_path / NAMES[label]
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"{row}.png")
    found = read_labelled(tmp_path, NAMES)
    assert found.classes == tuple(NAMES)
    assert all(f"/{NAMES[label]}/" in item.name for label, item in zip(found.labels, found.images, strict=True))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([{"picture_id": 3, "label": 1}], "none of the keys 'picture_id', 'label' is one of images: image, img, pixel"),
        (((IMAGES, LABELS + 1)), r"labels reach from 1 to 3: number the classes from 0 \(labels - 1\), or name all of"),
        ([(PICTURES[0], 1), (PICTURES[1], None)], "image 1 has no label but None"),
        ((IMAGES, [*NAMES, None, *NAMES, "red"]), "image 3 has no label but None"),
        ((IMAGES, LABELS + 0.5), r"labels are a whole number or a name for each image, not float64 \[8\]"),
        ((IMAGES, np.where(LABELS == 0, INFINITY, LABELS)), "labels are a whole number or a name for each image"),
        ((IMAGES, np.eye(3)[LABELS] / 2), r"labels are a whole number or a name for each image, not float64 \[8, 3\]"),
        ([(TENSORS[:3], torch.tensor([0, 1]))], r"an entry has 3 images and labels \[2\]"),
        (3, "a int holds no images to fit to; give a folder, a pair"),
    ],
)
def test_what_cannot_be_meant_is_one_line(dataset, message):
    with pytest.raises(OODError, match=message):
        read_labelled(dataset)


def test_labels_from_1_are_noticed_where_the_classes_have_names():
    with pytest.raises(OODError, match=r"labels reach from 1 to 3: number the classes from 0 \(labels - 1\)$"):
        read_labelled((IMAGES, LABELS + 1), NAMES)


def test_images_that_a_loader_has_normalised_are_refused_with_what_to_give():
    found = read_labelled(DataLoader(TensorDataset((TENSORS / 255 - 0.45) / 0.225, torch.from_numpy(LABELS))))
    with pytest.raises(OODError, match=r"give images as they were before \(or uint8\), and Detector the mean and std"):
        pixels(found)


def test_numbers_of_images_in_the_place_of_labels_are_noticed():
    found = read_labelled([(image, row, label) for row, (image, label) in enumerate(PAIRS)])
    with pytest.raises(OODError, match=r"^every one of 8 images has a class of its own; is the second entry of each"):
        split_holdout(found, 0.2, 0)
    with pytest.raises(OODError, match=r"^a holdout of 0.1 of 8 images leaves none"):
        split_holdout(read_labelled(PAIRS), 0.1, 0)


def test_a_dict_of_many_keys_is_named_by_the_first_few():
    with pytest.raises(
        OODError, match=r"none of the keys '0', '1', '2', '3', '4' and 795 more is one of images: image"
    ):
        read_labelled([{str(row): row for row in range(800)}])

"""What is measured: images in two sets, shifted images as ID, OOD taken for ID, broken pictures."""

import csv

import numpy as np
import pytest
from PIL import Image

from ood_core import report
from ood_core.errors import OODError
from ood_core.pipeline.measure import ACCEPTED
from ood_core.report.formats import run_folder
from ood_core.run.schedule import run
from ood_core.store.files import load_array
from ood_core.store.store import Store

RECIPE = """\
seed: 0
data:
  image_size: 8
  id: {use: folder, path: ID}
  near:
    - {use: folder, name: other, path: OOD}
  holdout: 0.2
backbone: {use: timm, model: vit_tiny_patch16_224, options: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}}
training:
  - {use: classification, epochs: 2, batch_size: 8, crop_scale: 1, flip: false}
scorers: [energy]
"""


def write(folder, count, seed):
    """Write random pictures and return the folder."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def sets(tmp_path):
    """The path of a recipe over folders of random pictures."""
    seed = 0
    for split, count in (("train", 10), ("test", 6)):
        for name in ("cat", "dog"):
            write(tmp_path / "ID" / split / name, count, seed := seed + 1)
    for name in ("fox", "elk"):
        write(tmp_path / "OOD" / name, 5, seed := seed + 1)
    path = tmp_path / "sets.yaml"
    path.write_text(RECIPE.replace("ID}", f"{tmp_path}/ID}}").replace("OOD}", f"{tmp_path}/OOD}}"))
    return path


@pytest.fixture
def carry_out(make_plan, sets, tmp_path):
    """`carry_out(*overrides)`: the plan and the results."""

    def carry_out(*overrides):
        plan = make_plan(sets, *overrides)
        return plan, run(plan, Store(tmp_path / "store"))

    return carry_out


def copy(tmp_path, source, target):
    (tmp_path / target).write_bytes((tmp_path / source).read_bytes())


def test_sets_without_a_picture_in_common_have_no_duplicates(carry_out):
    _, results = carry_out()
    assert (results.rows[0].duplicates_test, results.rows[0].duplicates_train) == (0, 0)
    assert (results.rows[0].id_images, results.rows[0].ood_images) == (12, 10)


def test_the_same_picture_in_two_sets_is_found_whatever_its_name_and_format(carry_out, tmp_path):
    with Image.open(tmp_path / "ID" / "test" / "cat" / "3.png") as picture:
        picture.save(tmp_path / "OOD" / "elk" / "renamed.bmp")
    copy(tmp_path, "ID/train/dog/1.png", "OOD/fox/copy.png")
    _, results = carry_out("data.holdout=0")
    assert (results.rows[0].duplicates_test, results.rows[0].duplicates_train) == (1, 1)
    assert results.rows[0].ood_images == 12


def test_what_is_in_two_sets_can_be_taken_out(carry_out, tmp_path):
    copy(tmp_path, "ID/test/cat/3.png", "OOD/elk/copy.png")
    _, counted = carry_out()
    _, removed = carry_out("data.overlap=remove")
    assert (counted.rows[0].ood_images, removed.rows[0].ood_images) == (11, 10)
    assert removed.rows[0].duplicates_test == 1
    scores = {row.auroc for row in (counted.rows[0], removed.rows[0])}
    assert len(scores) == 2


def test_what_is_taken_out_is_in_no_part_of_the_report(carry_out, tmp_path):
    copy(tmp_path, "ID/test/cat/3.png", "OOD/elk/copy.png")
    plan, results = carry_out("data.overlap=remove")
    report.write(plan, results, Store(tmp_path / "store"), tmp_path / "out")
    found = run_folder.load(tmp_path / "out")
    assert len(found.scores[0].ood_scores) == 10
    assert {of.ood_class: of.images for of in found.classes} == {"fox": 5, "elk": 5}
    assert {pair.images for pair in found.accepted} <= {5}


def test_nothing_is_left_of_a_set_that_is_all_id(carry_out, tmp_path):
    for picture in (tmp_path / "OOD").rglob("*.png"):
        copy(tmp_path, "ID/test/cat/3.png", picture.relative_to(tmp_path))
    with pytest.raises(OODError, match="all its images are also ID images; nothing is left to measure"):
        carry_out("data.overlap=remove")


def test_shifted_images_count_as_id_besides_the_test_set(carry_out, tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / "SHIFTED" / name, 4, 50)
    _, results = carry_out(f"data.shifted=[{{use: folder, name: shifted, path: {tmp_path}/SHIFTED}}]")
    standard, full = results.rows
    assert (standard.spectrum, standard.id_set, standard.id_images) == ("standard", "ID", 12)
    assert (full.spectrum, full.id_set, full.id_images) == ("full", "ID + shifted", 20)
    assert standard.id_accuracy == full.id_accuracy


def test_ood_images_that_are_accepted_are_counted_by_class(carry_out, tmp_path):
    plan, results = carry_out()
    store, (row,) = Store(tmp_path / "store"), plan.rows
    counts = load_array(store.folder(row.measure) / ACCEPTED)
    assert counts.shape == (2, 2)
    assert int(counts.sum()) == round(10 * results.rows[0].fpr95)
    report.write(plan, results, store, tmp_path / "out")
    pairs = list(csv.DictReader((tmp_path / "out" / "accepted.csv").open()))
    assert sum(int(pair["accepted"]) for pair in pairs) == int(counts.sum())
    assert {pair["ood_class"] for pair in pairs} <= {"fox", "elk"}
    assert {pair["id_class"] for pair in pairs} <= {"cat", "dog"}
    assert all(pair["images"] == "5" for pair in pairs)


def test_one_class_in_front_of_outputs_for_many_is_taken_for_none(carry_out, tmp_path):
    training = "training=[{use: one-class, epochs: 1, batch_size: 8}]"
    plan, results = carry_out("protocol=one-class", training, "scorers=[mahalanobis]", "data.near=[]")
    report.write(plan, results, Store(tmp_path / "store"), tmp_path / "out")
    assert len((tmp_path / "out" / "accepted.csv").read_text().splitlines()) == 1
    assert [row.id_accuracy for row in results.rows] == [None, None]


# ----------------------------------------------------------------------------------------------- broken pictures


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


def test_a_broken_picture_stops_the_run_and_is_named(carry_out, tmp_path):
    cut(tmp_path / "OOD" / "elk" / "2.png")
    hint = "'unreadable: skip' in 'data' goes on without such pictures"
    with pytest.raises(OODError, match=rf"extract other .*: .*OOD/elk/2\.png: broken picture: .*; {hint}"):
        carry_out()


def test_broken_pictures_are_skipped_and_counted_if_asked(carry_out, tmp_path):
    cut(tmp_path / "OOD" / "elk" / "2.png")
    cut(tmp_path / "ID" / "train" / "dog" / "4.png")
    plan, results = carry_out("data.unreadable=skip", "scorers=[energy, odin]", "data.holdout=0")
    assert [row.ood_images for row in results.rows] == [9, 9]
    facts = {str(record.stage): record.facts for record in results.records}
    assert len(facts["train classification"]["skipped"]) == 1
    assert facts["extract ID train (classification)"]["images"] == 19
    (reason,) = facts["extract other (classification)"]["skipped"]
    assert "OOD/elk/2.png: broken picture" in reason
    store = Store(tmp_path / "store")
    for stage in plan.stages:
        if str(stage) == "extract other (classification)":
            arrays = {file.stem: load_array(file) for file in store.folder(stage).glob("*.npy")}
            assert {len(array) for array in arrays.values()} == {9}
            assert arrays["rows"].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
            assert arrays["labels"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    report.write(plan, results, store, tmp_path / "out")
    assert "OOD/elk/2.png: broken picture" in (tmp_path / "out" / "report.md").read_text()


def test_a_set_of_broken_pictures_alone_is_refused(carry_out, tmp_path):
    for picture in (tmp_path / "OOD").rglob("*.png"):
        cut(picture)
    with pytest.raises(OODError, match=r"none of the 10 pictures can be read; the first: .*elk/0\.png: broken"):
        carry_out("data.unreadable=skip")


def test_scorers_fitted_to_augmented_images_differ(carry_out):
    plain = carry_out("scorers=[mahalanobis]")[1].rows[0]
    views = "training.0={use: classification, epochs: 2, batch_size: 8, crop_scale: 0.3}"
    one, two = (
        carry_out("scorers=[mahalanobis]", views, f"data.fit_images={of}")[1].rows[0] for of in ("plain", "augmented")
    )
    assert one.auroc != two.auroc or one.threshold != two.threshold
    assert plain.id_images == two.id_images

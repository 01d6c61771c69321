"""The section `data`: settings, several sources for one set, roles that are kept apart, and notes for the report."""

import os

import pytest
from PIL import Image

from ood_core.errors import OODErrors

from ..conftest import other_notes


def write_folder(root, classes=("cat", "dog"), count=3, level=0):
    """Make `root/CLASS/N.png`, each picture of another grey, and return the root."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), level + 10 * label + number).save(root / name / f"{number}.png")
    return root


def outside(plan):
    return {row.ood_set: row.measure.ood_scores.images.opened for row in plan.rows}


# ----------------------------------------------------------------------------------------------------- settings


def test_relative_paths_lie_beneath_the_root(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "sets" / "pets")
    near = "data.near=[{use: folder, path: pets, name: pets}]"
    assert len(outside(make_plan(tiny, f"data.root={tmp_path}/sets", near))["pets"]) == 6


def test_absolute_paths_do_not(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "sets" / "pets")
    near = f"data.near=[{{use: folder, path: {tmp_path}/sets/pets, name: pets}}]"
    assert "pets" in outside(make_plan(tiny, "data.root=/nowhere", near))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.unreadable=ignore", "'unreadable' must be 'stop' or 'skip'"),
        ("data.overlap=no", "'overlap' must be 'count' or 'remove'"),
        ("data.missing_files=skip", "'missing_files' must be 'stop' or 'leave-out'"),
        ("data.fit_images=train", "'fit_images' must be 'plain' or 'augmented'"),
        ("data.evaluation={crop_fraction: 0}", "option 'crop_fraction' of 'evaluation'"),
        ("data.evaluation={crop_frac: 0.5}", "no key of 'evaluation': 'crop_frac'. Did you mean 'crop_fraction'?"),
        ("data.near.0.draw=-1", "'draw' must be greater than or equal to 0"),
        ("data.near.0.split=val", "'split' must be 'train' or 'test'"),
        ("data.near.0.expected={val: 3}", "'expected'"),
        ("data.near.0.superclasses=cifar10", "no superclasses 'cifar10'. Did you mean 'cifar100'?"),
        ("benchmark={licens: MIT}", "no key of 'benchmark': 'licens'. Did you mean 'licence'?"),
    ],
)
def test_a_wrong_setting_is_one_line(make_plan, tiny, override, message):
    with pytest.raises(OODErrors, match=message):
        make_plan(tiny, override)


def keys(plan, kind):
    return [stage.key for stage in plan.stages if stage.kind == kind]


def test_the_evaluation_view_decides_outputs_and_not_weights(make_plan, tiny):
    before, after = make_plan(tiny), make_plan(tiny, "data.evaluation={crop_fraction: 0.8}")
    assert keys(before, "train") == keys(after, "train")
    assert not set(keys(before, "extract")) & set(keys(after, "extract"))


def test_fitting_to_augmented_images_changes_those_alone(make_plan, tiny):
    before, after = make_plan(tiny), make_plan(tiny, "data.fit_images=augmented")
    changed = [s for s in after.stages if s.kind == "extract" and s.key not in keys(before, "extract")]
    assert [str(stage) for stage in changed] == ["extract digits train (classification)"]
    assert changed[0].augmented_by is not None


def test_without_training_there_is_no_augmentation_to_fit_to(make_plan, tiny):
    with pytest.raises(OODErrors, match="'fit_images: augmented' needs a training stage"):
        make_plan(tiny, "data.fit_images=augmented", "training=[]", "scorers=[mahalanobis]")


# ------------------------------------------------------------------------------------------- sources that may lack


def test_another_source_stands_in_where_the_first_is_missing(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "pets")
    near = f"{{use: folder, path: {tmp_path}/nothing, name: pets, otherwise: {{use: folder, path: {tmp_path}/pets}}}}"
    plan = make_plan(tiny, f"data.near=[{near}]")
    plan.check()
    assert len(outside(plan)["pets"]) == 6


def test_the_first_source_is_used_where_it_is_there(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "pets")
    near = f"{{use: folder, path: {tmp_path}/pets, name: pets, otherwise: {{use: noise, count: 7}}}}"
    assert len(outside(make_plan(tiny, f"data.near=[{near}]"))["pets"]) == 6


def test_where_none_is_there_both_are_told(make_plan, tiny, tmp_path):
    near = f"{{use: folder, path: {tmp_path}/one, otherwise: {{use: folder, path: {tmp_path}/two}}}}"
    with pytest.raises(OODErrors, match=r"one: no such folder; otherwise: .*two: no such folder"):
        make_plan(tiny, f"data.near=[{near}]")


def test_missing_ood_sets_are_left_out_and_noted_if_asked(make_plan, tiny, tmp_path):
    gone = f"data.near.0={{use: folder, path: {tmp_path}/no, name: gone}}"
    plan = make_plan(tiny, "data.missing_files=leave-out", gone)
    plan.check()
    assert set(outside(plan)) == {"noise(size=8, count=30)"}
    assert other_notes(plan) == (f"left out: gone: {tmp_path}/no: no such folder",)


def test_a_class_that_is_not_there_is_a_mistake_all_the_same(make_plan, tiny):
    with pytest.raises(OODErrors, match="no class '11'"):
        make_plan(tiny, "data.missing_files=leave-out", "data.near.0.classes=[11]")


def test_without_any_ood_set_left_there_is_nothing_to_measure(make_plan, tiny, tmp_path):
    gone = f"data.near=[{{use: folder, path: {tmp_path}/no}}]"
    with pytest.raises(OODErrors, match="all OOD sets were left out"):
        make_plan(tiny, "data.missing_files=leave-out", gone, "data.far=[]")


@pytest.mark.parametrize("without", ["near: []", "far: []", ""])
def test_a_recipe_with_id_images_alone_says_how_to_go_on(make_plan, tmp_path, tiny_text, without):
    data = f"data: {{image_size: 8, id: {{use: digits}}{', ' * bool(without)}{without}}}\n"
    rest = tiny_text[tiny_text.index("\nbackbone:") :]
    (tmp_path / "alone.yaml").write_text(data + rest)
    with pytest.raises(OODErrors) as caught:
        make_plan(tmp_path / "alone.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.endswith(
        "'far: [{use: noise}]' measures against noise, and Detector.fit (docs/detector.md) needs ID images alone"
    )
    make_plan(tmp_path / "alone.yaml", "data.far=[{use: noise}]").check()


def test_other_numbers_of_images_than_a_benchmark_has_are_noted(make_plan, tiny):
    plan = make_plan(tiny, "data.near.0.expected={test: 50}", "data.id.expected={train: 1, test: 161}")
    assert other_notes(plan) == (
        "digits: 120 images in the train split, the benchmark has 1; numbers do not compare",
        "digits: 120 images in the test split, the benchmark has 161; numbers do not compare",
        "unseen: 40 images in the test split, the benchmark has 50; numbers do not compare",
    )


# -------------------------------------------------------------------------------------------------------- roles


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.known=[{use: digits, name: peek, classes: [8], split: test, limit: 3}]"],
            "known OOD set 'peek' shares 3 images with OOD set 'unseen'; what is fitted to must not measure",
        ),
        (
            ["data.auxiliary={use: digits, name: more, classes: [9], split: test}"],
            "auxiliary set 'more' shares 20 images with OOD set 'unseen'",
        ),
        (
            [
                "data.near.0={use: digits, name: seen, split: train, classes: [8]}",
                "data.known=[{use: digits, name: few, classes: [8], limit: 2}]",
            ],
            "known OOD set 'few' shares 2 images with OOD set 'seen'",
        ),
        (
            ["data.shifted=[{use: digits, name: again, classes: [0], split: train}]"],
            "ID training set 'digits' shares",
        ),
        (
            ["data.shifted=[{use: digits, name: again, classes: [0]}]"],
            "shifted ID set 'again' shares 40 images with the ID test set",
        ),
        (
            ["data.auxiliary={use: digits, name: again, classes: [0, 1]}"],
            "auxiliary set 'again' shares .* images with the ID training set",
        ),
        (
            ["training.0.train_on={use: digits, name: all of it, split: test}"],
            "'all of it' shares .* images with 'digits'; what is trained on must neither measure nor set the threshold",
        ),
        (
            ["training.0.train_on={use: digits, name: all of it, limit: 40}"],
            "'all of it' shares 12 images with 'digits'",
        ),
    ],
)
def test_what_anything_is_fitted_to_may_not_measure(make_plan, tiny, overrides, message):
    with pytest.raises(OODErrors, match=message):
        make_plan(tiny, *overrides)


def write_list(path, *names):
    path.write_text("".join(f"{name} {label}\n" for label, name in enumerate(names)))
    return path


def test_a_file_in_two_lists_has_two_roles_and_is_refused(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "all", ("x",), count=6)
    names = [f"all/x/{number}.png" for number in range(6)]
    train, test = write_list(tmp_path / "a.txt", *names[:4]), write_list(tmp_path / "b.txt", *names[2:])
    lists = f"data.id={{use: image-list, train: {train}, test: {test}, name: leak}}"
    with pytest.raises(OODErrors, match="ID training set 'leak' shares 2 images with ID test set 'leak'"):
        make_plan(tiny, lists, "data.holdout=0")


def test_a_picture_that_a_list_has_twice_is_named(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "all", ("x",))
    listed = write_list(tmp_path / "a.txt", "all/x/0.png", "all/x/1.png", "all/x/0.png")
    with pytest.raises(OODErrors, match=r"all/x/0\.png: the picture is there twice"):
        make_plan(tiny, f"data.near=[{{use: image-list, test: {listed}}}]")


def test_a_class_in_two_superclasses_is_refused(make_plan, tiny):
    with pytest.raises(OODErrors, match="'superclasses' has the class '1' twice"):
        make_plan(tiny, "data.id.superclasses={a: [0, 1], b: [1, 2]}", "data.id.classes=[a, b]")


def test_a_class_without_images_is_noted(make_plan, tiny, tmp_path):
    for split in ("train", "test"):
        write_folder(tmp_path / "pets" / split, ("cat", "dog"), count=12, level=30 if split == "test" else 0)
    (tmp_path / "pets" / "train" / "zebra").mkdir()
    plan = make_plan(tiny, f"data.id={{use: folder, path: {tmp_path}/pets}}")
    assert other_notes(plan) == ("pets train: no image of the class 'zebra'", "pets: no image of the class 'zebra'")


def test_many_classes_without_images_are_one_note(make_plan, tiny, tmp_path):
    for split, level in (("test", 30), ("train", 0)):
        write_folder(tmp_path / "pets" / split, ("cat", "dog"), count=12, level=level)
        for number in range(7):
            (tmp_path / "pets" / split / f"zebra{number}").mkdir()
    plan = make_plan(tiny, f"data.id={{use: folder, path: {tmp_path}/pets}}")
    listed = "no image of 7 classes: 'zebra0', 'zebra1', 'zebra2', 'zebra3', 'zebra4' and 2 more"
    assert other_notes(plan) == (f"pets train: {listed}", f"pets: {listed}")


def test_a_scorer_that_will_take_much_memory_is_noted(make_plan, tiny, monkeypatch):
    scorers = "scorers=[mahalanobis, mahalanobis-class, {use: react, score: mahalanobis-class, name: clipped}]"
    assert other_notes(make_plan(tiny, scorers)) == ()
    monkeypatch.setattr("ood_core.plan.experiments.GIB", 8 * 3 * 768 * 768 - 1)
    size = "takes at least 1.0 GiB of memory for 3 classes, if embeddings have 768 dimensions, and with the square of"
    assert [note.split(" these")[0] for note in other_notes(make_plan(tiny, scorers))] == [
        f"scorer 'mahalanobis-class' {size}",
        f"scorer 'clipped' {size}",
    ]


def test_a_set_without_a_name_is_called_as_what_lies_there(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "weeds")
    write_folder(tmp_path / "stones")
    near = f"data.near=[{{use: folder, path: {tmp_path}/weeds}}, {{use: folder, path: {tmp_path}/stones}}]"
    assert {"weeds", "stones"} <= set(outside(make_plan(tiny, near)))


def test_that_another_source_stands_in_is_noted(make_plan, tiny, tmp_path):
    write_folder(tmp_path / "pets")
    near = f"{{use: folder, path: {tmp_path}/no, name: animals, otherwise: {{use: folder, path: {tmp_path}/pets}}}}"
    assert other_notes(make_plan(tiny, f"data.near=[{near}]")) == ("animals: 'pets' stands in for what is missing",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.near.0.clases=[8]", r"no option of dataset 'digits': 'clases'\. Did you mean 'classes'"),
        ("training.0.train_on=all-clases", r"no dataset 'all-clases'\. Did you mean 'all-classes'"),
        ("training.0.learning_rate=1e39", "'learning_rate' of pretext 'classification' must be less than or equal to"),
    ],
)
def test_the_nearest_right_thing_is_told(make_plan, tiny, override, message):
    with pytest.raises(OODErrors, match=message):
        make_plan(tiny, override)


def test_other_classes_in_training_than_in_test_are_refused(make_plan, tiny, plugins, monkeypatch):
    source = plugins.get("dataset", "digits")
    opened = source.open

    def renamed(self, split):
        images = opened(self, split)
        images.classes = images.classes if split == "test" else ("zero", *images.classes[1:])
        return images

    monkeypatch.setattr(source, "open", renamed)
    with pytest.raises(OODErrors, match="'digits' has other classes for training than for test: 'zero' and '0'"):
        make_plan(tiny, "data.id={use: digits}", "data.near=[]")


def test_a_stage_on_other_images_leaves_no_classifier_of_the_id_classes(make_plan, tiny):
    with pytest.raises(OODErrors, match="needs logits, but pretext 'classification' was not trained on the ID classes"):
        make_plan(tiny, "training.0.train_on={use: digits, name: rest, classes: [3, 4]}")


def test_a_pretext_that_needs_an_auxiliary_set_says_so(make_plan, tiny, monkeypatch, plugins):
    task = plugins.get("pretext", "classification")
    monkeypatch.setattr(task, "auxiliary_images", lambda self: 4)
    with pytest.raises(OODErrors, match="pretext 'classification' needs an auxiliary set; name it under 'auxiliary'"):
        make_plan(tiny)
    plan = make_plan(tiny, "data.auxiliary={use: noise, name: aux, size: 8, count: 9}")
    (training,) = [stage for stage in plan.stages if stage.kind == "train"]
    assert len(training.auxiliary.opened) == 9
    other = make_plan(tiny, "data.auxiliary={use: noise, name: aux, size: 8, count: 10}")
    assert keys(plan, "train") != keys(other, "train")


def test_an_auxiliary_set_that_no_task_needs_decides_nothing(make_plan, tiny):
    plan = make_plan(tiny, "data.auxiliary={use: noise, name: aux, size: 8, count: 9}")
    assert keys(plan, "train") == keys(make_plan(tiny), "train")


def test_what_is_passed_over_in_a_folder_is_a_note_of_the_plan(tiny, make_plan, tmp_path):
    write_folder(tmp_path / "pets")
    (tmp_path / "pets" / ".git").mkdir()
    (tmp_path / "pets" / "cat" / "1.heic").touch()
    plan = make_plan(tiny, f"data.near=[{{use: folder, path: {tmp_path}/pets}}]")
    line = f"{tmp_path}/pets: passed over: 1 hidden folder, 1 file of other formats (1 .heic)"
    assert plan.notes.count(line) == 1


def test_pictures_with_names_that_are_no_text_are_read(tiny, make_plan, tmp_path):
    write_folder(tmp_path / "pets")
    odd = os.fsdecode(b"\xff\xfe.png")
    (tmp_path / "pets" / "cat" / "0.png").rename(tmp_path / "pets" / "cat" / odd)
    plan = make_plan(tiny, f"data.near=[{{use: folder, path: {tmp_path}/pets}}]")
    assert other_notes(plan) == ()


def test_what_the_central_square_leaves_out_is_noted_with_the_option_that_keeps_it(make_plan, tiny, tmp_path):
    for split, level in (("train", 0), ("test", 30)):
        for file in write_folder(tmp_path / "wide" / split, count=12, level=level).rglob("*.png"):
            Image.open(file).resize((16, 8)).save(file)
    wide = f"data.id={{use: folder, path: {tmp_path}/wide}}"
    assert other_notes(make_plan(tiny, wide)) == (
        "wide train: the central square leaves out 50% of the area of the images, which are not square; "
        "'evaluation: {squash: true}' in 'data' resizes them whole",
    )
    assert other_notes(make_plan(tiny, wide, "data.evaluation={squash: true}")) == ()


def test_the_old_names_of_keys_give_the_same_plan(make_plan, tiny):
    names = ("data.missing_files=leave-out", "data.unreadable=skip", "training.0.train_on=all-classes")
    old = ("data.absent=leave-out", "data.broken=skip", "training.0.on=all-classes")
    new, before = (make_plan(tiny, *keys, "scorers=[mahalanobis]") for keys in (names, old))
    assert before.resolved == new.resolved
    assert [stage.key for stage in before.stages] == [stage.key for stage in new.stages]

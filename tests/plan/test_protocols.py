"""Protocols: which images are ID and which OOD in each case, and what the cases share."""

import pytest

from ood_core.errors import OODError, OODErrors
from ood_core.plan import make
from ood_core.plan.protocols import PROTOCOLS
from ood_core.plan.superclasses import load, names

from ..conftest import other_notes

ONE_CLASS = """\
seed: 0
protocol: {use: one-class}
data:
  image_size: 8
  id: {use: digits, limit: 10}
backbone: {use: timm, model: vit_tiny_patch16_224, options: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}}
training:
  - {use: simmim, train_on: all-classes, epochs: 1, batch_size: 16, mask_unit: 4}
  - {use: one-class, epochs: 1, batch_size: 8}
scorers: [mahalanobis]
"""


@pytest.fixture
def one_class(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(ONE_CLASS)
    return path


def stages(plan, kind):
    return [stage for stage in plan.stages if stage.kind == kind]


def measured(row):
    """Return the names of the ID classes that are measured, and of the OOD classes."""
    return row.measure.id_scores.images.opened.classes, row.measure.ood_scores.images.opened.classes


# ---------------------------------------------------------------------------------------------------- one-class


def test_each_class_takes_its_turn_against_all_others(make_plan, one_class):
    plan = make_plan(one_class)
    assert [row.case for row in plan.rows] == list("0123456789")
    for row in plan.rows:
        inside, outside = measured(row)
        assert inside == (row.case,)
        assert set(inside) | set(outside) == set("0123456789")
        assert row.group == "rest"


def test_one_training_for_each_class_follows_the_one_they_share(make_plan, one_class):
    trainings = stages(make_plan(one_class), "train")
    assert [str(stage) for stage in trainings].count("train simmim") == 1
    assert [str(stage) for stage in trainings].count("train simmim > one-class") == 10
    assert len({stage.start.key for stage in trainings if stage.start is not None}) == 1


def test_scorers_are_fitted_to_the_one_class_alone(make_plan, one_class):
    for row in make_plan(one_class).rows:
        assert row.measure.id_scores.fit.train.base.images.opened.classes == (row.case,)


def test_a_stage_that_has_seen_the_ood_classes_is_noted(make_plan, one_class):
    note = "'simmim' on 'digits train' has seen classes that measure as OOD: 0, 1, 2, 3, 4 and 5 more"
    assert other_notes(make_plan(one_class)) == (note,)


def test_without_a_shared_stage_nothing_is_noted(make_plan, one_class):
    assert not other_notes(make_plan(one_class, "training=[{use: one-class, epochs: 1}]"))


def test_some_classes_may_take_turns_and_the_rest_stays_ood(make_plan, one_class):
    plan = make_plan(one_class, "protocol.classes=[3, 7]")
    assert [row.case for row in plan.rows] == ["3", "7"]
    assert len(measured(plan.rows[0])[1]) == 9


def test_held_out_images_are_not_in_the_stage_that_all_cases_share(make_plan, one_class):
    plan = make_plan(one_class, "data.holdout=0.3")
    shared = next(stage for stage in stages(plan, "train") if str(stage) == "train simmim").images.opened
    for row in plan.rows:
        assert row.measure.held_scores.images.opened.shared_with(shared) == 0


def test_other_sets_of_the_recipe_are_measured_as_well(make_plan, one_class):
    plan = make_plan(one_class, "data.far=[{use: noise, size: 8, count: 5}]", "protocol.classes=[0, 1]")
    assert [(row.case, row.group) for row in plan.rows] == [("0", "rest"), ("0", "far"), ("1", "rest"), ("1", "far")]


def test_an_unknown_class_of_a_protocol_names_the_nearest(make_plan, one_class):
    with pytest.raises(OODErrors, match=r"one.yaml: line 2: no class '11' in the ID set. Did you mean '1'"):
        make_plan(one_class, "protocol.classes=[11]")


def test_superclasses_of_another_data_set_are_refused(make_plan, one_class):
    with pytest.raises(OODErrors, match="line 2: no class 'beaver' in the ID set"):
        make_plan(one_class, "protocol.superclasses=cifar100")


# -------------------------------------------------------------------------------------------------------- pairs


def test_pairs_with_the_same_id_class_share_its_training(make_plan, one_class):
    plan = make_plan(one_class, "protocol={use: pairs, pairs: [[1, 7], [1, 4], [9, 4]]}")
    assert [row.case for row in plan.rows] == ["1 / 7", "1 / 4", "9 / 4"]
    assert [measured(row) for row in plan.rows] == [(("1",), ("7",)), (("1",), ("4",)), (("9",), ("4",))]
    assert [str(stage) for stage in stages(plan, "train")].count("train simmim > one-class") == 2


def test_a_pair_of_one_class_is_refused(make_plan, one_class):
    with pytest.raises(OODErrors, match=r"the pair \[1, 1\] has the same class twice"):
        make_plan(one_class, "protocol={use: pairs, pairs: [[1, 1]]}")


# ----------------------------------------------------------------------------------------------------- open set


def test_the_classes_that_a_split_does_not_know_are_ood(make_plan, one_class):
    plan = make_plan(one_class, "protocol={use: open-set, splits: [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]}")
    assert [row.case for row in plan.rows] == ["split 1", "split 2"]
    assert measured(plan.rows[0]) == (tuple("012345"), tuple("6789"))


def test_random_splits_are_the_same_each_time_and_differ(make_plan, one_class):
    override = "protocol={use: open-set, known: 6, draws: 3}"
    first, second = make_plan(one_class, override), make_plan(one_class, override)
    assert [measured(row) for row in first.rows] == [measured(row) for row in second.rows]
    assert len({measured(row)[0] for row in first.rows}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "protocol 'open-set': give either 'splits' or 'known'"),
        (", known: 10", "'known' is 10, but the ID set has 10 classes; one must be left"),
        (", splits: [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]", "split 1 knows all 10 classes; none is left to be OOD"),
    ],
)
def test_an_open_set_without_unknown_classes_is_refused(make_plan, one_class, options, message):
    with pytest.raises(OODErrors, match=message):
        make_plan(one_class, f"protocol={{use: open-set{options}}}")


@pytest.mark.parametrize("options", ["open-set, known: 2, draws: 1000000000000", "few-shot, shots: [1], draws: 5001"])
def test_cases_are_counted_before_any_is_opened(make_plan, tiny, options):
    with pytest.raises(OODErrors, match=r"^--set protocol=\{use: .*: the protocol makes more than 5000 cases$"):
        make_plan(tiny, f"protocol={{use: {options}}}")


def test_seeds_times_cases_are_counted(make_plan, tiny, monkeypatch):
    monkeypatch.setattr(make, "MOST_EXPERIMENTS", 3)
    with pytest.raises(
        OODError, match=r"^tiny.yaml: line 1: more than 3 experiments, which are variants times seeds t"
    ):
        make_plan(tiny, "protocol={use: few-shot, shots: [1], draws: 2, split: test}", "seeds=[0, 1]")


# ----------------------------------------------------------------------------------------------------- few-shot

FEW_SHOT = "protocol={use: few-shot, shots: [1, 3], draws: 2, split: test}"
KNOWING = "scorers=[{use: ssd-k}]"


def test_known_images_are_drawn_anew_and_never_measure(make_plan, tiny):
    plan = make_plan(tiny, FEW_SHOT, KNOWING)
    assert [(row.case, row.draw) for row in plan.rows[::2]] == [(f"{k} a class", d) for k in (1, 3) for d in (0, 1)]
    drawn = []
    for row in plan.rows:
        known = [extraction.base.images for extraction in row.measure.id_scores.fit.known_ood]
        assert [images.name for images in known] == ["unseen known", "noise(size=8, count=30) known"]
        assert [len(images.opened) for images in known] == [2 * int(row.case[0]), int(row.case[0])]
        for images in known:
            assert images.opened.shared_with(row.measure.ood_scores.images.opened) == 0
        drawn.append(tuple(known[0].opened.rows))
    assert len(set(drawn)) == 4


def test_known_images_out_of_the_training_split_leave_the_test_set_whole(make_plan, tiny):
    whole = {row.ood_set: row.measure.ood_scores.images.opened for row in make_plan(tiny).rows}
    for row in make_plan(tiny, "protocol={use: few-shot, shots: [2]}", KNOWING).rows:
        assert len(row.measure.ood_scores.images.opened) == len(whole[row.ood_set])


def test_the_network_is_trained_once_for_all_draws(make_plan, tiny):
    assert len(stages(make_plan(tiny, FEW_SHOT, KNOWING), "train")) == 1


def test_few_shots_need_ood_sets(make_plan, one_class):
    with pytest.raises(OODErrors, match="'data' needs 'near' or 'far'"):
        make_plan(one_class, "protocol={use: few-shot, shots: [1]}")


# ------------------------------------------------------------------------------------------------ full spectrum


def test_shifted_images_count_as_id_in_rows_of_their_own(make_plan, tiny):
    shifted = "data.shifted=[{use: digits, name: seen again, classes: [3, 4, 5]}]"
    plan = make_plan(tiny, shifted, "scorers=[energy]")
    assert [(row.id_set, row.ood_set) for row in plan.rows] == [
        ("digits", "unseen"),
        ("digits", "noise(size=8, count=30)"),
        ("digits + seen again", "unseen"),
        ("digits + seen again", "noise(size=8, count=30)"),
    ]
    assert [stage.images.name for stage in plan.rows[2].measure.shifted_scores] == ["seen again"]


# ----------------------------------------------------------------------------------------------- names, options


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("{use: one-class, classes: [3, 3]}", "'classes' has 3 twice"),
        ("{use: pairs, pairs: [[1, 7], [1, 7]]}", r"'pairs' has \(1, 7\) twice"),
        ("{use: pairs, pairs: [[1, 7, 3]]}", r"each of 'pairs' is \[ID class, OOD class\], not \[1, 7, 3\]"),
        ("{use: open-set, splits: [[0, 1], [1, 0]]}", r"'splits' has \['0', '1'\] twice"),
        ("{use: open-set, splits: [[0, 1, 1]]}", "'splits' has 1 twice"),
        ("{use: few-shot, shots: [1, 1]}", "'shots' has 1 twice"),
    ],
)
def test_the_same_case_twice_is_refused_in_one_line(make_plan, one_class, protocol, message):
    with pytest.raises(OODErrors, match=message) as caught:
        make_plan(one_class, f"protocol={protocol}")
    assert len(str(caught.value).splitlines()) == 1


def test_more_shots_than_images_are_refused(make_plan, tiny):
    with pytest.raises(OODErrors, match=r"'unseen known' has .* images of the class '[89]', not 1000"):
        make_plan(tiny, "protocol={use: few-shot, shots: [5, 1000]}", KNOWING, "data.far=[]")


def test_multi_class_is_what_a_recipe_without_a_protocol_means(make_plan, tiny):
    assert make_plan(tiny, "protocol=multi-class").rows == make_plan(tiny).rows


def test_an_unknown_protocol_names_the_nearest(make_plan, tiny):
    with pytest.raises(OODErrors, match=r"no protocol 'one-clas'\. Did you mean 'one-class'\?"):
        make_plan(tiny, "protocol=one-clas")


def test_an_unknown_option_of_a_protocol_names_the_nearest(make_plan, one_class):
    with pytest.raises(OODErrors, match=r"no option of protocol 'one-class': 'class'\. Did you mean 'classes'\?"):
        make_plan(one_class, "protocol.class=[1]")


def test_every_protocol_is_known_by_its_name():
    assert all(cls.name == name and cls.__doc__ for name, cls in PROTOCOLS.items())


# ------------------------------------------------------------------------------------------------- superclasses


def test_the_superclasses_of_cifar100_are_twenty_times_five():
    groups = load("cifar100")
    assert len(groups) == 20
    assert all(len(classes) == 5 for classes in groups.values())
    assert len({name for classes in groups.values() for name in classes}) == 100
    assert groups["aquatic_mammals"] == ("beaver", "dolphin", "otter", "seal", "whale")


def test_the_lists_of_csi_are_the_official_ones_with_fifteen_classes_taken_for_their_neighbours():
    official, wrong = load("cifar100"), load("csi")
    fine = sorted(name for classes in official.values() for name in classes)
    moved = {25 + n: 26 + n for n in range(14)} | {39: 25}
    for name, classes in official.items():
        assert set(wrong[name]) == {fine[moved.get(fine.index(one), fine.index(one))] for one in classes}
    assert sum(official[name] != wrong[name] for name in official) == 13


def test_every_grouping_can_be_read():
    assert names() == ["cifar100", "csi"]
    assert all(load(name) for name in names())

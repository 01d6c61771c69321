"""The losses against loops over the papers' formulas, whole trainings beside outliers, and the few-shot head."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from ood_core.errors import OODError, OODErrors
from ood_core.interfaces import Batch, Network, Outputs, TrainingData
from ood_core.run.schedule import run
from ood_core.store.files import load_tensors
from ood_core.store.store import Store
from ood_outliers.pretext import EnergyExposure, OutlierExposure
from ood_outliers.scorer import FewShotHead

DATA = TrainingData(
    classes=3,
    all_classes=3,
    image_size=4,
    sample=lambda count: torch.rand(count, 3, 4, 4),
    tokenizer_weights=lambda _: {},
)


class Flat(Network):
    """A linear layer over all pixels that counts its passes."""

    num_features = 48

    def __init__(self, outputs=3):
        super().__init__()
        self.head = nn.Linear(48, outputs)
        self.passes = 0

    def forward_features(self, images):
        self.passes += 1
        return images.flatten(1)

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.head(features)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes):
        self.head = nn.Linear(48, num_classes)


def batch(images=5, outliers=7):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        (torch.rand(images, 3, 4, 4, generator=generator),),
        torch.arange(images) % 3,
        torch.rand(outliers, 3, 4, 4, generator=generator),
    )


def asked(pretext):
    """Return the task's answer, and its logits of ID images and outliers as lists."""
    torch.manual_seed(0)
    task, shown = pretext.build(Flat(), DATA), batch()
    found = {name: value.item() for name, value in task(shown).items()}
    assert task.network.passes == 1  # what a batch normalisation sees depends on it
    inside, outside = (task.network(images).tolist() for images in (*shown.views, shown.outliers))
    return found, inside, outside


def log_sum(logits):
    return math.log(sum(math.exp(logit) for logit in logits))


def slow_cross_entropy(logits, smoothing=0.0):
    total = 0.0
    for row, values in enumerate(logits):
        for output, value in enumerate(values):
            share = smoothing / 3 + (1 - smoothing) * (output == row % 3)
            total += share * (log_sum(values) - value)
    return total / len(logits)


def test_outliers_cost_their_cross_entropy_to_uniform():
    found, inside, outside = asked(OutlierExposure(epochs=1, weight=0.7))
    penalty = 0.0
    for logits in outside:
        probabilities = [math.exp(logit - log_sum(logits)) for logit in logits]
        penalty += sum(-math.log(probability) / 3 for probability in probabilities) / len(outside)
    assert found["penalty"] == pytest.approx(penalty, rel=1e-5)
    assert found["loss"] == pytest.approx(slow_cross_entropy(inside) + 0.7 * penalty, rel=1e-5)


def test_outliers_of_which_nothing_is_said_cost_the_log_of_the_classes():
    task = OutlierExposure(epochs=1).build(Flat(), DATA)
    nn.init.zeros_(task.network.head.weight)
    nn.init.zeros_(task.network.head.bias)
    assert task(batch())["penalty"].item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("margins", [(-1.5, -0.5), (-1.2, -1.1), (-50.0, 50.0)])
def test_energies_cost_what_they_are_beyond_their_margins_squared(margins):
    inner, outer = margins
    found, inside, outside = asked(EnergyExposure(epochs=1, margin_id=inner, margin_ood=outer))
    too_high = [max(0.0, -log_sum(logits) - inner) ** 2 for logits in inside]
    too_low = [max(0.0, outer + log_sum(logits)) ** 2 for logits in outside]
    penalty = sum(too_high) / len(inside) + sum(too_low) / len(outside)
    assert penalty > 0
    assert found["penalty"] == pytest.approx(penalty, rel=1e-5)
    assert found["loss"] == pytest.approx(slow_cross_entropy(inside) + 0.1 * penalty, rel=1e-5)


def test_labels_are_smoothed_and_accuracy_is_that_of_id_images():
    found, inside, _ = asked(OutlierExposure(epochs=1, weight=0, label_smoothing=0.3))
    assert found["loss"] == pytest.approx(slow_cross_entropy(inside, 0.3), rel=1e-5)
    right = [max(range(3), key=logits.__getitem__) == row % 3 for row, logits in enumerate(inside)]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))


def test_a_classifier_of_these_classes_is_trained_on_and_another_replaced():
    fitting, other = Flat(3), Flat(4)
    heads = fitting.head, other.head
    for network in (fitting, other):
        OutlierExposure(epochs=1).build(network, DATA)
    assert fitting.head is heads[0]
    assert other.head is not heads[1] and other.head.out_features == 3


def test_margins_that_are_the_wrong_way_round_are_refused():
    EnergyExposure(epochs=1).check()
    message = "pretext 'energy-exposure': 'margin_id' -5 has to be below 'margin_ood' -23: ID images are those with"
    with pytest.raises(OODError, match=message):
        EnergyExposure(epochs=1, margin_id=-5, margin_ood=-23).check()


def test_views_are_cut_out_of_black_and_mirrored_by_default():
    image = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 8, 8).repeat(3, 1, 1)
    torch.manual_seed(0)
    views = OutlierExposure(epochs=1).views(8, None)
    shown = [views(image)[0] for _ in range(50)]
    assert all(view.shape == (3, 8, 8) for view in shown)
    assert len({tuple(view.flatten().tolist()) for view in shown}) > 20
    assert any((view == 0).any() for view in shown)
    (plain,) = OutlierExposure(epochs=1, crop_padding=0, flip=False).views(8, None)(image)
    assert torch.equal(plain, image)


# ------------------------------------------------------------------------------------------------ whole trainings

AUXILIARY = "data.auxiliary={use: digits, name: more, classes: [4, 5, 6], limit: 40}"
OPTIONS = "epochs: 6, batch_size: 16, auxiliary_batch_size: 24, crop_padding: 0, flip: false"


def carried_out(make_plan, tiny, store, *overrides):
    """Return a plan with an auxiliary set, and the facts of its last training."""
    plan = make_plan(tiny, "scorers=[softmax]", AUXILIARY, *overrides)
    results = run(plan, Store(store))
    facts = [record.facts for record in results.records if record.stage.kind == "train"]
    return plan, facts[-1]


def test_training_beside_outliers_makes_their_answer_more_even(make_plan, tiny, tmp_path):
    task = f"training.0={{use: outlier-exposure, {OPTIONS}, weight: 0.5, learning_rate: 0.01}}"
    _, facts = carried_out(make_plan, tiny, tmp_path / "store", task)
    free = f"training.0={{use: outlier-exposure, {OPTIONS}, weight: 0, learning_rate: 0.01}}"
    _, without = carried_out(make_plan, tiny, tmp_path / "store", free)
    assert math.log(3) <= facts["epochs"][-1]["penalty"] < without["epochs"][-1]["penalty"] - 0.1
    assert facts["epochs"][-1]["accuracy"] > 0.6


def test_energy_margins_go_on_from_a_trained_classifier(make_plan, tiny, tmp_path):
    first = "{use: classification, epochs: 2, batch_size: 16, crop_scale: 1, flip: false}"
    second = f"{{use: energy-exposure, {OPTIONS}, margin_id: -3, margin_ood: -1, learning_rate: 0.003}}"
    plan, facts = carried_out(make_plan, tiny, tmp_path / "store", f"training=[{first}, {second}]")
    penalties = [epoch["penalty"] for epoch in facts["epochs"]]
    assert penalties[-1] < penalties[0]
    start, end = (
        load_tensors(Store(tmp_path / "store").folder(stage) / "weights.safetensors")
        for stage in plan.stages
        if stage.kind == "train"
    )
    gap = (start["model.head.weight"] - end["model.head.weight"]).norm() / start["model.head.weight"].norm()
    assert 0 < gap < 0.5  # a fresh one would be as far off as it is long


def test_without_an_auxiliary_set_the_recipe_is_refused(make_plan, tiny):
    with pytest.raises(OODErrors, match="pretext 'outlier-exposure' needs an auxiliary set"):
        make_plan(tiny, f"training.0={{use: outlier-exposure, {OPTIONS}}}")


def test_outliers_that_cannot_be_cut_evenly_are_refused(make_plan, tiny, tmp_path):
    task = f"training.0={{use: outlier-exposure, {OPTIONS.replace('24', '25')}, accumulation: 2}}"
    message = "a batch of 25 images cannot be cut into 1 processes x 2 parts of equal size; change 'auxiliary_batch_siz"
    with pytest.raises(OODError, match=message):
        carried_out(make_plan, tiny, tmp_path / "store", task)


# ------------------------------------------------------------------------------------------------- few-shot head


def gaussians(rows, first, classes, seed):
    """Return embeddings around some of many class means, with labels from 0."""
    means = 0.9 * torch.randn(40, 12, generator=torch.Generator().manual_seed(0)) + 5
    labels = torch.arange(rows) % classes
    noise = torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))
    return Outputs(means[first + labels] + noise, torch.empty(rows, 0), labels, 4)


def known(shots):
    return replace(gaussians(400, 0, 4, seed=1), known_ood=gaussians(3 * shots, 4, 3, seed=2))


def auroc(score):
    inside, outside = gaussians(300, 0, 4, seed=3), gaussians(300, 4, 3, seed=4)
    return roc_auc_score([0] * 300 + [1] * 300, torch.cat((score(inside), score(outside))))


@pytest.mark.parametrize("scaling", ["standard", "length"])
@pytest.mark.parametrize("ood_weight", [1.0, 0.2])
def test_the_score_is_the_log_odds_of_weighted_logistic_regression(scaling, ood_weight):
    train, test = known(shots=5), gaussians(50, 2, 4, seed=3)
    score = FewShotHead(scaling=scaling, ood_weight=ood_weight, decay=1e-2, iterations=2000).fit(train)
    rows = torch.cat((train.embeddings, train.known_ood.embeddings)).double().numpy()
    asked = test.embeddings.double().numpy()
    if scaling == "standard":
        mean, deviation = rows[:400].mean(0), rows[:400].std(0)
        rows, asked = (rows - mean) / deviation, (asked - mean) / deviation
    else:
        rows, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, asked))
    labels = np.concatenate((train.labels, 4 + train.known_ood.labels))
    weights = np.concatenate((np.full(400, 1 / 400), np.full(15, ood_weight / 15))) / (1 + ood_weight)
    regression = LogisticRegression(C=1 / 1e-2, tol=1e-12, max_iter=5000).fit(rows, labels, sample_weight=weights)
    outside = regression.predict_proba(asked)[:, 4:].sum(1)
    expected = torch.from_numpy(np.log(outside / (1 - outside)))
    torch.testing.assert_close(score(test), expected, rtol=1e-3, atol=1e-3)


def test_one_image_a_class_helps_and_more_help_more():
    one, ten = (auroc(FewShotHead().fit(known(shots))) for shots in (1, 10))
    assert 0.8 < one < ten - 0.01
    assert ten > 0.95


def test_repeated_images_are_as_good_as_one_with_more_weight():
    once = known(shots=2)
    again = replace(once, known_ood=once.known_ood[torch.arange(6).repeat(3)])
    test = gaussians(20, 3, 3, seed=5)
    torch.testing.assert_close(FewShotHead().fit(again)(test), FewShotHead().fit(once)(test), rtol=1e-5, atol=1e-5)


def test_known_classes_have_an_output_each_whatever_their_numbers():
    few = known(shots=2)
    numbered = replace(few, known_ood=replace(few.known_ood, labels=few.known_ood.labels * 3))
    test = gaussians(20, 3, 3, seed=5)
    assert FewShotHead().fit(few).ood_outputs == FewShotHead().fit(numbered).ood_outputs == 3
    assert torch.equal(FewShotHead().fit(numbered)(test), FewShotHead().fit(few)(test))


def test_the_fitted_odds_know_no_ties_far_out():
    score = FewShotHead().fit(known(shots=5))
    far = gaussians(50, 4, 3, seed=4)
    assert len(score(replace(far, embeddings=30 * far.embeddings)).unique()) == 50


@pytest.mark.parametrize("scaling", ["standard", "length"])
def test_embeddings_that_are_not_finite_are_refused(scaling):
    train = known(shots=2)
    train.embeddings[7, 3] = torch.nan
    with pytest.raises(OODError, match="embeddings to fit a classifier to hold NaN or infinite values"):
        FewShotHead(scaling=scaling).fit(train)


def test_several_known_sets_make_a_class_each(make_plan, tiny, tmp_path):
    names = ("{use: digits, name: a, classes: [5, 6], limit: 3}", "{use: digits, name: b, classes: [7], limit: 3}")
    plan = make_plan(tiny, "scorers=[few-shot-head]", f"data.known=[{', '.join(names)}]")
    results = run(plan, Store(tmp_path / "store"))
    (facts,) = (record.facts for record in results.records if record.stage.kind == "fit")
    assert (facts["fitted"]["id_outputs"], facts["fitted"]["ood_outputs"]) == (3, 3)
    assert results.rows[0].auroc > 0.5

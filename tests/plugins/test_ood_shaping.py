"""Every shaping step against the formula of its paper, row by row, and what composition does."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ood_core.errors import OODError
from ood_core.interfaces import Head, Outputs, Scorer
from ood_core.interfaces.shaping import ShapedOutputs
from ood_core.plugins import find
from ood_core.store.artifacts import SCORE, load_score, save_score
from ood_core.testing import check_far_away_data_scores_higher, scorer_checks
from ood_shaping.activations import ASHB, ASHP, ASHS, LTS, Scale
from ood_shaping.quantiles import neuron_quantiles, overall_quantiles
from ood_shaping.scorers import DICE, VRA, ReAct

PLUGINS = find()
WIDTH, CLASSES = 20, 6
STEPS = [ReAct, VRA, DICE, ASHP, ASHB, ASHS, Scale, LTS]


def scorer(name, **options):
    return PLUGINS.get("scorer", name)(**options)


def relu_outputs(rows=200, seed=0):
    """Return outputs whose embeddings are not negative, as after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, WIDTH, generator=generator).exp()  # without ties, so that the largest are certain
    weight = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    head = Head(weight, torch.linspace(-1, 1, CLASSES))
    logits = embeddings @ weight.T + head.bias
    return Outputs(embeddings, logits, logits.argmax(1), CLASSES, head)


TRAIN, TEST = relu_outputs(), relu_outputs(30, seed=1)
F = TEST.embeddings.double().numpy()
KNOWN = TRAIN.embeddings.double().numpy()
W, B = TRAIN.head.weight.double().numpy(), TRAIN.head.bias.double().numpy()


def energy(rows, weight=W):
    return -logsumexp(rows @ weight.T + B, axis=1)


def react():
    return energy(np.minimum(F, np.quantile(KNOWN, 0.9)))


def vra():
    low, high = np.quantile(KNOWN, 0.6, axis=0), np.quantile(KNOWN, 0.95, axis=0)
    return energy(np.where(low > F, 0, np.minimum(F, high)))


def dice():
    contributions = KNOWN.mean(0) * W
    return energy(F, np.where(contributions > np.quantile(contributions, 0.9), W, 0))


def each_row(shape):
    return energy(np.stack([shape(row) for row in F]))


def top(row, percentile):
    """Return the places of the entries that are left, the largest ones."""
    return np.argsort(-row)[: len(row) - round(percentile * len(row))]


def ash_p():
    def shape(row):
        kept = np.zeros_like(row)
        kept[top(row, 0.6)] = row[top(row, 0.6)]
        return kept

    return each_row(shape)


def ash_b():
    def shape(row):
        places, kept = top(row, 0.65), np.zeros_like(row)
        kept[places] = row.sum() / len(places)
        return kept

    return each_row(shape)


def ash_s():
    def shape(row):
        places, kept = top(row, 0.9), np.zeros_like(row)
        kept[places] = row[places] * np.exp(row.sum() / row[places].sum())
        return kept

    return each_row(shape)


def scale():
    return each_row(lambda row: row * np.exp(row.sum() / row[top(row, 0.85)].sum()))


def lts():
    ratios = np.array([row.sum() / row[top(row, 0.95)].sum() for row in F])
    return -logsumexp((F @ W.T + B) * ratios[:, None] ** 2, axis=1)


FORMULAS = {ReAct: react, VRA: vra, DICE: dice, ASHP: ash_p, ASHB: ash_b, ASHS: ash_s, Scale: scale, LTS: lts}


@pytest.mark.parametrize("step", FORMULAS, ids=lambda step: step.name)
def test_a_step_is_that_of_its_paper(step):
    np.testing.assert_allclose(step().fit(TRAIN)(TEST).numpy(), FORMULAS[step](), rtol=1e-9)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_another_score_sees_shaped_outputs_in_fitting_and_scoring(step):
    """Max logit is asked after each step; a step that is asked of nothing else is its energy."""
    plain = step().fit(TRAIN)
    shaped = plain.shape(TEST)
    found = step(score=scorer("softmax")).fit(TRAIN)(TEST)
    torch.testing.assert_close(found, scorer("softmax").fit(shaped)(shaped))
    torch.testing.assert_close(step(score=scorer("energy")).fit(TRAIN)(TEST), plain(TEST))


def test_the_other_scorer_is_fitted_on_shaped_training_outputs():
    score = ReAct(score=scorer("mahalanobis")).fit(TRAIN)
    limit = np.quantile(KNOWN, 0.9)
    clipped = [replace(o, embeddings=o.embeddings.double().clamp(max=limit)) for o in (TRAIN, TEST)]
    expected = scorer("mahalanobis").fit(clipped[0])(clipped[1])
    torch.testing.assert_close(score(TEST), expected, rtol=1e-6, atol=0)


def test_steps_follow_each_other():
    found = DICE(score=ReAct()).fit(TRAIN)(TEST)
    contributions = KNOWN.mean(0) * W
    sparse = np.where(contributions > np.quantile(contributions, 0.9), W, 0)
    expected = energy(np.minimum(F, np.quantile(KNOWN, 0.9)), sparse)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_held_out_outputs_are_shaped_as_well():
    fusion = scorer("z-score-fusion", scorers=(scorer("energy"), scorer("mahalanobis")))
    outputs = replace(TRAIN, held_out=relu_outputs(50, seed=2))
    score = ReAct(score=fusion).fit(outputs)
    shape = ReAct().fit(outputs).shape
    expected = fusion.fit(replace(shape(outputs), held_out=shape(outputs.held_out)))
    torch.testing.assert_close(score(TEST), expected(shape(TEST)), rtol=1e-5, atol=0)


def test_a_composed_score_is_saved_and_restored(tmp_path):
    composed = DICE(score=ReAct(score=scorer("mahalanobis")))
    score = composed.fit(TRAIN)
    save_score(tmp_path, score)
    assert torch.equal(load_score(tmp_path / SCORE, composed)(TEST), score(TEST))


def test_training_outputs_are_shaped_chunk_by_chunk(monkeypatch):
    longest = []
    whole = Outputs.chunks

    def look(self, rows=8192):
        for part in whole(self, min(rows, 64)):
            longest.append(len(part))
            yield part

    monkeypatch.setattr(Outputs, "chunks", look)
    ReAct(score=scorer("mahalanobis")).fit(TRAIN)
    assert max(longest) <= 64


@dataclass(frozen=True, kw_only=True)
class OfLayers(Scorer):
    name = "of-layers"
    needs = frozenset({"embeddings", "layers"})

    def fit(self, train):
        raise AssertionError("never asked")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_scorer_of_what_is_not_shaped_is_refused(step):
    with pytest.raises(ValueError, match=r"^score 'of-layers' reads layers, where only embeddings are shaped$"):
        step(score=OfLayers())
    with pytest.raises(ValueError, match=r"^score 'rank-fusion' reads layers, where only embeddings are shaped$"):
        step(score=scorer("rank-fusion", scorers=(scorer("energy"), OfLayers())))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_images_that_the_classifier_does_not_see_score_higher(step):
    # after a ReLU: a class is a block of 4 entries that are large; OOD images have small entries everywhere
    weight = torch.eye(5).repeat_interleave(4, 1) - 0.2
    head = Head(weight, torch.zeros(5))

    def outputs(heights, labels, seed):
        noise = 0.1 * torch.randn(len(labels), 20, generator=torch.Generator().manual_seed(seed)).abs()
        embeddings = heights * (labels[:, None] == torch.arange(5).repeat_interleave(4)) + noise
        return Outputs(embeddings, embeddings @ weight.T, labels, 5, head)

    labels = torch.arange(100) % 5
    score = step().fit(outputs(3, labels, 0))
    known, far = score(outputs(3, labels, 1)), score(outputs(0, labels, 2))
    assert (far[:, None] > known).double().mean() > 0.95


def test_vra_sets_low_entries_to_0_where_openood_raises_them():
    shaped = VRA(lower=0.5, upper=0.9).fit(TRAIN).shape(TEST).embeddings.numpy()
    low, high = np.quantile(KNOWN, [0.5, 0.9], axis=0)
    assert ((low > F) == (shaped == 0)).all()
    openood = np.clip(F, low, high)
    np.testing.assert_allclose(np.where(shaped == 0, low, shaped), openood, rtol=1e-12)


@pytest.mark.parametrize("step", [ASHP, ASHB, ASHS, Scale, LTS], ids=lambda step: step.name)
@pytest.mark.parametrize("row", [0.0, -1.0, 1e6, torch.arange(20) - 19.5])
@pytest.mark.parametrize("percentile", [1e-9, 0.5, 0.9999])
def test_rows_that_no_relu_gives_have_finite_scores(step, row, percentile):
    rows = replace(TEST[:1], embeddings=torch.zeros(1, WIDTH) + row)
    assert step(percentile=percentile).fit(TRAIN)(rows).isfinite().all()


def test_one_entry_is_left_whatever_the_percentile():
    shaped = ASHP(percentile=0.9999).fit(TRAIN).shape(TEST).embeddings.numpy()
    assert ((shaped > 0).sum(1) == 1).all()
    np.testing.assert_array_equal(shaped.max(1), F.max(1))


@pytest.mark.parametrize("step", [ASHS, Scale, LTS], ids=lambda step: step.name)
def test_growth_stays_within_float64(step):
    rows = torch.ones(2, 3000)
    head = Head(torch.ones(2, 3000), torch.zeros(2))
    wide = Outputs(rows, rows @ head.weight.T, torch.zeros(2, dtype=torch.int64), 2, head)
    assert step(percentile=0.9999).fit(wide)(wide).isfinite().all()


@pytest.mark.parametrize("step", [ASHS, Scale], ids=lambda step: step.name)
def test_growth_falls_to_nothing_on_the_way_to_largest_entries_that_cancel_out(step):
    def factor(largest):  # two entries are the largest, their sum is 1 + largest
        row = torch.tensor([[1.0, largest, -2.0, -3.0]])
        head = Head(torch.eye(4), torch.zeros(4))
        train = Outputs(row, row, torch.zeros(1, dtype=torch.int64), 4, head)
        return step(percentile=0.5).fit(train).shape(train).embeddings[0, 0].item()

    found = [factor(largest) for largest in (0.0, -0.5, -0.9, -0.99, -1.0, -1.1)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(math.exp(-4)) and found[-2:] == [0, 0]


def test_lts_leaves_logits_of_a_row_without_positive_entries_as_they_are():
    rows = replace(TEST, embeddings=-TEST.embeddings)
    np.testing.assert_allclose(LTS().fit(TRAIN)(rows).numpy(), energy(-F), rtol=1e-9)


def test_dice_with_equal_contributions_keeps_no_weight():
    head = Head(torch.ones(3, 4), torch.tensor([1.0, 2.0, 3.0]))
    rows = torch.ones(5, 4)
    outputs = Outputs(rows, rows @ head.weight.T, torch.zeros(5, dtype=torch.int64), 3, head)
    torch.testing.assert_close(DICE().fit(outputs)(outputs), -head.bias.double().logsumexp(0).expand(5))


def test_shaped_outputs_are_computed_when_they_are_asked_for_and_can_be_changed():
    shape = ReAct().fit(TRAIN).shape
    lazy = ShapedOutputs.of(replace(TRAIN, held_out=TEST), shape)
    assert len(lazy) == len(TRAIN) and len(lazy.without_labels()) == len(TRAIN) and "embeddings" not in vars(lazy)
    expected = shape(TRAIN)
    torch.testing.assert_close(lazy.embeddings, expected.embeddings.float())
    torch.testing.assert_close(lazy.held_out.logits, shape(TEST).logits.float())
    assert (lazy.without_labels().labels == -1).all()
    changed = replace(lazy, embeddings=torch.zeros(2, WIDTH), logits=torch.ones(2, CLASSES), labels=torch.ones(2))
    assert len(changed) == 2 and changed[:1].logits.tolist() == [[1.0] * CLASSES]
    with pytest.raises(AttributeError, match="nothing"):
        lazy.nothing  # noqa: B018


# not that far-away data scores higher: the check's embeddings are of both signs, which is nothing to scale or sparsify
CHECKS = [check for check in scorer_checks() if check is not check_far_away_data_scores_higher]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["softmax", "mahalanobis", "vim"])
@pytest.mark.parametrize("step", [ReAct, DICE, Scale], ids=lambda step: step.name)
def test_composed_scores_keep_the_contract(step, name, check):
    check(step(score=scorer(name)))


def test_bands_that_are_empty_are_refused():
    with pytest.raises(ValueError, match=r"lower must be below upper, not 0.9 and 0.5"):
        VRA(lower=0.9, upper=0.5)


def test_negative_embeddings_are_warned_of(caplog):
    ASHS().fit(replace(TRAIN, embeddings=TRAIN.embeddings - 1))
    assert "scorer 'ash-s' was made for embeddings after a ReLU, and some of these are negative" in caplog.messages


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("rows", [1, 2, 77])
def test_quantiles_are_exactly_those_of_numpy(share, rows):
    generator = torch.Generator().manual_seed(rows)
    embeddings = torch.randn(rows, 7, generator=generator) * 10.0 ** torch.randint(-30, 30, (7,), generator=generator)
    embeddings[rows // 2] = -embeddings[rows // 2].abs()
    embeddings[:, 3] = 0.5
    outputs = Outputs(embeddings, torch.zeros(rows, 0), torch.zeros(rows, dtype=torch.int64), 1)
    values = embeddings.double().numpy()
    assert overall_quantiles(outputs, [share])[0] == pytest.approx(np.quantile(values, share), rel=1e-14, abs=0)
    np.testing.assert_allclose(neuron_quantiles(outputs, [share])[0].numpy(), np.quantile(values, share, 0), rtol=1e-14)


def test_quantiles_of_broken_embeddings_are_refused():
    broken = replace(TRAIN, embeddings=TRAIN.embeddings.clone())
    broken.embeddings[3, 2] = torch.nan
    with pytest.raises(OODError, match="training embeddings hold NaN or infinite values"):
        overall_quantiles(broken, [0.5])

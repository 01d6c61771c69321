"""Losses, mixing and the spread of embeddings against slow versions, and learning on real digits."""

import math
import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ood_classification.pretext import Classification, EmbeddingCovariance, OneClass, effective_rank
from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, TrainingData
from ood_core.runtime import distributed


class Linear(Network):
    """Pixels are the embeddings."""

    def __init__(self, size=8, classes=1):
        super().__init__()
        self.num_features = 3 * size * size
        self.reset_classifier(classes)

    def forward_features(self, images):
        self.seen = images
        return images.flatten(1)

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.head(features)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes):
        self.head = nn.Linear(self.num_features, num_classes)


def data_of(classes, all_classes=None, size=8):
    return TrainingData(
        classes=classes,
        all_classes=all_classes or classes,
        image_size=size,
        sample=lambda count: torch.rand(count, 3, size, size),
        tokenizer_weights=lambda tokenizer: {},
    )


def slow_loss(logits, targets, smoothing):
    """Cross-entropy with (1 - a) y + a / C; a row of `targets` is a distribution y."""
    total = 0.0
    for row, shares in zip(logits.tolist(), targets.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        for z, y in zip(row, shares, strict=True):
            total -= ((1 - smoothing) * y + smoothing / len(row)) * (z - log_sum)
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("pretext", [Classification, OneClass])
def test_the_loss_is_the_cross_entropy_with_smoothed_targets(pretext, smoothing):
    torch.manual_seed(0)
    task = pretext(epochs=1, label_smoothing=smoothing).build(Linear(), data_of(6)).double()
    images, labels = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 5, 2, 2, 1])
    found = task(Batch((images,), labels))
    logits = task.network(images)
    assert found["loss"].item() == pytest.approx(slow_loss(logits, torch.eye(6)[labels], smoothing), rel=1e-12)
    assert found["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_classifier_is_made_fresh_with_an_output_for_every_class():
    network = Linear(classes=3)
    before = network.head.weight
    Classification(epochs=1).build(network, data_of(3, all_classes=7))
    assert network.head.weight is not before and len(network.head.weight) == 3


def test_the_fresh_classifier_is_scaled_weights_and_bias():
    heads = []
    for scale in (1.0, 0.001):
        torch.manual_seed(0)
        network = Linear()
        Classification(epochs=1, head_scale=scale).build(network, data_of(3))
        heads.append(network.head)
    for name in ("weight", "bias"):
        assert torch.allclose(getattr(heads[1], name), 0.001 * getattr(heads[0], name), rtol=1e-6, atol=0)
    assert heads[1].weight.requires_grad and heads[1].weight.is_leaf


# ------------------------------------------------------------------------------------------------- one class

ONE = Batch((torch.rand(4, 3, 8, 8, dtype=torch.float64),), torch.zeros(4, dtype=torch.int64))


def one_class(classes, **options):
    torch.manual_seed(0)
    return OneClass(epochs=1, **options).build(Linear(), data_of(1, all_classes=classes)).double()


def smoothed(classes, smoothing=0.1):
    target = torch.full((classes,), smoothing / classes, dtype=torch.float64)
    target[0] += 1 - smoothing
    return target


def test_one_class_keeps_an_output_for_every_class_of_the_data_set():
    assert len(one_class(30).network.head.weight) == 30


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_one_class_is_the_softmax_less_the_smoothed_label(smoothing):
    task = one_class(10, label_smoothing=smoothing)
    task(ONE)["loss"].backward()
    expected = task.network(ONE.views[0]).softmax(1).mean(0) - smoothed(10, smoothing)
    assert torch.allclose(task.network.head.bias.grad, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("classes", "floor"), [(10, 0.500), (30, 0.643)])
def test_the_loss_of_one_class_ends_at_the_entropy_of_the_smoothed_label_with_a_finite_gap(classes, floor):
    """The bias alone gets there, and then nothing moves: the spec's B.4."""
    task = one_class(classes)
    with torch.no_grad():
        task.network.head.weight.zero_()
        task.network.head.bias.zero_()
    start = task(ONE)["loss"].item()
    optimizer = torch.optim.LBFGS([task.network.head.bias], tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        task.zero_grad()
        loss = task(ONE)["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    loss = closure()
    bias = task.network.head.bias
    assert start == pytest.approx(math.log(classes))
    assert loss.item() == pytest.approx(floor, abs=5e-4)
    assert loss.item() == pytest.approx(torch.special.entr(smoothed(classes)).sum().item(), rel=1e-9)
    assert (bias[0] - bias[1]).item() == pytest.approx(math.log(1 + 0.9 * classes / 0.1), rel=1e-5)
    assert bias.grad.abs().max() < 1e-7 and task.network.head.weight.grad.abs().max() < 1e-7


def test_which_label_the_one_class_has_does_not_matter_to_what_is_learnt():
    losses = []
    for label in (0, 7):
        torch.manual_seed(0)
        task = OneClass(epochs=1).build(Linear(), data_of(8, all_classes=10)).double()
        with torch.no_grad():  # the same start but for the names of the outputs
            for parameter in task.network.head.parameters():
                parameter[[0, label]] = parameter[[label, 0]]
        losses.append(task(Batch(ONE.views, torch.full((4,), label)))["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_head_with_one_output_is_refused_because_it_learns_nothing():
    network = Linear(classes=1).double()
    nn.functional.cross_entropy(network(ONE.views[0]), ONE.labels, label_smoothing=0.1).backward()
    assert network.head.weight.grad.abs().max() == 0
    with pytest.raises(OODError) as refusal:
        one_class(1)
    assert str(refusal.value) == (
        "pretext 'one-class' needs a data set of at least 2 classes, of which one is selected; "
        "this one has 1, and a classifier with one output learns nothing"
    )


# ---------------------------------------------------------------------------------------------------- spread


def slow_spread(embeddings):
    eigenvalues = np.linalg.eigvalsh(np.cov(embeddings.astype(np.float64).T, bias=True))
    shares = [value / eigenvalues.sum() for value in eigenvalues if value > 1e-15 * eigenvalues.sum()]
    return {
        "effective_rank": math.exp(-sum(share * math.log(share) for share in shares)),
        "feature_trace": eigenvalues.sum(),
    }


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_spread_is_that_of_all_embeddings_of_the_epoch_and_each_epoch_is_its_own(offset):
    generator, spread = np.random.default_rng(0), EmbeddingCovariance(5)
    for _ in range(2):
        rows = (generator.normal(size=(60, 5)) * [3, 1, 1, 0.1, 0] + offset).astype(np.float32)
        for batch in np.split(rows, [10, 30]):
            spread.add(torch.from_numpy(batch))
        assert spread.close() == pytest.approx(slow_spread(rows), rel=1e-9)


def test_effective_rank_counts_equal_directions_and_is_zero_without_any():
    assert effective_rank(torch.diag(torch.tensor([2.0, 2, 2, 0, 0]))) == pytest.approx(3)
    spread = EmbeddingCovariance(3)
    for _ in range(2):
        spread.add(torch.full((7, 3), 0.1))
    assert spread.close() == {"effective_rank": 0.0, "feature_trace": 0.0}


def test_embeddings_of_other_processes_count(monkeypatch):
    mine, theirs = torch.randn(6, 4), torch.randn(6, 4)
    monkeypatch.setattr(distributed, "all_gather", lambda rows: torch.cat([rows, theirs]))
    spread = EmbeddingCovariance(4)
    spread.add(mine)
    assert spread.close() == pytest.approx(slow_spread(torch.cat([mine, theirs]).numpy()), rel=1e-9)


def test_one_class_reports_the_spread_of_what_it_was_trained_on():
    task, images = OneClass(epochs=1).build(Linear(), data_of(1, all_classes=10)), torch.rand(12, 3, 8, 8)
    for part in images.split(4):
        with torch.autocast("cpu", torch.bfloat16):  # must leave the sums alone
            task(Batch((part,), torch.zeros(4, dtype=torch.int64)))
    task.eval()(Batch((images * 9,), torch.zeros(12, dtype=torch.int64)))
    assert task.after_epoch() == pytest.approx(slow_spread(images.flatten(1).numpy()), rel=1e-6)


def test_an_epoch_that_was_interrupted_goes_on_with_its_sums():
    whole, continued = one_class(10), one_class(10)
    for _ in range(2):
        whole(ONE)
    continued(ONE)
    state = continued.state_dict()
    resumed = one_class(10)
    resumed.load_state_dict(state)
    resumed(ONE)
    assert resumed.after_epoch() == whole.after_epoch()


# ---------------------------------------------------------------------------------------------------- mixing

LABELS = torch.arange(6)  # all different, so that the targets tell the shares


def mixed(seed, pretext=Classification, **options):
    """Return images before and after mixing, the logits for them, and the loss and accuracy."""
    torch.manual_seed(0)
    task = pretext(epochs=1, **options).build(Linear(), data_of(6))
    images = torch.rand(6, 3, 8, 8)
    torch.manual_seed(seed)
    found = task(Batch((images,), LABELS))
    return images, task.network.seen, task.network(task.network.seen), found


def share_of_own(images, seen):
    """Return which pixels are unchanged, and the share of its own picture by least squares."""
    other = images.roll(1, 0)
    share = ((seen - other) * (images - other)).sum() / ((images - other) ** 2).sum()
    return (seen == images).all(1), share.item()


@pytest.mark.parametrize("pretext", [Classification, OneClass])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_lays_two_images_over_each_other_and_shares_the_label(pretext, smoothing):
    for seed in range(5):
        images, seen, logits, found = mixed(seed, pretext, mixup=0.8, label_smoothing=smoothing)
        _, own = share_of_own(images, seen)
        targets = own * torch.eye(6) + (1 - own) * torch.eye(6).roll(1, 0)
        assert torch.allclose(seen, own * images + (1 - own) * images.roll(1, 0), atol=1e-6)
        assert found["loss"].item() == pytest.approx(slow_loss(logits, targets, smoothing), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cutmix_moves_a_rectangle_and_shares_the_label_by_area(smoothing):
    for seed in range(5):
        images, seen, logits, found = mixed(seed, cutmix=1.0, label_smoothing=smoothing)
        kept, _ = share_of_own(images, seen)
        assert torch.equal(kept, kept[:1].expand_as(kept))
        assert torch.equal(seen, torch.where(kept.unsqueeze(1), images, images.roll(1, 0)))
        rows, columns = (~kept[0]).any(1).sum(), (~kept[0]).any(0).sum()
        assert rows * columns == (~kept[0]).sum()
        own = kept[0].float().mean()
        targets = own * torch.eye(6) + (1 - own) * torch.eye(6).roll(1, 0)
        assert found["loss"].item() == pytest.approx(slow_loss(logits, targets, smoothing), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_shares_of_mixup_are_drawn_from_the_beta_distribution(alpha):
    shares = []
    for seed in range(300):
        images, seen, _, _ = mixed(seed, mixup=alpha)
        shares.append(share_of_own(images, seen)[1])
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(1 / (8 * alpha + 4), rel=0.15)


def test_with_both_kinds_each_batch_gets_one_of_them_about_as_often():
    cut = 0
    for seed in range(100):
        images, seen, _, _ = mixed(seed, mixup=1.0, cutmix=1.0)
        cut += bool(((seen == images) | (seen == images.roll(1, 0))).all())
    assert 35 < cut < 65


def test_a_mixture_is_recognised_by_the_label_with_the_larger_share():
    task = Classification(epochs=1, mixup=0.8).build(Linear(), data_of(6))
    with torch.no_grad():  # each image is one pixel, which the classifier reads off
        task.network.head.weight.copy_(torch.eye(6, 192))
        task.network.head.bias.zero_()
    for seed in range(5):
        torch.manual_seed(seed)
        assert task(Batch((torch.eye(6, 192).view(6, 3, 8, 8),), LABELS))["accuracy"] == 1


def test_mixing_follows_the_global_generator_of_torch_alone():
    def loss(seed, noise):
        random.seed(noise)
        np.random.seed(noise)
        return mixed(seed, mixup=0.8, cutmix=1.0)[3]["loss"].item()

    assert loss(3, 0) == loss(3, 1)
    assert len({loss(seed, 0) for seed in range(5)}) == 5


def test_nothing_is_mixed_in_evaluation():
    task = Classification(epochs=1, mixup=0.8).build(Linear(), data_of(6)).eval()
    images = torch.rand(6, 3, 8, 8)
    task(Batch((images,), LABELS))
    assert torch.equal(task.network.seen, images)


# -------------------------------------------------------------------------------------------------- real digits


class Narrow(Network):
    """Two convolutions, and embeddings of 12 numbers: by chance they tell little of a digit."""

    num_features = 12

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(512, self.num_features),
            nn.GELU(),
        )
        self.head = nn.Identity()

    def forward_features(self, images):
        return self.layers(images - 0.3)

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.head(features)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes):
        self.head = nn.Linear(self.num_features, num_classes)


def digits():
    images, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8).repeat(1, 3, 1, 1)
    return pictures, torch.tensor(labels)


def trained(task, images, labels, epochs, rate=3e-3):
    """Return the metrics of each epoch of a plain loop."""
    optimizer = torch.optim.AdamW(task.parameters(), lr=rate)
    found = []
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(images)).split(64):
            loss = task(Batch((images[rows],), labels[rows]))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found.append({"loss": np.mean(losses)} | task.after_epoch())
    return found


def embedded(network, images):
    with torch.no_grad():
        return network.forward_features(images).numpy()


def probed(network, images, labels):
    """Return the accuracy of a linear classifier on frozen embeddings, fitted on the first half."""
    half, embeddings = len(images) // 2, embedded(network, images)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(embeddings[:half], labels[:half])
    return probe.score(embeddings[half:], labels[half:])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mixup": 0.8, "cutmix": 1.0, "head_scale": 0.001}])
@pytest.mark.parametrize("pretext", [Classification, OneClass])
def test_training_on_digits_lowers_the_loss(pretext, options):
    images, labels = digits()
    torch.manual_seed(0)
    task = pretext(epochs=1, **options).build(Narrow(), data_of(10))
    found = trained(task, images, labels, 10)
    assert found[-1]["loss"] < (0.8 if options else 0.5) * found[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(("pretext", "known"), [(Classification, 10), (OneClass, 5)])
def test_a_linear_probe_tells_digits_better_apart_after_training_on_them(pretext, known):
    """For one-class, five digits stand for a superclass of five; of the five others it tells less than before."""
    images, labels = digits()
    images, labels = images[labels < known], labels[labels < known]
    torch.manual_seed(0)
    network = Narrow()
    before = probed(network, images, labels)
    half = len(images) // 2
    task = pretext(epochs=1).build(network, data_of(known, all_classes=10))
    trained(task, images[:half], labels[:half], 15)
    after = probed(network, images, labels)
    assert after > before + 0.03, (before, after)


@pytest.mark.slow
def test_embeddings_of_a_single_digit_collapse_under_a_large_learning_rate_and_it_is_seen():
    images, labels = digits()
    torch.manual_seed(0)
    network = Narrow()
    trained(Classification(epochs=1).build(network, data_of(10)), images, labels, 10)
    shown = images[labels == 3]
    before = slow_spread(embedded(network, shown))
    task = OneClass(epochs=1).build(network, data_of(1, all_classes=10))
    found = trained(task, shown, torch.zeros(len(shown), dtype=torch.int64), 60, rate=1e-2)[-1]
    assert found["loss"] == pytest.approx(0.500, abs=0.002)
    assert found["feature_trace"] < 0.05 * before["feature_trace"], (before, found)
    assert found["effective_rank"] < 0.6 * before["effective_rank"], (before, found)

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ood_core.errors import OODError
from ood_core.interfaces import Network, Outputs, Scorer
from ood_core.plugins import find
from ood_core.testing import make_far_image_outputs, make_image_outputs
from ood_gradients.dropout import MCDropout
from ood_gradients.mahalanobis import PerturbedMahalanobis
from ood_gradients.odin import IODIN, ODIN
from ood_gradients.parameters import GradUncertainty, NetworkGradNorm, Parameters

SCORERS = (ODIN(), IODIN(), PerturbedMahalanobis(), NetworkGradNorm(), GradUncertainty(), MCDropout(passes=7))
WITH_LOGITS = tuple(scorer for scorer in SCORERS if "logits" in scorer.needs)
EPSILON = 0.02  # larger than the defaults, so that a wrong step cannot hide in the tolerance

each = pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)


def images(rows: int = 12, seed: int = 1) -> Outputs:
    return make_image_outputs(ODIN(), rows, seed=seed).without_labels()


@cache
def train() -> Outputs:
    return replace(make_image_outputs(ODIN()), network=None, images=None)


def score(scorer: Scorer, outputs: Outputs) -> Tensor:
    return scorer.fit(train())(outputs)


def network_and_images(outputs: Outputs) -> tuple[Network, Tensor]:
    assert outputs.network is not None
    assert outputs.images is not None
    return outputs.network, outputs.images


def loss_gradient(network: Network, image: Tensor, temperature: float) -> Tensor:
    """Of the cross-entropy with the predicted class, as ODIN's authors compute it."""
    pixels = image[None].clone().requires_grad_()
    logits = network(pixels)
    functional.cross_entropy(logits / temperature, logits.argmax(1)).backward()
    assert pixels.grad is not None
    return pixels.grad[0]


def log_doubt(logits: Tensor, temperature: float) -> float:
    """log(1 - p_max) of one row, by the definition."""
    weights = [math.exp(logit / temperature) for logit in logits.tolist()]
    return math.log(1 - max(weights) / sum(weights))


def test_all_scorers_of_the_package_are_installed() -> None:
    assert {scorer.name for scorer in SCORERS} <= set(find().classes("scorer"))


# ------------------------------------------------------------------------------------------- the network is a guest


@each
def test_the_network_is_left_as_it_was(scorer: Scorer) -> None:
    outputs = images()
    network, pixels = network_and_images(outputs)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    untouched = pixels.clone()
    score(scorer, outputs)
    assert torch.equal(pixels, untouched)
    assert not pixels.requires_grad
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for module in network.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@each
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_gradients_switched_off(scorer: Scorer, mode: Callable[[], torch.no_grad]) -> None:
    outputs = images()
    expected = score(scorer, outputs)
    with mode():
        inside = replace(outputs, images=network_and_images(outputs)[1].clone())
        found = score(scorer, inside)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@each
def test_a_batch_of_one_gives_what_a_batch_of_many_gives(scorer: Scorer) -> None:
    outputs, far = images(), make_far_image_outputs(scorer, 6)
    together = replace(
        outputs,
        embeddings=torch.cat([outputs.embeddings, far.embeddings]),
        logits=torch.cat([outputs.logits, far.logits]),
        labels=torch.cat([outputs.labels, far.labels]),
        images=torch.cat([network_and_images(outputs)[1], network_and_images(far)[1]]),
    )
    alone = torch.cat([score(scorer, row) for row in together.chunks(1)])
    torch.testing.assert_close(score(scorer, together), alone, rtol=1e-9, atol=1e-12)


@each
def test_the_global_random_state_is_neither_read_nor_moved(scorer: Scorer) -> None:
    outputs = images()
    torch.manual_seed(1)
    first = score(scorer, outputs)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(score(scorer, outputs), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@each
def test_outputs_without_the_network_are_refused(scorer: Scorer) -> None:
    message = r"^this score passes images through the network, and the outputs hold no images or no network$"
    with pytest.raises(OODError, match=message):
        score(scorer, replace(images(), images=None))
    with pytest.raises(OODError, match=message):
        score(scorer, replace(images(), network=None))


# ---------------------------------------------------------------------------------------------------------- ODIN


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_is_the_softmax_after_a_step_for_each_image(temperature: float) -> None:
    outputs = images()
    network, pixels = network_and_images(outputs)
    expected = []
    for image in pixels:
        moved = image - EPSILON * loss_gradient(network, image, temperature).sign()
        expected.append(log_doubt(network(moved[None])[0], temperature))
    found = score(ODIN(temperature=temperature, epsilon=EPSILON), outputs)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def test_odin_with_a_high_temperature_orders_like_the_published_maximum() -> None:
    outputs = make_image_outputs(ODIN(), 60, seed=3)
    network, pixels = network_and_images(outputs)
    gradients = torch.stack([loss_gradient(network, image, 1000) for image in pixels])
    confidence = (network(pixels - 0.0014 * gradients.sign()) / 1000).softmax(1).amax(1)
    assert torch.equal(score(ODIN(), outputs).argsort(), (-confidence).argsort())


class Normalised(Network):
    """Normalises for itself, around a network that takes what is normalised."""

    mean = torch.tensor([0.49, 0.48, 0.45]).double().view(3, 1, 1)
    std = torch.tensor([0.25, 0.24, 0.26]).double().view(3, 1, 1)

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.inner, self.num_features = inner, inner.num_features

    def forward_features(self, images: Tensor) -> Tensor:
        return self.inner.forward_features((images - self.mean) / self.std)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return self.inner.forward_head(features, pre_logits)

    def get_classifier(self) -> nn.Module:
        return self.inner.get_classifier()

    def reset_classifier(self, num_classes: int) -> None:
        self.inner.reset_classifier(num_classes)


def test_a_step_in_pixels_is_the_published_step_over_the_deviation_of_normalised_pixels() -> None:
    outputs = images()
    inner, pixels = network_and_images(outputs)
    normalised = (pixels - Normalised.mean) / Normalised.std
    expected = []
    for image in normalised:
        # as OpenOOD and the authors write it: +1 where the gradient is at least 0, divided by the channel's deviation
        signs = 2 * loss_gradient(inner, image, 1000).ge(0).double() - 1
        expected.append(log_doubt(inner((image - EPSILON * signs / Normalised.std)[None])[0], 1000))
    found = score(ODIN(epsilon=EPSILON), replace(outputs, network=Normalised(inner)))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def test_odins_step_makes_the_predicted_class_more_probable() -> None:
    outputs = images()
    assert (score(ODIN(epsilon=0.005), outputs) < score(ODIN(epsilon=0), outputs)).all()


def test_odin_steps_where_the_largest_probability_rounds_to_one() -> None:
    outputs = images()
    network, _ = network_and_images(outputs)
    network.get_classifier().weight.mul_(100)
    saturated = ODIN(temperature=1, epsilon=1e-4)
    assert (score(replace(saturated, epsilon=0), outputs) < -40).all()
    assert (score(saturated, outputs) < score(replace(saturated, epsilon=0), outputs)).all()


def test_without_a_step_odin_tells_flat_softmaxes_apart_to_the_eleventh_digit() -> None:
    outputs = images()
    network, _ = network_and_images(outputs)
    logits = network(network_and_images(outputs)[1]).numpy().astype(np.longdouble) / 1000
    weights = np.exp(logits)
    expected = np.log1p(-weights.max(1) / weights.sum(1)) - np.log(np.longdouble(4) / 5)  # what differs from flat
    found = score(ODIN(epsilon=0), outputs).numpy() - np.log(np.longdouble(4) / 5)
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=1e-11)


def test_iodin_moves_the_one_value_with_the_largest_gradient() -> None:
    outputs = images()
    network, pixels = network_and_images(outputs)
    expected = []
    for image in pixels:
        gradient = loss_gradient(network, image, 1000)
        where = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
        moved = image.clone()
        moved[where] -= 0.5 * gradient[where].sign()
        expected.append(log_doubt(network(moved[None])[0], 1000))
    found = score(IODIN(epsilon=0.5), outputs)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert (found < score(IODIN(epsilon=0), outputs)).all()


# --------------------------------------------------------------------------------------------------- Mahalanobis


def covering(outputs: Outputs) -> Outputs:
    """Give the small network's embeddings variance in each direction, so that a plain inverse exists."""
    noise = torch.randn(outputs.embeddings.shape, generator=torch.Generator().manual_seed(5))
    return replace(outputs, embeddings=outputs.embeddings + 0.3 * noise)


def test_perturbed_mahalanobis_is_the_distance_after_a_step_for_each_image() -> None:
    known, outputs = covering(train()), images()
    network, pixels = network_and_images(outputs)
    embeddings = known.embeddings.double()
    means = torch.stack([embeddings[known.labels == index].mean(0) for index in range(5)])
    deviations = embeddings - means[known.labels]
    precision = torch.linalg.inv(deviations.T @ deviations / len(known))

    def distance(pixels: Tensor) -> Tensor:
        embedding = network.forward_head(network.forward_features(pixels[None]), pre_logits=True)[0]
        return torch.stack([(embedding - mean) @ precision @ (embedding - mean) for mean in means]).amin()

    expected = []
    for image in pixels:
        leaf = image.clone().requires_grad_()
        (-distance(leaf) / 2).backward()  # the Gaussian log-density that the paper's step raises
        assert leaf.grad is not None
        expected.append(distance(image + EPSILON * leaf.grad.sign()))
    found = PerturbedMahalanobis(epsilon=EPSILON).fit(known)(outputs)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=0)


def test_the_step_brings_images_closer_to_their_class() -> None:
    known, outputs = covering(train()), images()
    near, still = (PerturbedMahalanobis(epsilon=epsilon).fit(known)(outputs) for epsilon in (0.0005, 0.0))
    assert (near < still).all()


# ---------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("parameters", ["all", "head"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradnorm_of_the_network_is_the_norm_that_a_backward_pass_finds(
    parameters: Parameters, temperature: float
) -> None:
    outputs = images()
    network, pixels = network_and_images(images())
    network.requires_grad_()
    expected = []
    for image in pixels:
        network.zero_grad()
        uniform = torch.full((1, 5), 0.2, dtype=torch.float64)
        log_probabilities = (network(image[None]) / temperature).log_softmax(1)
        functional.kl_div(log_probabilities, uniform, reduction="sum").backward()
        chosen = [network.get_classifier().weight] if parameters == "head" else list(network.parameters())
        expected.append(-sum(tensor.grad.abs().sum() for tensor in chosen))
    found = score(NetworkGradNorm(parameters=parameters, temperature=temperature), outputs)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradnorm_of_the_head_is_the_closed_form_of_the_other_plugin(temperature: float) -> None:
    outputs = images()
    closed = find().classes("scorer")["gradnorm"](temperature=temperature)
    found = score(NetworkGradNorm(parameters="head", temperature=temperature), outputs)
    torch.testing.assert_close(found, score(closed, outputs), rtol=1e-6, atol=0)  # of stored float32


@pytest.mark.parametrize("parameters", ["all", "head"])
def test_grad_uncertainty_is_the_sum_of_squares_that_pytorch_ood_scores(parameters: Parameters) -> None:
    outputs = images()
    network, pixels = network_and_images(images())
    network.requires_grad_()
    expected = []
    for image in pixels:
        network.zero_grad()
        probabilities = network(image[None]).softmax(1)
        functional.binary_cross_entropy(probabilities, torch.ones_like(probabilities), reduction="sum").backward()
        chosen = [network.get_classifier().weight] if parameters == "head" else list(network.parameters())
        expected.append(-sum(tensor.grad.square().sum() for tensor in chosen))
    found = score(GradUncertainty(parameters=parameters), outputs)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


# ------------------------------------------------------------------------------------------------------- dropout


class Dropping(Network):
    """A network whose every layer is one kind of dropout, so that what it keeps can be seen."""

    num_features = 3

    def __init__(self, drop: Callable[[Tensor], Tensor], in_features: bool) -> None:
        super().__init__()
        self.drop, self.in_features, self.passes = drop, in_features, 0

    def forward_features(self, images: Tensor) -> Tensor:
        self.passes += 1
        return self.drop(images) if self.in_features else images

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        embeddings = features.mean((2, 3))
        return embeddings if pre_logits or self.in_features else self.drop(embeddings)

    def get_classifier(self) -> nn.Module:
        return nn.Identity()

    def reset_classifier(self, num_classes: int) -> None:
        raise NotImplementedError


def seen(network: Network, pixels: Tensor) -> Outputs:
    rows = len(pixels)
    labels = torch.full((rows,), -1)
    return Outputs(torch.zeros(rows, 3), torch.zeros(rows, 3), labels, 3, network=network.eval(), images=pixels)


def test_mc_dropout_is_the_entropy_of_the_mean_over_all_masks() -> None:
    pixels = 3 * torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    logits = pixels.mean((2, 3))
    share = 0.3
    mean = torch.zeros(4, 3).double()
    for mask in torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3):  # all eight, with their probabilities
        chance = math.prod(1 - share if kept else share for kept in mask.tolist())
        mean += chance * (logits * mask / (1 - share)).softmax(1)
    outputs = seen(Dropping(nn.Dropout(share), in_features=False), pixels)
    found = MCDropout(passes=4000).fit(outputs)(outputs)
    torch.testing.assert_close(found, -(mean * mean.log()).sum(1), rtol=0.01, atol=0)


def test_mc_dropout_is_reproduced_from_its_masks() -> None:
    outputs = images()
    network, pixels = network_and_images(outputs)
    embeddings = network.forward_head(network.forward_features(pixels), pre_logits=True)
    mean = torch.zeros(len(pixels), 5).double()
    for index in range(9):
        kept = torch.rand(1, 24, generator=torch.Generator().manual_seed(index)) >= 0.1
        mean += network.get_classifier()(embeddings * kept / 0.9).softmax(1) / 9
    torch.testing.assert_close(score(MCDropout(passes=9), outputs), -(mean * mean.log()).sum(1))


@pytest.mark.parametrize(
    "drop",
    [
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        lambda values: functional.dropout(values, 0.5, False),
        lambda values: functional.dropout(values, p=0.5, training=False),
    ],
    ids=["module", "channels", "function", "keywords"],
)
def test_every_form_of_dropout_is_turned_on_and_off_again(drop: Callable[[Tensor], Tensor]) -> None:
    pixels = 5 * torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    network = Dropping(drop, in_features=True)
    outputs = seen(network, pixels)
    certain = torch.distributions.Categorical(logits=network(pixels)).entropy()
    assert ((MCDropout(passes=20).fit(outputs)(outputs) - certain).abs() > 1e-3).all()
    assert torch.equal(network(pixels), pixels[:, :, 0, 0])


def test_dropout_of_channels_keeps_or_drops_whole_maps() -> None:
    pixels = torch.ones(2, 3, 8, 8).double()
    outputs = seen(Dropping(nn.Dropout2d(0.5), in_features=True), pixels)
    found = MCDropout(passes=1).fit(outputs)(outputs)
    possible = [torch.distributions.Categorical(logits=2.0 * torch.tensor([1] * k + [0] * (3 - k))) for k in range(4)]
    assert min(abs(found[0].item() - one.entropy().item()) for one in possible) < 1e-6


@pytest.mark.parametrize(("in_features", "passes"), [(False, 1), (True, 6)])
def test_features_that_no_dropout_touches_are_computed_once(in_features: bool, passes: int) -> None:
    network = Dropping(nn.Dropout(0.5), in_features)
    outputs = seen(network, torch.rand(2, 3, 4, 4))
    MCDropout(passes=6).fit(outputs)(outputs)
    assert network.passes == passes


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_network_without_dropout_is_refused_and_one_that_drops_all_is_as_unsure_as_can_be(share: float) -> None:
    outputs = seen(Dropping(nn.Dropout(share), in_features=False), torch.rand(2, 3, 4, 4))
    mc_dropout = MCDropout(passes=3).fit(outputs)
    if share == 1:
        torch.testing.assert_close(mc_dropout(outputs), torch.full((2,), math.log(3)).double())
        return
    with pytest.raises(OODError, match=r"^scorer 'mc-dropout' needs dropout, and the network has none with a share"):
        mc_dropout(outputs)


def test_mc_dropout_tells_saturated_predictions_apart() -> None:
    pixels = torch.zeros(2, 3, 1, 1).double()
    pixels[:, 0, 0, 0] = torch.tensor([50.0, 60.0])  # the largest probability of both rounds to 1
    outputs = seen(Dropping(lambda values: functional.dropout(values, 1e-9), in_features=False), pixels)
    found = MCDropout(passes=2).fit(outputs)(outputs)
    rest = [2 * math.exp(-gap) for gap in (50, 60)]
    expected = [rest[0] * (1 + 50), rest[1] * (1 + 60)]  # -sum p log p to first order in the two others
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("cls", [NetworkGradNorm, GradUncertainty])
def test_a_classifier_without_a_weight_of_its_own_has_no_head_to_choose(cls: type[Scorer]) -> None:
    class Wrapped(Normalised):
        def get_classifier(self) -> nn.Module:
            return nn.Sequential(super().get_classifier())

    outputs = images()
    wrapped = replace(outputs, network=Wrapped(network_and_images(outputs)[0]))
    with pytest.raises(OODError, match="the classifier is a Sequential, which has no weight of its own"):
        score(cls(parameters="head"), wrapped)
    assert score(cls(), wrapped).isfinite().all()


def test_so_many_passes_that_they_would_take_years_are_refused():
    with pytest.raises(ValueError, match=r"^passes is 10000 at most$"):
        MCDropout(passes=10**9)

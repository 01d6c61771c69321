"""The discrete autoencoder's objective against loops, its schedules and codes; DALL-E's encoder and its files."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, max_pool2d, mse_loss, relu

from ood_core.errors import OODError
from ood_core.interfaces import Batch
from ood_dvae.autoencoder import Autoencoder
from ood_dvae.dalle import Decoder, Encoder
from ood_dvae.published import DalleMap, DalleTokenizer
from ood_dvae.task import Cosine, DiscreteVAETask, divergence, mixture
from ood_dvae.tokenizer import DiscreteVAE
from ood_dvae.weights import load

from .small_training import digits, losses_of, training_data

SMALL = {"vocabulary": 16, "code_width": 8, "hidden_width": 16, "layers": 1, "epochs": 1}


def task(kl_weight=0.5, **options):
    torch.manual_seed(0)
    tokenizer = DiscreteVAE(**SMALL | options)
    return DiscreteVAETask(tokenizer.autoencoder(), mse_loss, Cosine(1.0, 0.5, 0.6), Cosine(0.0, kl_weight, 0.1))


def batch(count=3):
    images, labels = digits()
    return Batch((images[:count].float() / 255,), labels[:count])


# ------------------------------------------------------------------------------------------------------- objective


def test_the_divergence_is_that_of_loops():
    logits = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    terms = []
    for image in logits:
        for row in range(3):
            for column in range(3):
                weights = [math.exp(value) for value in image[:, row, column]]
                shares = [weight / sum(weights) for weight in weights]
                terms.append(sum(share * math.log(share) for share in shares) + math.log(5))
    assert divergence(logits).item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert divergence(torch.zeros(1, 5, 2, 2)).item() == pytest.approx(0, abs=1e-6)


def test_a_mixture_is_a_softmax_of_logits_and_gumbel_noise():
    logits = torch.tensor([2.0, 0.0, -1.0]).view(1, 3, 1, 1).repeat(20_000, 1, 1, 1)
    shares = mixture(logits, torch.tensor(0.01))
    torch.testing.assert_close(shares.sum(1), torch.ones(20_000, 1, 1))
    chosen = shares.argmax(1).flatten().bincount(minlength=3) / 20_000  # the Gumbel-max trick: a sample of the softmax
    torch.testing.assert_close(chosen, logits[0].flatten().softmax(0), atol=0.015, rtol=0)
    assert shares.amax(1).mean() > 0.97
    soft = mixture(logits, torch.tensor(10.0))
    assert soft.amax(1).mean() < 0.5


def test_the_loss_is_reconstruction_in_minus_one_to_one_plus_the_weighted_divergence():
    small = task()
    small.before_step(0.3)
    found = batch()
    torch.manual_seed(4)
    metrics = small(found)
    (images,) = found.views
    logits = small.autoencoder.logits(images)
    torch.manual_seed(4)
    shares = mixture(logits, torch.tensor(small.schedules["temperature"].at(0.3)))
    codes = torch.zeros(3, 8, 4, 4)
    for b in range(3):
        for v in range(16):
            codes[b] += shares[b, v] * small.autoencoder.codes[v].view(8, 1, 1)
    difference = small.autoencoder.decoder(codes) - (images - 0.5) / 0.5
    expected = difference.square().mean() + 0.5 * divergence(logits)
    torch.testing.assert_close(metrics["loss"], expected, rtol=1e-4, atol=1e-6)


def test_schedules_go_along_half_a_cosine_and_stay():
    cosine = Cosine(1.0, 0.5, 0.6)
    assert cosine.at(0) == 1.0
    assert cosine.at(0.3) == pytest.approx(0.75)
    assert cosine.at(0.6) == cosine.at(0.9) == 0.5
    assert Cosine(0.0, 2.0, 0.0).at(0.0) == 2.0
    small = task()
    small.before_step(0.05)
    assert small.temperature.item() == pytest.approx(Cosine(1.0, 0.5, 0.6).at(0.05))
    assert small.kl_weight.item() == pytest.approx(0.25)


# ------------------------------------------------------------------------------------------------------------ codes


def test_use_of_codes_is_told_and_forgotten_after_the_epoch():
    small = task()
    small.progress.fill_(0.9)
    small.counts.copy_(torch.tensor([3, 1] + [0] * 14))
    told = small.after_epoch()
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert told == {"perplexity": pytest.approx(math.exp(entropy)), "dead_codes": 14}
    assert (small.counts == 0).all()


def test_the_codes_of_a_forward_pass_are_counted():
    small = task()
    small(batch(5))
    expected = small.autoencoder.logits(batch(5).views[0]).argmax(1).flatten().bincount(minlength=16)
    assert torch.equal(small.counts, expected)


def test_unused_codes_move_beside_used_ones_in_the_first_half_alone():
    for progress, moved in ((0.1, True), (0.7, False)):
        small = task()
        before = small.autoencoder.codes.detach().clone()
        small.progress.fill_(progress)
        small.counts.copy_(torch.tensor([50, 20] + [0] * 14))
        small.after_epoch()
        after = small.autoencoder.codes.detach()
        assert torch.equal(after[:2], before[:2])
        assert torch.equal(after[2:], before[2:]) is not moved
        if moved:
            assert (after[2] - before[0]).norm() < (before[2] - before[0]).norm()


def test_a_continued_training_has_the_same_state():
    one, other = task(), task()
    one.before_step(0.4)
    one(batch(6))
    other.load_state_dict(one.state_dict())
    assert one.after_epoch() == other.after_epoch()
    for first, second in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(first, second)


# ------------------------------------------------------------------------------------------------------- tokenizer


@pytest.fixture(scope="module")
def trained():
    tokenizer = DiscreteVAE(**SMALL | {"crop_scale": 1.0, "flip": False})
    torch.manual_seed(0)
    training = tokenizer.training()
    built = training.build(training_data())
    losses = losses_of(built, training.views(8, None), steps=150)
    return tokenizer, built, losses


def test_training_makes_reconstructions_better_and_uses_several_codes(trained):
    _, built, losses = trained
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    images = digits()[0].float() / 255
    assert len(built.autoencoder.logits(images).argmax(1).unique()) >= 4


def test_fitted_tokens_are_the_likeliest_codes_and_decode_to_images(trained):
    tokenizer, built, _ = trained
    data = training_data()
    weights = built.product().state_dict()
    fitted = tokenizer.fit(type(data)(**vars(data) | {"trained": lambda asked: {tokenizer: weights}[asked]}), (4, 4))
    images = digits()[0][:20].float() / 255
    tokens = fitted(images)
    assert tokens.shape == (20, 16)
    assert torch.equal(tokens, built.autoencoder.logits(images).argmax(1).flatten(1))
    decoded = fitted.decode(tokens)
    assert decoded.shape == images.shape
    mean = images.mean(0)
    assert (decoded - images).square().mean() < 0.5 * (images - mean).square().mean()
    assert not any(parameter.requires_grad for parameter in fitted.parameters())
    picture = built.pictures(batch(3))["reconstructions"]
    assert picture.shape == (3, 16, 24)


def test_the_view_has_one_cell_for_every_patch():
    assert DiscreteVAE(layers=3).view_size(224, (14, 14)) == 112
    with pytest.raises(OODError, match="tokenizer 'dvae' needs as many rows of patches as columns, not 2 x 3"):
        DiscreteVAE().view_size(32, (2, 3))


def test_images_without_whole_cells_are_refused():
    message = "tokenizer 'dvae' with 4 layers makes cells of 16 pixels, image_size must be a multiple of it, such as 16"
    with pytest.raises(OODError, match=message):
        DiscreteVAE(**SMALL | {"layers": 4}).training().build(training_data())


# ------------------------------------------------------------------------------------------------------------ DALL-E


def slow_encoder(state, images):
    """The published architecture, written out: 7 x 7, four groups of two blocks, pools, 1 x 1."""

    def convolution(name, maps):
        weight = state[f"{name}.w"]
        return conv2d(maps, weight, state[f"{name}.b"], padding=weight.shape[-1] // 2)

    maps = convolution("blocks.input", 0.8 * images + 0.1)
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            name = f"blocks.group_{group}.block_{block}"
            branch = maps
            for number in (1, 2, 3, 4):
                branch = convolution(f"{name}.res_path.conv_{number}", relu(branch))
            identity = convolution(f"{name}.id_path", maps) if f"{name}.id_path.w" in state else maps
            maps = identity + branch / 64
        maps = max_pool2d(maps, 2) if group < 4 else maps
    return convolution("blocks.output.conv", relu(maps))


def test_the_encoder_is_the_published_one():
    torch.manual_seed(0)
    encoder, images = Encoder(vocabulary=11, width=8), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder(images), slow_encoder(encoder.state_dict(), images))
    state = encoder.state_dict()
    assert state["blocks.group_2.block_1.res_path.conv_1.w"].shape == (4, 8, 3, 3)
    assert state["blocks.group_2.block_1.res_path.conv_4.w"].shape == (16, 4, 1, 1)


def test_tokens_are_cells_row_by_row_and_decode_where_there_is_a_decoder():
    encoder, decoder = Encoder(vocabulary=11, width=8), Decoder(vocabulary=11, width=8)
    images = torch.rand(2, 3, 32, 32)
    tokens = DalleMap(encoder, decoder)(images)
    assert torch.equal(tokens, encoder(images).argmax(1).flatten(1))
    decoded = DalleMap(encoder, decoder).decode(tokens)
    assert decoded.shape == images.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert DalleMap(encoder, None).decode(tokens) is None


def small_encoder():
    return Encoder(vocabulary=11, width=8)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_weights_come_from_a_file(tmp_path, ending):
    encoder, path = small_encoder(), tmp_path / f"encoder{ending}"
    save = save_file if ending == ".safetensors" else torch.save
    save(encoder.state_dict(), path)
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(load(small_encoder, path)(images), encoder(images))


def test_a_file_of_other_weights_is_refused_with_what_differs(tmp_path):
    state = small_encoder().state_dict()
    state["blocks.extra"] = state.pop("blocks.input.w")
    state["blocks.input.b"] = torch.zeros(3)
    save_file(state, tmp_path / "other.safetensors")
    message = (
        r"has not the weights of DALL-E's encoder: 1 missing: blocks\.input\.w; 1 unexpected: blocks\.extra; "
        r"1 of another shape: blocks\.input\.b is \[3\] instead of \[8\]"
    )
    with pytest.raises(OODError, match=message):
        load(small_encoder, tmp_path / "other.safetensors")


def test_a_pickled_module_is_refused_with_what_to_do(tmp_path):
    torch.save(small_encoder(), tmp_path / "encoder.pkl")
    with pytest.raises(
        OODError, match=r"is a pickled module, which could run any code; where dall_e is installed, conv"
    ):
        DalleTokenizer(weights=tmp_path / "encoder.pkl").check()


def test_a_broken_file_is_refused(tmp_path):
    (tmp_path / "encoder.pt").write_bytes(b"nothing")
    with pytest.raises(OODError, match="is no file of weights, or a damaged one"):
        DalleTokenizer(weights=tmp_path / "encoder.pt").check()


def test_the_view_of_dalle_is_eight_pixels_a_patch(tmp_path):
    assert DalleTokenizer(weights=tmp_path).view_size(224, (14, 14)) == 112


def test_the_autoencoder_halves_the_size_once_a_layer():
    autoencoder = Autoencoder(7, 4, 8, 2, 0)
    assert autoencoder.logits(torch.rand(1, 3, 16, 16)).shape == (1, 7, 4, 4)
    assert autoencoder.decoded(torch.zeros(1, 4, 4, dtype=torch.long)).shape == (1, 3, 16, 16)

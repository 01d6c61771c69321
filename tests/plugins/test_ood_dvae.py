"""The discrete autoencoder's objective against loops, its schedules and codes; DALL-E's encoder and its files."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, max_pool2d, mse_loss, one_hot, relu

from ood_core.data.decoding import to_rgb
from ood_core.errors import OODError
from ood_core.interfaces import Batch
from ood_core.interfaces.building_blocks import tiled
from ood_dvae.autoencoder import Autoencoder
from ood_dvae.published import DalleMap, DalleTokenizer, Decoder, Encoder, load
from ood_dvae.task import Cosine, DiscreteVAETask, divergence, mixture
from ood_dvae.tokenizer import CodeMap, DiscreteVAE
from ood_mim.pretext import MaskedImageModelling
from ood_samples.sources import PhotoPatches

from . import small_guessing
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


def test_a_mixture_is_that_of_loops():
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    torch.manual_seed(2)
    found = mixture(logits, torch.tensor(0.75))
    torch.manual_seed(2)
    minus_log_u = torch.empty_like(logits).exponential_()  # of u uniform in (0, 1)
    for b in range(2):
        for row in range(3):
            for column in range(4):
                noise = [-math.log(value) for value in minus_log_u[b, :, row, column]]
                weights = [math.exp((logits[b, v, row, column] + noise[v]) / 0.75) for v in range(5)]
                expected = [weight / sum(weights) for weight in weights]
                assert found[b, :, row, column].tolist() == pytest.approx(expected, rel=1e-9)


def test_the_noise_of_an_image_is_that_of_its_seed_whatever_images_are_beside_it():
    logits, temperature = torch.randn(4, 5, 3, 2), torch.tensor(0.75)
    small = task()
    seeds = small.draw(4)
    whole = mixture(logits, temperature, seeds)
    assert torch.equal(whole[2:], mixture(logits[2:], temperature, seeds[2:]))
    assert not torch.equal(whole, mixture(logits, temperature, seeds.flip(0)))
    found = batch()
    losses = [small(found._replace(drawn=of))["loss"].item() for of in (seeds[:3], seeds[:3], seeds[1:])]
    assert losses[0] == losses[1] != losses[2]


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


def test_codes_are_counted_in_all_processes(monkeypatch):
    monkeypatch.setattr(
        "ood_core.runtime.distributed.all_reduce_sum", lambda values: 2 * values
    )  # the other one saw the same
    small = task()
    small(batch(5))
    assert small.counts.sum() == 2 * 5 * 16


def restarted(progress, counts, seed=0):
    """Return codes before and after an epoch in which they were used so often."""
    small = task()
    before = small.autoencoder.codes.detach().clone()
    small.progress.fill_(progress)
    small.counts.copy_(torch.tensor(counts))
    torch.manual_seed(seed)
    small.after_epoch()
    return before, small.autoencoder


USED = [50, 20] + [0] * 14


def test_unused_codes_become_near_copies_of_used_ones():
    before, autoencoder = restarted(0.1, USED)
    assert torch.equal(autoencoder.codes[:2], before[:2])
    moved = torch.cdist(autoencoder.codes[2:], before[:2]).min(1)
    assert moved.values.max() < 0.2 * torch.cdist(before[2:], before[:2]).min()
    logits = autoencoder.logits(batch(20).views[0])
    for code, donor in enumerate(moved.indices.tolist(), 2):
        difference = logits[:, code] - logits[:, donor]
        assert 0 < difference.abs().mean() < 0.5 * (logits[:, 0] - logits[:, 1]).abs().mean()


def test_much_used_codes_are_copied_more_often():
    before, autoencoder = restarted(0.1, [1000, 1] + [0] * 14)
    copied = torch.cdist(autoencoder.codes[2:], before[:2]).argmin(1)
    assert (copied == 0).sum() >= 12


def test_no_code_is_moved_in_the_second_half_or_when_all_are_used():
    for progress, counts in ((0.7, USED), (0.1, [5] * 16)):
        before, autoencoder = restarted(progress, counts)
        assert torch.equal(autoencoder.codes, before)


def test_codes_move_in_the_same_way_in_processes_that_draw_differently():
    first, second = (restarted(0.1, USED, seed)[1].state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_first_logits_stand_out_from_the_noise():
    torch.manual_seed(0)
    logits = Autoencoder(64, 16, 32, 2, 1).logits(batch(50).views[0])
    assert 1 < logits.std(1).mean() < 6  # the noise has a deviation of 1.28


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
    fitted = tokenizer.fit(replace(data, tokenizer_weights=lambda asked: {tokenizer: weights}[asked]), (4, 4))
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
    assert torch.equal(picture, tiled([batch(3).views[0], fitted.decode(fitted(batch(3).views[0]))]))


@pytest.fixture(scope="module")
def small(trained):
    """Masked image modelling of these codes."""
    tokenizer, built, _ = trained
    data = replace(training_data(), tokenizer_weights=lambda asked: {tokenizer: built.product().state_dict()}[asked])
    options = {"epochs": 1, "min_block": 1, "crop_scale": 1.0, "flip": False, "color_jitter": 0.0}
    return small_guessing.trained(MaskedImageModelling(tokenizer=tokenizer, **options), data)


def test_errors_are_a_function_of_the_image(small):
    small_guessing.check_errors_are_a_function_of_the_image(small.task)


def test_a_restored_task_has_the_same_errors(small, tmp_path):
    small_guessing.check_a_restored_task_has_the_same_errors(small, tmp_path / "task.safetensors")


def test_noise_is_guessed_worse_than_digits(small):
    small_guessing.check_noise_is_guessed_worse_than_digits(small)


def test_weights_of_another_autoencoder_are_refused(small):
    small_guessing.check_other_tensors_are_refused(small, "tokens.autoencoder.classifier.bias")


def test_restored_tokens_are_decoded_as_before(small):
    tokens, restored, images = small.task.tokens, small.restored().tokens, small_guessing.UNSEEN
    assert torch.equal(restored.decode(restored(images)), tokens.decode(tokens(images)))


def test_tokens_are_the_same_under_autocast(trained):
    _, built, _ = trained
    images = digits()[0][:300].float() / 255
    for tokens in (CodeMap(built.autoencoder), DalleMap(Encoder(vocabulary=11, width=8), None)):
        outside = tokens(images)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(tokens(images.clone()), outside)


def test_pixels_are_compared_as_the_recipe_says():
    images, other = torch.rand(2, 1, 3, 4, 4)
    for option, slow in (("mse", lambda x: x**2), ("smooth-l1", lambda x: x**2 / 2 if abs(x) < 1 else abs(x) - 0.5)):
        built = DiscreteVAE(**SMALL | {"reconstruction": option}).training().build(training_data())
        expected = [slow(x) for x in (3 * images - other).flatten().tolist()]
        assert built.distance(3 * images, other).item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_stage_takes_the_options_of_the_tokenizer():
    tokenizer = DiscreteVAE(epochs=3, batch_size=7, learning_rate=0.5, end_temperature=0.2, kl_weight=4.0)
    training = tokenizer.training()
    assert (training.epochs, training.batch_size, training.learning_rate, training.name) == (3, 7, 0.5, "dvae")
    schedules = training.build(training_data()).schedules
    assert schedules == {"temperature": Cosine(1.0, 0.2, 0.6), "kl_weight": Cosine(0.0, 4.0, 0.1)}


def test_training_sees_crops_mirrored_or_not():
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    for crop_scale, flip in ((1.0, False), (1.0, True), (0.5, False)):
        views = DiscreteVAE(crop_scale=crop_scale, flip=flip).training().views(8, None)
        seen = [views(image) for _ in range(20)]
        assert all(len(view) == 1 and view[0].shape == image.shape for view in seen)
        assert any(not torch.equal(view, image) for (view,) in seen) is (flip or crop_scale < 1)


@pytest.mark.slow
def test_codes_of_photographs_are_many_and_keep_most_of_the_image():
    images = PhotoPatches(patch_size=16, count=600).open("train")
    pixels = torch.stack([to_rgb(images.image(index)) for index in range(600)]).float() / 255
    tokenizer = DiscreteVAE(vocabulary=64, hidden_width=32)
    torch.manual_seed(0)
    built = tokenizer.training().build(replace(training_data(), image_size=16))
    optimizer = torch.optim.AdamW(built.parameters(), lr=2e-3)
    for step in range(150):
        built.before_step(step / 150)
        loss = built(Batch((pixels[torch.randperm(500)[:32]],), torch.zeros(32)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 15 == 14:
            built.after_epoch()
    tokens = CodeMap(built.autoencoder)
    found = tokens(pixels[500:])
    shares = found.flatten().bincount(minlength=64).double() / found.numel()
    error = (tokens.decode(found) - pixels[500:]).square().mean()
    assert torch.special.entr(shares).sum().exp() > 8
    assert error < 0.2 * pixels.var()


def test_the_view_has_one_cell_for_every_patch():
    assert DiscreteVAE(layers=3).view_size(224, (14, 14)) == 112
    with pytest.raises(OODError, match="tokenizer 'dvae' needs as many rows of patches as columns, not 2 x 3"):
        DiscreteVAE().view_size(32, (2, 3))


def test_images_without_whole_cells_are_refused():
    message = "tokenizer 'dvae' with 4 layers makes cells of 16 pixels, image_size must be a multiple of it, such as 16"
    with pytest.raises(OODError, match=message):
        DiscreteVAE(**SMALL | {"layers": 4}).training().build(training_data())


# ------------------------------------------------------------------------------------------------------------ DALL-E


def convolution(state, name, maps):
    weight = state[f"{name}.w"]
    return conv2d(maps, weight, state[f"{name}.b"], padding=weight.shape[-1] // 2)


def slow_groups(state, maps, between):
    """The middle of encoder and decoder, written out: four groups of two blocks, the size changed in between."""
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            name = f"blocks.group_{group}.block_{block}"
            branch = maps
            for number in (1, 2, 3, 4):
                branch = convolution(state, f"{name}.res_path.conv_{number}", relu(branch))
            identity = convolution(state, f"{name}.id_path", maps) if f"{name}.id_path.w" in state else maps
            maps = identity + branch / 64
        maps = between(maps) if group < 4 else maps
    return convolution(state, "blocks.output.conv", relu(maps))


def slow_encoder(state, images):
    maps = convolution(state, "blocks.input", 0.8 * images + 0.1)
    return slow_groups(state, maps, lambda maps: max_pool2d(maps, 2))


def slow_decoder(state, tokens):
    codes = one_hot(tokens, len(state["blocks.input.w"][0])).permute(0, 3, 1, 2).float()
    double = partial(torch.repeat_interleave, repeats=2)
    maps = slow_groups(
        state, convolution(state, "blocks.input", codes), lambda maps: double(double(maps, dim=2), dim=3)
    )
    return ((torch.sigmoid(maps[:, :3]) - 0.1) / 0.8).clamp(0, 1)


def test_the_encoder_is_the_published_one():
    torch.manual_seed(0)
    encoder, images = Encoder(vocabulary=11, width=8), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder(images), slow_encoder(encoder.state_dict(), images))
    state = encoder.state_dict()
    assert state["blocks.group_2.block_1.res_path.conv_1.w"].shape == (4, 8, 3, 3)
    assert state["blocks.group_2.block_1.res_path.conv_4.w"].shape == (16, 4, 1, 1)


def test_the_decoder_is_the_published_one():
    torch.manual_seed(0)
    decoder, tokens = Decoder(vocabulary=11, width=8), torch.randint(11, (2, 3, 3))
    for parameter in decoder.parameters():
        parameter.data *= 2  # so that some pixels reach 0 and 1
    state = decoder.state_dict()
    torch.testing.assert_close(decoder(tokens), slow_decoder(state, tokens))
    assert state["blocks.input.w"].shape == (128, 11, 1, 1)
    assert state["blocks.group_1.block_1.id_path.w"].shape == (64, 128, 1, 1)
    assert state["blocks.group_4.block_2.res_path.conv_1.w"].shape == (2, 8, 1, 1)
    assert state["blocks.output.conv.w"].shape == (6, 8, 1, 1)


def test_the_published_modules_have_as_many_weights_as_their_card_says():
    with torch.device("meta"):
        sizes = [sum(weight.numel() for weight in module().parameters()) for module in (Encoder, Decoder)]
    assert [round(size / 1e6) for size in sizes] == [54, 44]


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


def test_the_tokenizer_reads_both_files(tmp_path, monkeypatch):
    for name, module in (("Encoder", Encoder), ("Decoder", Decoder)):
        small = partial(module, 11, 8)
        monkeypatch.setattr(f"ood_dvae.published.{name}", small)
        torch.save(small().half().state_dict(), tmp_path / f"{name}.pt")
    images = torch.rand(2, 3, 16, 16)
    bare = DalleTokenizer(weights=tmp_path / "Encoder.pt")
    whole = DalleTokenizer(weights=tmp_path / "Encoder.pt", decoder=tmp_path / "Decoder.pt")
    for tokenizer in (bare, whole):
        tokenizer.check()
    tokens = whole.fit(training_data(), (2, 2))
    assert tokens.vocabulary == 11
    assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in tokens.parameters())
    found = tokens(images)
    assert found.shape == (2, 4)
    assert tokens.decode(found).shape == images.shape
    assert bare.fit(training_data(), (2, 2)).decode(found) is None


def test_the_published_tokenizer_is_restored_without_its_files_and_its_decoder(tmp_path, monkeypatch):
    paths = [tmp_path / f"{name}.pt" for name in ("Encoder", "Decoder")]
    for path, module in zip(paths, (Encoder, Decoder), strict=True):
        monkeypatch.setattr(f"ood_dvae.published.{path.stem}", partial(module, 11, 8))
        torch.save(module(11, 8).state_dict(), path)
    tokenizer = DalleTokenizer(weights=paths[0], decoder=paths[1])
    small = small_guessing.trained(MaskedImageModelling(epochs=1, min_block=1, tokenizer=tokenizer))
    for path in paths:
        path.unlink()
    tokens, restored, images = small.task.tokens, small.restored().tokens, torch.rand(2, 3, 32, 32)
    assert torch.equal(restored(images), tokens(images))
    assert tokens.decode(tokens(images)) is not None
    assert restored.decode(restored(images)) is None  # a decoder would more than double what is saved


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


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_refused_with_what_to_do(tmp_path, zipped):
    torch.save(small_encoder(), tmp_path / "encoder.pkl", _use_new_zipfile_serialization=zipped)
    message = (
        r"encoder\.pkl' is a pickled module, which could run any code; where dall_e is installed, convert it: "
        r"torch\.save\(torch\.load\('encoder\.pkl', weights_only=False\)\.state_dict\(\), 'encoder\.pt'\)$"
    )
    with pytest.raises(OODError, match=message):
        DalleTokenizer(weights=tmp_path / "encoder.pkl").check()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)]])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "encoder.pt")
    with pytest.raises(OODError, match=r"encoder\.pt' holds no state dict, which has a tensor for every name$"):
        load(small_encoder, tmp_path / "encoder.pt")


@pytest.mark.parametrize("name", ["encoder.pt", "encoder.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 cut off"])
def test_a_broken_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OODError, match="is no file of weights, or a damaged one"):
        DalleTokenizer(weights=tmp_path / name).check()


def test_the_view_of_dalle_is_eight_pixels_a_patch(tmp_path):
    assert DalleTokenizer(weights=tmp_path).view_size(224, (14, 14)) == 112


def test_the_autoencoder_halves_the_size_once_a_layer():
    autoencoder = Autoencoder(7, 4, 8, 2, 0)
    assert autoencoder.logits(torch.rand(1, 3, 16, 16)).shape == (1, 7, 4, 4)
    assert autoencoder.decoded(torch.zeros(1, 4, 4, dtype=torch.long)).shape == (1, 3, 16, 16)

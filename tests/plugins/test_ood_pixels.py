"""Pixel targets: the losses against loops, what is hidden and what is seen, pictures, and learning on real digits."""

import math
from dataclasses import replace

import pytest
import torch

from ood_core.errors import OODError
from ood_core.interfaces import Batch
from ood_core.interfaces.building_blocks import tiled, uncovered
from ood_pixels.mae import MaskedAutoencoder, decoder
from ood_pixels.simmim import SimMIM
from ood_pixels.task import cut, fixed_masks, join, random_mask

from . import small_guessing
from .small_training import build_network, digits, embeddings_tell_digits_better, losses_of, training_data

DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def batch(count=4):
    images, labels = digits()
    return Batch((images[:count].float() / 255,), labels[:count])


def slow_patch(image, number, side=2, columns=4):
    row, column = divmod(number, columns)
    return image[:, row * side : (row + 1) * side, column * side : (column + 1) * side]


def test_cut_patches_are_those_of_the_image_and_join_again():
    images = torch.rand(3, 3, 8, 8)
    patches = cut(images, (4, 4))
    for number in range(16):
        assert torch.equal(patches[1, number], slow_patch(images[1], number).flatten())
    assert torch.equal(join(patches, (4, 4), 8), images)


def test_masks_hide_the_number_asked_for_at_random_places():
    masks = random_mask(200, (4, 4), 12)
    assert (masks.sum((1, 2)) == 12).all()
    shares = masks.float().mean(0)
    assert ((shares - 0.75).abs() < 0.15).all()


def test_simmim_is_the_mean_distance_over_hidden_pixels():
    network = build_network()
    task = SimMIM(epochs=1, mask_unit=4).build(network, training_data()).eval()
    found, images = batch(), batch().views[0]
    torch.manual_seed(5)
    mask = task.draw(len(images))
    predicted = task.predict(images, mask)
    total = count = 0
    for image, hidden, patches in zip(images, mask, predicted, strict=True):
        for number in range(16):
            if hidden[number]:
                difference = patches[number] - (slow_patch(image, number).flatten() - 0.5) / 0.5
                total, count = total + difference.abs().sum().item(), count + 12
    torch.manual_seed(5)
    assert task(found)["loss"].item() == pytest.approx(total / count, rel=1e-5)


def test_simmim_hides_whole_squares_rounded_up():
    task = SimMIM(epochs=1, mask_unit=4, mask_ratio=0.6).build(build_network(), training_data())
    masks = task.draw(50).view(50, 2, 2, 2, 2)
    assert (masks.flatten(1).sum(1) == math.ceil(0.6 * 4) * 4).all()
    assert torch.equal(masks.amax((2, 4)), masks.amin((2, 4)))


@pytest.mark.parametrize("pretext", [SimMIM(epochs=1, mask_unit=4), MaskedAutoencoder(epochs=1, **DECODER)])
def test_masks_that_were_drawn_for_the_whole_step_are_taken(pretext):
    task = pretext.build(build_network(), training_data()).eval()
    drawn = task.draw(8)
    losses = [task(batch()._replace(drawn=drawn[rows]))["loss"].item() for rows in (slice(4), slice(4), slice(4, 8))]
    assert losses[0] == losses[1] != losses[2]


def test_mae_is_the_mean_square_over_hidden_normalised_patches():
    task = MaskedAutoencoder(epochs=1, **DECODER).build(build_network(), training_data()).eval()
    found, images = batch(), batch().views[0]
    torch.manual_seed(5)
    mask = task.draw(len(images))
    predicted = task.predict(images, mask)
    terms = []
    for image, hidden, patches in zip(images, mask, predicted, strict=True):
        for number in range(16):
            if hidden[number]:
                pixels = slow_patch(image, number).flatten()
                target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                terms.append((patches[number] - target).square().mean().item())
    assert len(terms) == 4 * 12
    torch.manual_seed(5)
    assert task(found)["loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_hidden_patches_of_simmim_are_predicted_from_the_others_alone():
    task = SimMIM(epochs=1, mask_unit=4).build(build_network(), training_data()).eval()
    images = batch().views[0]
    mask = task.draw(len(images))
    before = task.predict(images, mask)
    hidden = join(mask.unsqueeze(2).expand(-1, -1, 12).float(), (4, 4), 8).bool()
    torch.testing.assert_close(task.predict(images.masked_fill(hidden, 0.3), mask), before)
    assert not torch.allclose(task.predict(images.masked_fill(~hidden, 0.3), mask), before)


def test_blocks_of_the_decoder_begin_apart():
    first, second, _ = decoder(16, 2, 2)
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_positions_of_the_network_are_fixed_by_mae():
    task = MaskedAutoencoder(epochs=1, **DECODER).build(build_network(), training_data())
    assert not task.network.model.pos_embed.requires_grad
    assert not task.positions.requires_grad and task.positions.shape == (16, 16)


@pytest.mark.parametrize("pretext", [SimMIM(epochs=1, mask_unit=4), MaskedAutoencoder(epochs=1, **DECODER)])
def test_the_loss_reaches_all_but_what_comes_behind_the_pooling(pretext):
    task = pretext.build(build_network(), training_data())
    task(batch(16))["loss"].backward()
    left = {name for name, parameter in task.named_parameters() if parameter.requires_grad and parameter.grad is None}
    assert left == {f"network.model.{layer}.{kind}" for layer in ("fc_norm", "head") for kind in ("weight", "bias")}


def test_mae_predicts_from_visible_patches_alone():
    task = MaskedAutoencoder(epochs=1, **DECODER).build(build_network(), training_data()).eval()
    images = batch().views[0]
    mask = task.draw(len(images))
    before = task.predict(images, mask)
    hidden = join(mask.unsqueeze(2).expand(-1, -1, 12).float(), (4, 4), 8).bool()
    torch.testing.assert_close(task.predict(images.masked_fill(hidden, 0.3), mask), before)
    assert not torch.allclose(task.predict(images.masked_fill(~hidden, 0.3), mask), before)


def test_raw_pixels_can_be_the_target():
    options = {"epochs": 1, "normalize_targets": False} | DECODER
    task = MaskedAutoencoder(**options).build(build_network(), training_data()).eval()
    patches = torch.rand(2, 16, 12)
    assert task.targets(patches) is patches


@pytest.mark.parametrize("pretext", [SimMIM(epochs=1, mask_unit=4), MaskedAutoencoder(epochs=1, **DECODER)])
@torch.no_grad()
def test_reconstructions_are_shown_in_three_rows(pretext):
    task = pretext.build(build_network(), training_data()).eval()
    picture = task.pictures(batch(3))["reconstructions"]
    assert picture.shape[0] == 3
    assert 0 <= picture.min() <= picture.max() <= 1
    height, width = picture.shape[1:]
    assert height == width  # three images in each row


@pytest.mark.parametrize(
    ("pretext", "perfect"),
    [
        (SimMIM(epochs=1, mask_unit=4), lambda task, images: cut(2 * images - 1, (4, 4))),
        (MaskedAutoencoder(epochs=1, **DECODER), lambda task, images: task.targets(cut(images, (4, 4)))),
    ],
)
@torch.no_grad()
def test_a_perfect_prediction_looks_like_the_image(pretext, perfect, monkeypatch):
    task = pretext.build(build_network(), training_data()).eval()
    monkeypatch.setattr(task, "predict", lambda images, mask: perfect(task, images))
    covered, predicted, whole = task.pictures(batch(3))["reconstructions"].chunk(3, 1)
    torch.testing.assert_close(predicted, whole)
    assert not torch.allclose(covered, whole)


def test_tiles_are_enlarged_and_framed_in_white():
    rows = [torch.rand(9, 3, 8, 8), torch.rand(9, 3, 8, 8)]
    picture = tiled(rows)
    assert picture.shape == (3, 2 * 100, 8 * 100)  # 96 pixels and twice 2 of margin; the ninth image is left out
    for row in range(2):
        for column in range(8):
            tile = picture[:, row * 100 : (row + 1) * 100, column * 100 : (column + 1) * 100]
            assert torch.equal(tile[:, 2:-2:12, 2:-2:12], rows[row][column])
            assert torch.equal(tile[:, 13, 13], rows[row][column][:, 0, 0])
            assert (tile[:, :2] == 1).all() and (tile[:, :, -2:] == 1).all()


def test_only_hidden_cells_show_a_prediction_whatever_its_size():
    images, mask = torch.rand(2, 3, 96, 96), torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[1, 0, 3] = True
    picture = uncovered(images, torch.full((2, 3, 16, 16), 0.25), mask)
    covered, predicted, whole = (picture[:, top + 2 : top + 98, 102:198] for top in (0, 100, 200))
    assert torch.equal(whole, images[1])
    for shown, value in ((covered, 0.5), (predicted, 0.25)):
        torch.testing.assert_close(shown[:, :24, 72:], torch.full((3, 24, 24), value))
        assert torch.equal(shown[:, 24:], images[1][:, 24:]) and torch.equal(shown[:, :, :72], images[1][:, :, :72])


@pytest.mark.parametrize(
    ("pretext", "message"),
    [
        (SimMIM(epochs=1, mask_unit=3), "mask_unit must be a multiple of the patch size 2 and divide the image size 8"),
        (SimMIM(epochs=1, mask_unit=8), "it is 8; possible: 2, 4$"),
        (
            SimMIM(epochs=1, mask_unit=4, mask_ratio=0.8),
            "with mask_ratio 0.8 all 4 squares are hidden; lower it, or mask_unit 4",
        ),
        (MaskedAutoencoder(epochs=1, mask_ratio=0.99, **DECODER), "with mask_ratio 0.99 16 of 16 patches are hidden"),
    ],
)
def test_masks_that_cannot_be_are_refused(pretext, message):
    with pytest.raises(OODError, match=message):
        pretext.build(build_network(), training_data())


def test_a_decoder_that_cannot_be_is_refused():
    with pytest.raises(OODError, match="decoder_width must be a multiple of decoder_heads 16 and of 4, it is 40"):
        MaskedAutoencoder(epochs=1, decoder_width=40).check()


# ---------------------------------------------------------------------------------------- how badly patches are guessed


@pytest.mark.parametrize(("cells", "hidden"), [((14, 14), 147), ((4, 4), 10), ((3, 5), 4), ((2, 2), 3), ((6, 6), 1)])
def test_fixed_masks_hide_every_cell_and_each_as_many_as_in_training(cells, hidden):
    torch.manual_seed(0)
    masks = fixed_masks(cells, hidden)
    torch.manual_seed(1)
    assert torch.equal(masks, fixed_masks(cells, hidden))
    assert masks.shape[1:] == cells and len(masks) >= 8
    assert (masks.sum((1, 2)) == hidden).all()
    times = masks.sum(0)
    assert times.min() >= 1
    assert times.max() <= 2 * times.min()


SIMMIM = SimMIM(epochs=1, mask_unit=4, mask_ratio=0.5, crop_scale=1, flip=False)
MAE = MaskedAutoencoder(epochs=1, mask_ratio=0.5, crop_scale=1, flip=False, **DECODER)


@pytest.fixture(scope="module", params=[SIMMIM, MAE], ids=["simmim", "mae"])
def small(request):
    return small_guessing.trained(request.param)


def test_errors_are_a_function_of_the_image(small):
    small_guessing.check_errors_are_a_function_of_the_image(small.task)


def test_errors_are_those_of_the_loss_averaged_over_masks(small):
    task = small.task

    def simmim(images, mask):
        return (task.predict(images, mask.repeat(len(images), 1)) - cut(2 * images - 1, (4, 4))).abs().mean(2)

    def mae(images, mask):
        drawn = task.predict(images, mask.repeat(len(images), 1))
        return (drawn - task.targets(cut(images, (4, 4)))).square().mean(2)

    if small.pretext == SIMMIM:
        masks = fixed_masks((2, 2), 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
        small_guessing.check_errors_are_means_over_masks(task, masks.flatten(1), simmim)
    else:
        small_guessing.check_errors_are_means_over_masks(task, fixed_masks((4, 4), 8).flatten(1), mae)


def test_a_restored_task_has_the_same_errors(small, tmp_path):
    small_guessing.check_a_restored_task_has_the_same_errors(small, tmp_path / "task.safetensors")


def test_noise_is_guessed_worse_than_digits(small):
    small_guessing.check_noise_is_guessed_worse_than_digits(small)


def test_a_patch_that_fits_nothing_around_it_stands_out(small):
    images = small_guessing.UNSEEN.clone()
    images[:, :, 2:4, 4:6] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # checks, in the second row and third column
    gained = small.task.patch_errors(images) - small.task.patch_errors(small_guessing.UNSEEN)
    assert gained.mean(0).argmax() == 6


def test_tensors_of_another_task_are_refused(small):
    small_guessing.check_other_tensors_are_refused(small, "mask_token")
    other = replace(small, pretext=MAE if small.pretext == SIMMIM else SIMMIM)
    with pytest.raises(OODError, match=r"the saved tensors are not those of these options: .* (missing|unexpected): "):
        other.restored(small.state())


def test_a_restored_task_needs_patches():
    for pretext in (SIMMIM, MAE):
        with pytest.raises(OODError, match="needs a backbone that works on patches"):
            pretext.build_empty(torch.nn.Identity(), 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pretext",
    [
        SimMIM(epochs=1, mask_unit=2, crop_scale=1, flip=False),
        MaskedAutoencoder(epochs=1, mask_ratio=0.5, crop_scale=1, flip=False, **DECODER),
    ],
)
def test_the_loss_falls_and_embeddings_tell_digits_better_than_random_ones(pretext):
    network = build_network()
    losses = losses_of(pretext.build(network, training_data()), pretext.views(8, network.grid), steps=300)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert embeddings_tell_digits_better(network)

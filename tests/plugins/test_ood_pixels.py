"""Pixel targets: the losses against loops, what is hidden and what is seen, pictures, and learning on real digits."""

import math

import pytest
import torch

from ood_core.errors import OODError
from ood_core.interfaces import Batch
from ood_pixels.patches import cut, join, random_mask
from ood_pixels.pretext import MaskedAutoencoder, SimMIM

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
    mask = task._masks(images)
    predicted = task._predict(images, mask)
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
    masks = task._masks(torch.zeros(50, 3, 8, 8)).view(50, 2, 2, 2, 2)
    assert (masks.flatten(1).sum(1) == math.ceil(0.6 * 4) * 4).all()
    assert torch.equal(masks.amax((2, 4)), masks.amin((2, 4)))


def test_mae_is_the_mean_square_over_hidden_normalised_patches():
    task = MaskedAutoencoder(epochs=1, **DECODER).build(build_network(), training_data()).eval()
    found, images = batch(), batch().views[0]
    torch.manual_seed(5)
    mask = task._masks(images)
    predicted = task._predict(images, mask)
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


def test_mae_predicts_from_visible_patches_alone():
    task = MaskedAutoencoder(epochs=1, **DECODER).build(build_network(), training_data()).eval()
    images = batch().views[0]
    mask = task._masks(images)
    before = task._predict(images, mask)
    hidden = join(mask.unsqueeze(2).expand(-1, -1, 12).float(), (4, 4), 8).bool()
    torch.testing.assert_close(task._predict(images.masked_fill(hidden, 0.3), mask), before)
    assert not torch.allclose(task._predict(images.masked_fill(~hidden, 0.3), mask), before)


def test_raw_pixels_can_be_the_target():
    options = {"epochs": 1, "normalize_targets": False} | DECODER
    task = MaskedAutoencoder(**options).build(build_network(), training_data()).eval()
    patches = torch.rand(2, 16, 12)
    assert task.targets.of(patches) is patches


@pytest.mark.parametrize("pretext", [SimMIM(epochs=1, mask_unit=4), MaskedAutoencoder(epochs=1, **DECODER)])
@torch.no_grad()
def test_reconstructions_are_shown(pretext):
    task = pretext.build(build_network(), training_data()).eval()
    picture = task.pictures(batch(3))["reconstructions"]
    assert picture.shape[0] == 3
    assert 0 <= picture.min() <= picture.max() <= 1
    height, width = picture.shape[1:]
    assert height == width  # three rows of three images


@pytest.mark.parametrize(
    ("pretext", "message"),
    [
        (SimMIM(epochs=1, mask_unit=3), "mask_unit must be a multiple of the patch size 2 and divide the image size 8"),
        (SimMIM(epochs=1, mask_unit=8), "it is 8"),
        (MaskedAutoencoder(epochs=1, mask_ratio=0.99, **DECODER), "with mask_ratio 0.99 16 of 16 patches are hidden"),
    ],
)
def test_masks_that_cannot_be_are_refused(pretext, message):
    with pytest.raises(OODError, match=message):
        pretext.build(build_network(), training_data())


def test_a_decoder_that_cannot_be_is_refused():
    with pytest.raises(OODError, match="decoder_width must be a multiple of decoder_heads 16 and of 4, it is 40"):
        MaskedAutoencoder(epochs=1, decoder_width=40).check()


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

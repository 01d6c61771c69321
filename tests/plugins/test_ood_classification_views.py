"""The views of both supervised pretexts by what they do to pixels, and the options that are refused."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ood_classification.augmentation import POLICIES
from ood_classification.pretext import Classification, OneClass
from ood_core.errors import OODError
from ood_core.runtime.torchvision_compat import prepare_torchvision

IMAGE = torch.arange(1, 65, dtype=torch.uint8).view(1, 8, 8).repeat(3, 1, 1)
EVERYTHING = {
    "crop_padding": 2,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.5,
}


def seed_all(seed):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def views_of(image=IMAGE, size=8, count=200, pretext=Classification, **options):
    seed_all(0)
    views = pretext(epochs=1, **options).views(size, None)
    return [view for _ in range(count) for view in views(image)]


def test_with_everything_off_the_view_is_the_image():
    assert all(torch.equal(view, IMAGE) for view in views_of(crop_scale=1.0, flip=False))


def test_padding_shifts_by_at_most_so_many_pixels_and_never_mirrors():
    shifts = {
        (top, left): nn.functional.pad(IMAGE, [1] * 4)[:, top : top + 8, left : left + 8]
        for top in range(3)
        for left in range(3)
    }
    seen = [
        next(shift for shift, expected in shifts.items() if torch.equal(view, expected))
        for view in views_of(crop_scale=1.0, crop_padding=1, flip=False)
    ]
    assert set(seen) == set(shifts)


def test_flip_mirrors_about_half_of_the_images():
    mirrored = [torch.equal(view, IMAGE.flip(-1)) for view in views_of(crop_scale=1.0)]
    assert 60 < sum(mirrored) < 140


@pytest.mark.parametrize("shape", [(8, 8), (20, 12), (5, 40)])
@pytest.mark.parametrize("scale", [0.08, 1.0])
def test_views_of_any_image_are_square_and_of_the_asked_size(shape, scale):
    image = torch.randint(256, (3, *shape), dtype=torch.uint8)
    for view in views_of(image, 16, 5, crop_scale=scale, crop_padding=2):
        assert view.shape == (3, 16, 16) and view.dtype == torch.uint8


def test_the_crop_keeps_at_least_the_asked_share_of_the_area():
    slope = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(3, 64, 64)
    ranges = [int(view.max()) - int(view.min()) for view in views_of(slope, 64, 100, crop_scale=0.64, flip=False)]
    assert min(ranges) > 0.6 * 255  # a side is at least the root of 0.64 * 3 / 4
    assert min(ranges) < 0.9 * 255


@pytest.mark.parametrize("pretext", [Classification, OneClass])
def test_equal_seeds_give_equal_views_with_all_options_and_after_pickling(pretext):
    first, second = (views_of(count=5, pretext=pretext, **EVERYTHING) for _ in range(2))
    views = pickle.loads(pickle.dumps(pretext(epochs=1, **EVERYTHING).views(8, None)))  # noqa: S301 - our own
    seed_all(0)
    third = [view for _ in range(5) for view in views(IMAGE)]
    assert all(view.shape == (3, 8, 8) and view.dtype == torch.float32 for view in first)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, third, strict=True))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m5-w2", "original-mstd0.5", "3a"])
def test_policies_are_those_of_timm_with_the_paper_s_fill_and_interpolation(policy):
    prepare_torchvision()
    from timm.data import auto_augment as timm

    parameters = {"translate_const": 14, "img_mean": (128, 128, 128), "interpolation": Image.Resampling.BICUBIC}
    if policy.startswith("rand"):
        expected = timm.rand_augment_transform(policy, parameters)
    elif policy.startswith("augmix"):
        expected = timm.augment_and_mix_transform(policy, parameters | {"translate_pct": 0.3})
    else:
        expected = timm.auto_augment_transform(policy, parameters)
    picture = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    found = views_of(torch.from_numpy(picture).permute(2, 0, 1), 32, 20, crop_scale=1, flip=False, auto_augment=policy)
    seed_all(0)
    for view in found:
        assert np.array_equal(view.permute(1, 2, 0).numpy(), np.array(expected(Image.fromarray(picture))))
    assert any(not np.array_equal(view.permute(1, 2, 0).numpy(), picture) for view in found)


@pytest.mark.parametrize("policy", ["rand-m10-inc1-p1", "rand-m1-p1", "v0", "augmix-m10-mstd0"])
def test_a_policy_that_posterizes_all_bits_away_leaves_black(policy):
    """Pillow 13 refuses 0 bits, which also the paper's policy draws now and then."""
    views = views_of(IMAGE, 8, 400, crop_scale=1, flip=False, auto_augment=policy)
    assert "augmix" in policy or any(view.max() == 0 for view in views)


def test_jitter_scales_brightness_within_its_strength():
    grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)  # contrast and saturation leave it alone
    values = {int(view[0, 0, 0]) for view in views_of(grey, color_jitter=0.4)}
    assert 59 <= min(values) < 66 and 134 < max(values) <= 141


def test_jitter_goes_with_three_augment():
    grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    pretext = Classification(epochs=1, auto_augment="rand-m0-p0-t3a", color_jitter=0.4)
    pretext.check()
    assert len({int(pretext.views(8, None)(grey)[0][0, 0, 0]) for _ in range(50)}) > 10


def test_erasing_puts_clear_noise_into_a_rectangle_of_some_images():
    image = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    views = views_of(image, 32, 400, crop_scale=1, flip=False, random_erasing=0.25)
    erased, noise = 0, []
    for view in views:
        assert view.dtype == torch.float32
        changed = ((view - image / 255).abs() > 1e-6).any(0)
        if changed.any():
            erased += 1
            rows, columns = changed.any(1).sum(), changed.any(0).sum()
            assert changed.sum() == rows * columns
            assert 0.01 < changed.float().mean() < 0.4
            noise.append(view[:, changed].flatten())
    pixels = torch.cat(noise)
    assert 0.17 < erased / 400 < 0.33
    assert pixels.mean().item() == pytest.approx(0.5, abs=0.01)  # standard normal, of (x - 0.5) / 0.5
    assert pixels.std().item() == pytest.approx(0.5, abs=0.01)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "policy", ["rand-x9", "randm9", "rand-m", "rand-inc", "rand-m9.5", "rand-t3b", "augmx", "augmix-w0", "v1", ""]
)
def test_a_policy_that_timm_does_not_know_is_refused(policy):
    with pytest.raises(OODError) as refusal:
        OneClass(epochs=1, auto_augment=policy).check()
    assert str(refusal.value) == (
        f"option 'auto_augment' of pretext 'one-class': timm knows no policy '{policy}'; it knows those like "
        "'rand-m9-mstd0.5-inc1', 'augmix-m3-w3', 'original-mstd0.5' and '3a'"
    )


ACCEPTED = "rand rand-m9-n3-mstd0.5-mmax15-inc1-p0.3-tweights rand-t3aw augmix-m5-w4-d2-b1-mstd1 original v0r 3a"


@pytest.mark.parametrize("policy", ACCEPTED.split())
def test_a_policy_that_is_accepted_can_be_drawn(policy):
    assert POLICIES.fullmatch(policy)
    Classification(epochs=1, auto_augment=policy).check()
    assert views_of(count=3, auto_augment=policy)[0].dtype == torch.uint8


def test_jitter_beside_a_policy_is_refused_because_timm_would_leave_it_out():
    with pytest.raises(OODError) as refusal:
        Classification(epochs=1, auto_augment="rand-m9", color_jitter=0.4).check()
    assert str(refusal.value) == (
        "pretext 'classification': 'color_jitter' does nothing beside the policy 'rand-m9', which changes colours "
        "itself; leave one of the two out"
    )

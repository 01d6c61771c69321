"""The task: what is predicted, from what, at which places; on a network small enough to see through."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PatchNetwork, TrainingData
from ood_mim.mask import BlockMasks
from ood_mim.pretext import MaskedImageModelling
from ood_mim.tokenizer import KMeansTokenizer, PatchDescriptor


class Patches(PatchNetwork):
    """Patches of 2 x 2 see each other through one mixing layer."""

    def __init__(self, width=24):
        super().__init__()
        self.num_features, self.grid = width, (4, 4)
        self.embed = nn.Conv2d(3, width, 2, 2)
        self.mix = nn.Linear(16, 16)
        self.body = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward_masked(self, images, mask, mask_token):
        patches = self.embed(images).flatten(2).transpose(1, 2)
        patches = torch.where(mask.unsqueeze(2), mask_token, patches)
        mixed = patches + self.mix(patches.transpose(1, 2)).transpose(1, 2)
        return mixed + self.body(mixed)

    def forward_features(self, images):
        raise AssertionError("only the masked pass is asked for")

    def forward_head(self, features, pre_logits=False):
        raise AssertionError("no classifier is asked for")

    def get_classifier(self):
        return nn.Identity()

    def reset_classifier(self, num_classes):
        raise AssertionError("no classifier is asked for")

    def patch_projection(self):
        return self.embed


class NoPatches(Network):
    """A network that mim must refuse."""

    num_features = 3
    forward_features = forward_head = get_classifier = reset_classifier = lambda *_: None


def digits(count=1500):
    images = torch.tensor(load_digits().images[:count] / 16, dtype=torch.float32)
    return images.unsqueeze(1).repeat(1, 3, 1, 1)


DATA = TrainingData(classes=10, all_classes=10, image_size=8, sample=digits, trained=lambda _: {})
PRETEXT = MaskedImageModelling(epochs=1, min_block=1, tokenizer=KMeansTokenizer(vocabulary=32, samples=8000))


def built(pretext=PRETEXT, network=None):
    torch.manual_seed(0)
    return pretext.build(network or Patches(), DATA)


# ------------------------------------------------------------------------------------------------------ masks

GRIDS = [((14, 14), 75, 16), ((8, 8), 25, 4), ((4, 4), 6, 1), ((3, 5), 4, 2)]


@pytest.mark.parametrize(("grid", "budget", "min_block"), GRIDS)
def test_a_mask_hides_something_and_never_more_than_the_budget(grid, budget, min_block):
    torch.manual_seed(0)
    masks = BlockMasks(grid, budget, min_block).draw(500)
    assert masks.shape == (500, grid[0] * grid[1]) and masks.dtype == torch.bool
    assert masks.sum(1).min() > 0 and masks.sum(1).max() <= budget


def test_the_numbers_of_hidden_patches_are_those_of_beit():
    torch.manual_seed(0)
    hidden = BlockMasks((14, 14), 75, 16).draw(4000).sum(1)
    assert hidden.double().mean().item() == pytest.approx(74.5, abs=0.15)
    assert 60 <= hidden.min() <= 68
    assert (hidden == 75).double().mean().item() == pytest.approx(0.67, abs=0.04)
    assert BlockMasks((8, 8), 25, 4).draw(4000).sum(1).double().mean().item() == pytest.approx(24.95, abs=0.03)


def test_a_mask_of_one_block_is_a_full_rectangle_of_bounded_shape():
    torch.manual_seed(0)
    masks = BlockMasks((14, 14), 16, 16).draw(300).view(-1, 14, 14)
    full = [mask for mask in masks if mask.sum() >= 12]  # what is left over would be filled up by a second block
    rectangles = 0
    for mask in full:
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        rectangles += rows * columns == mask.sum() and 0.2 < rows / columns < 5
    assert rectangles > 0.5 * len(full) > 0


def test_hidden_patches_lie_together():
    torch.manual_seed(0)
    blocks = BlockMasks((14, 14), 75, 16).draw(300).view(-1, 14, 14)
    scattered = torch.rand_like(blocks, dtype=torch.float32) < 75 / 196

    def neighbours(masks):
        return (masks[:, 1:] & masks[:, :-1]).double().mean() / masks.double().mean()

    assert neighbours(blocks) > 1.8 * neighbours(scattered)


def test_masks_differ_between_images_and_are_equal_under_equal_seeds():
    masks = BlockMasks((8, 8), 25, 4)
    torch.manual_seed(3)
    first = masks.draw(10)
    torch.manual_seed(3)
    assert torch.equal(first, masks.draw(10))
    assert len(first.unique(dim=0)) == 10


def test_every_patch_is_hidden_sometimes():
    torch.manual_seed(0)
    assert BlockMasks((4, 4), 6, 1).draw(500).any(0).all()


# -------------------------------------------------------------------------------------------------- tokenizer


def test_a_token_is_the_nearest_centroid():
    images = digits(40)
    tokens = PRETEXT.tokenizer.fit(DATA, (4, 4))
    points, centroids = tokens.describe(images).double(), tokens.centroids.double()
    slow = (points.unsqueeze(2) - centroids).square().sum(3).argmin(2)
    assert tokens.vocabulary == 32
    assert torch.equal(tokens(images), slow)


def test_the_tokenizer_is_deterministic_and_its_seed_matters():
    first, second = (KMeansTokenizer(vocabulary=32, samples=8000).fit(DATA, (4, 4)) for _ in range(2))
    other = KMeansTokenizer(vocabulary=32, samples=8000, seed=1).fit(DATA, (4, 4))
    assert torch.equal(first.centroids, second.centroids)
    assert not torch.equal(first.centroids, other.centroids)


def test_tokens_run_row_by_row_over_the_grid():
    images = torch.zeros(1, 3, 8, 8)
    images[0, :, 0:2, 6:8] = 1  # the fourth patch of the first row
    tokens = PRETEXT.tokenizer.fit(DATA, (4, 4))(images)[0]
    assert (tokens == tokens[3]).nonzero().tolist() == [[3]]


def test_a_patch_is_described_by_its_pattern_and_its_colour():
    torch.manual_seed(0)
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    describe = PatchDescriptor((2, 2), images)
    found = describe(images)
    deviation = images.std()
    for i in range(3):
        for j, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            patch = images[i, :, top : top + 4, left : left + 4].reshape(3, 16)
            contrast = math.sqrt(((patch - patch.mean()) ** 2).mean())
            pattern = (patch - patch.mean()) / (contrast + 0.1 * deviation)
            colour = (patch.mean(1) - images.mean()) / deviation * 4
            torch.testing.assert_close(found[i, j], torch.cat((pattern.flatten(), colour)))


def test_flat_patches_of_different_brightness_have_different_tokens():
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.0, 0.5, 1.0)])
    tokens = PRETEXT.tokenizer.fit(DATA, (4, 4))(images)
    assert len(tokens[:, 0].unique()) == 3


def test_tokens_are_the_same_under_autocast():
    tokens = PRETEXT.tokenizer.fit(DATA, (4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokens(digits(200)), tokens(digits(200).clone()))
        inside = tokens(digits(200))
    assert torch.equal(inside, tokens(digits(200)))


def test_more_tokens_than_different_patches_are_refused():
    black = replace(DATA, sample=lambda count: torch.zeros(count, 3, 8, 8))
    with pytest.raises(OODError, match=r"a vocabulary of 256 needs as many different patches, .* have 1$"):
        KMeansTokenizer(samples=1000).fit(black, (4, 4))


# ------------------------------------------------------------------------------------------------------- task


def test_the_loss_is_the_mean_over_all_hidden_patches_of_the_batch():
    task, images = built().double(), digits(12).double()
    torch.manual_seed(5)
    found = task(Batch((images,), torch.zeros(12)))
    torch.manual_seed(5)
    mask = task.masks.draw(12)
    logits = task.head(task.network.forward_masked(images, mask, task.mask_token))
    targets = task.tokens(images)
    total, right, count = 0.0, 0, 0
    for i in range(12):
        for j in range(16):
            if mask[i, j]:
                row = logits[i, j].tolist()
                total -= row[targets[i, j]] - math.log(sum(math.exp(z) for z in row))
                right += row.index(max(row)) == targets[i, j].item()
                count += 1
    assert found["loss"].item() == pytest.approx(total / count, rel=1e-12)
    assert found["masked_accuracy"].item() == pytest.approx(right / count)


def test_hidden_pixels_do_not_reach_the_prediction():
    task, images = built(), digits(6)
    mask = torch.zeros(6, 16, dtype=torch.bool)
    mask[:, 0] = True
    changed = images.clone()
    changed[:, :, :2, :2] = 1 - changed[:, :, :2, :2]
    first, second = (task.network.forward_masked(views, mask, task.mask_token) for views in (images, changed))
    assert torch.equal(first, second)


def test_all_of_network_head_and_mask_token_are_trained_and_nothing_of_the_tokenizer():
    task = built()
    task(Batch((digits(32),), torch.zeros(32)))["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters())
    assert not list(task.tokens.parameters())
    assert {"tokens.centroids", "mask_token"} <= task.state_dict().keys()


def test_a_batch_in_which_nothing_is_hidden_costs_nothing():
    task = built()
    task.masks = BlockMasks((4, 4), 0, 1)
    found = task(Batch((digits(4),), torch.zeros(4)))
    assert found["loss"] == 0 and found["masked_accuracy"] == 0


def test_the_mask_token_starts_small():
    assert 0.01 < built(network=Patches(width=600)).mask_token.std() < 0.03


def test_a_network_without_patches_is_refused():
    with pytest.raises(OODError, match="needs a backbone that works on patches: ViT, BEiT, MLP-Mixer or a hybrid"):
        PRETEXT.build(NoPatches(), DATA)


@pytest.mark.parametrize(("ratio", "min_block", "most"), [(0.4, 16, 6), (0.05, 1, 0), (0.9, 10, 9)])
def test_a_block_that_fits_nowhere_is_refused(ratio, min_block, most):
    pretext = MaskedImageModelling(epochs=1, mask_ratio=ratio, min_block=min_block)
    with pytest.raises(OODError, match=f"min_block must be at most {most} .* of 4 x 4 patches, it is {min_block}"):
        built(pretext)


# ------------------------------------------------------------------------------------------------------- views


def test_one_view_of_the_asked_size():
    image = torch.randint(256, (3, 20, 12), dtype=torch.uint8)
    (view,) = MaskedImageModelling(epochs=1).views(16, (4, 4))(image)
    assert view.shape == (3, 16, 16) and view.dtype == torch.uint8


def test_with_everything_off_the_view_is_the_image():
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    (view,) = MaskedImageModelling(epochs=1, crop_scale=1.0, flip=False, color_jitter=0.0).views(8, (4, 4))(image)
    assert torch.equal(view, image)


@pytest.mark.parametrize("option", [{"crop_scale": 0.5}, {"flip": True}, {"color_jitter": 0.4}])
def test_every_part_of_the_augmentation_changes_images(option):
    torch.manual_seed(0)
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    off = {"crop_scale": 1.0, "flip": False, "color_jitter": 0.0}
    views = MaskedImageModelling(epochs=1, **off | option).views(8, (4, 4))
    assert any(not torch.equal(views(image)[0], image) for _ in range(20))


def test_some_steps_on_digits_lower_the_loss():
    task = built()
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    batch = Batch((digits(256),), torch.zeros(256))
    losses = []
    for _ in range(40):
        found = task(batch)
        losses.append(found["loss"].item())
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])

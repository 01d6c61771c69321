"""The task: what is predicted, from what, at which places; on a network small enough to see through."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from ood_core.data.selection import evaluation_view
from ood_core.data.transforms import random_flip
from ood_core.errors import OODError
from ood_core.interfaces import Batch, Network, PatchNetwork, Tokenizer, TokenMap, TrainingData
from ood_core.interfaces.building_blocks import uncovered
from ood_core.runtime import distributed
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_mim.mask import BlockMasks, ExactBlockMasks, fixed_masks
from ood_mim.pretext import MaskedImageModelling, TwoSizeCrop
from ood_mim.tokenizer import KMeansTokenizer, PatchDescriptor

from . import small_guessing
from .small_training import build_network, embeddings_tell_digits_better, losses_of, training_data


class Patches(PatchNetwork):
    """Patches of 2 x 2 see each other through one mixing layer."""

    def __init__(self, width=24):
        super().__init__()
        self.num_features, self.grid = width, (4, 4)
        self.embed = nn.Conv2d(3, width, 2, 2)
        self.mix = nn.Linear(16, 16)
        self.body = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.tied = False

    def tie_position_biases(self):
        self.tied = True

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


class Brightness(TokenMap):
    """A token is the mean of a patch in eighths, whatever the size; there are no pictures of them."""

    vocabulary = 9

    def forward(self, images):
        return (nn.functional.adaptive_avg_pool2d(images, 4).mean(1).flatten(1) * 8).round().long()


@dataclass(frozen=True, kw_only=True)
class TwiceAsLarge(Tokenizer):
    name = "twice"

    def view_size(self, image_size, grid):
        return grid[0] * 4

    def fit(self, data, grid):
        return Brightness()


def digits(count=1500):
    images = torch.tensor(load_digits().images[:count] / 16, dtype=torch.float32)
    return images.unsqueeze(1).repeat(1, 3, 1, 1)


DATA = TrainingData(classes=10, all_classes=10, image_size=8, sample=digits, tokenizer_weights=lambda _: {})
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


@pytest.mark.parametrize(("grid", "budget", "min_block"), GRIDS)
def test_exact_masks_add_single_patches_to_the_blocks_until_the_number_is_met(grid, budget, min_block):
    blocks = BlockMasks(grid, budget, min_block)
    torch.manual_seed(0)
    before = blocks.draw(500)
    torch.manual_seed(0)
    masks = ExactBlockMasks(blocks).draw(500)
    assert masks.shape == before.shape and masks.dtype == torch.bool
    assert (masks.sum(1) == budget).all()
    assert (masks | ~before).all()


def test_what_exact_masks_add_lies_anywhere(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(BlockMasks, "draw", lambda self, images, _: torch.arange(16).lt(4).repeat(images, 1))
    shares = ExactBlockMasks(BlockMasks((4, 4), 7, 1)).draw(3000).double().mean(0)
    assert (shares[:4] == 1).all()
    torch.testing.assert_close(shares[4:], torch.full((12,), 0.25, dtype=torch.float64), atol=0.04, rtol=0)


def test_the_recipe_says_which_masks():
    assert built().masks == BlockMasks((4, 4), 6, 1)
    assert built(replace(PRETEXT, masks="blockwise-exact")).masks == ExactBlockMasks(BlockMasks((4, 4), 6, 1))


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


def test_tokens_are_decoded_to_the_mean_patch_of_each():
    tokens, images = PRETEXT.tokenizer.fit(DATA, (4, 4)), digits(500)  # 8000 patches
    ids = tokens(images)
    sums, counts = torch.zeros(32, 3, 2, 2), [0] * 32
    for i in range(500):
        for j in range(16):
            top, left = 2 * (j // 4), 2 * (j % 4)
            sums[ids[i, j]] += images[i, :, top : top + 2, left : left + 2]
            counts[ids[i, j]] += 1
    decoded = tokens.decode(ids[:5])
    assert decoded.shape == (5, 3, 8, 8)
    for i in range(5):
        for j in range(16):
            top, left = 2 * (j // 4), 2 * (j % 4)
            mean = sums[ids[i, j]] / counts[ids[i, j]]
            torch.testing.assert_close(decoded[i, :, top : top + 2, left : left + 2], mean)


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


def test_the_mean_is_one_over_the_hidden_patches_of_all_processes(monkeypatch):
    task, images = built().double(), digits(6).double()
    losses, counts = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        counts.append(task.masks.draw(3).sum().item())
        torch.manual_seed(seed)
        losses.append(task(Batch((images[3 * seed - 3 : 3 * seed],), torch.zeros(3)))["loss"].item() * counts[-1])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda values: torch.tensor(sum(counts)))
    shares = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        shares.append(task(Batch((images[3 * seed - 3 : 3 * seed],), torch.zeros(3)))["loss"].item())
    assert sum(shares) / 2 == pytest.approx(sum(losses) / sum(counts), rel=1e-12)


def test_blocks_share_their_position_biases_in_pre_training():
    assert built().network.tied


def test_the_network_is_shown_the_first_view_and_the_tokenizer_the_second():
    task = built(replace(PRETEXT, tokenizer=TwiceAsLarge())).double()
    images, shown = torch.rand(5, 3, 8, 8).double(), torch.rand(5, 3, 16, 16).double()
    torch.manual_seed(5)
    found = task(Batch((images, shown), torch.zeros(5)))["loss"]
    torch.manual_seed(5)
    mask = task.masks.draw(5)
    logits = task.head(task.network.forward_masked(images, mask, task.mask_token)[mask])
    assert found.item() == pytest.approx(nn.functional.cross_entropy(logits, task.tokens(shown)[mask]).item())


@torch.no_grad()
def test_reconstructions_show_the_predicted_tokens_of_hidden_patches():
    task, images = built(), digits(9)
    torch.manual_seed(5)
    picture = task.pictures(Batch((images,), torch.zeros(9)))["reconstructions"]
    torch.manual_seed(5)
    mask = task.masks.draw(8)
    guesses = task.head(task.network.forward_masked(images[:8], mask, task.mask_token)).argmax(2)
    assert torch.equal(picture, uncovered(images[:8], task.tokens.decode(guesses), mask.view(8, 4, 4)))


@torch.no_grad()
def test_there_is_no_picture_of_tokens_that_cannot_be_decoded():
    task = built(replace(PRETEXT, tokenizer=TwiceAsLarge()))
    assert task.pictures(Batch((torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)), torch.zeros(2))) == {}


def test_the_mask_token_starts_small():
    assert 0.01 < built(network=Patches(width=600)).mask_token.std() < 0.03


def test_a_network_without_patches_is_refused():
    with pytest.raises(OODError, match="needs a backbone that works on patches, such as a ViT"):
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


def test_a_network_without_patches_gets_views_before_it_is_refused():
    (view,) = MaskedImageModelling(epochs=1, tokenizer=TwiceAsLarge()).views(8, None)(torch.zeros(3, 9, 9).byte())
    assert view.shape == (3, 8, 8)


def test_both_views_are_one_crop_bicubic_for_the_network_and_by_lanczos_for_the_tokenizer():
    prepare_torchvision()
    from torchvision.transforms import v2

    torch.manual_seed(0)
    image = torch.randint(256, (3, 60, 40), dtype=torch.uint8)
    pretext = MaskedImageModelling(epochs=1, tokenizer=TwiceAsLarge(), color_jitter=0.0, flip=False)
    views = pretext.views(24, (4, 4))
    for seed in range(5):
        torch.manual_seed(seed)
        network, tokenizer = views(image)
        torch.manual_seed(seed)
        top, left, height, width = v2.RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3])
        crop = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
        bicubic = torch.tensor(np.asarray(crop.resize((24, 24), Image.Resampling.BICUBIC))).permute(2, 0, 1)
        lanczos = torch.tensor(np.asarray(crop.resize((16, 16), Image.Resampling.LANCZOS))).permute(2, 0, 1)
        assert network.dtype == tokenizer.dtype == torch.uint8
        assert (network.int() - bicubic.int()).abs().max() <= 1  # torchvision rounds in another place
        assert torch.equal(tokenizer, lanczos)


def test_both_views_are_jittered_and_mirrored_alike_and_cropped_last():
    pretext = MaskedImageModelling(epochs=1, tokenizer=TwiceAsLarge())
    views = pretext.views(24, (4, 4))
    assert isinstance(views, TwoSizeCrop)
    jitter, flip = views.change.transforms
    assert type(jitter).__name__ == "ColorJitter" and flip is random_flip
    # dark on the left, bright on the right: mirrored or not, in both views or in none
    image = torch.linspace(0, 255, 64).byte().repeat(3, 64, 1)
    torch.manual_seed(0)
    rising = [[bool(view[0, :, -1].sum() > view[0, :, 0].sum()) for view in views(image)] for _ in range(40)]
    assert all(network == tokenizer for network, tokenizer in rising)
    assert 8 < sum(network for network, _ in rising) < 32


def test_without_a_crop_both_are_evaluation_views():
    image = torch.randint(256, (3, 60, 40), dtype=torch.uint8)
    options = {"tokenizer": TwiceAsLarge(), "crop_scale": 1.0, "flip": False, "color_jitter": 0.0}
    network, tokenizer = MaskedImageModelling(epochs=1, **options).views(24, (4, 4))(image)
    assert torch.equal(network, evaluation_view(image, 24))
    assert torch.equal(tokenizer, evaluation_view(image, 16))


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


# ---------------------------------------------------------------------------------------- how badly patches are guessed


@pytest.mark.parametrize(("grid", "budget", "min_block"), [*GRIDS, ((6, 6), 10, 10), ((8, 8), 57, 49)])
@pytest.mark.parametrize("exact", [False, True])
def test_fixed_masks_are_some_of_the_training_that_hide_every_patch(grid, budget, min_block, exact):
    blocks = BlockMasks(grid, budget, min_block)
    masks = ExactBlockMasks(blocks) if exact else blocks
    torch.manual_seed(0)
    found = fixed_masks(masks)
    torch.manual_seed(1)
    assert torch.equal(found, fixed_masks(masks))
    pool = masks.draw(256, torch.Generator().manual_seed(0))
    assert all((pool == mask).all(1).any() for mask in found)
    assert len(found) >= 8
    times, of_the_first = found.sum(0).double(), pool[:8].sum(0).double()
    assert times.min() >= 1
    assert times.std() / times.mean() < of_the_first.std() / of_the_first.mean()  # more evenly than any masks


def test_patches_that_no_mask_hides_are_hidden_in_a_further_one(monkeypatch):
    monkeypatch.setattr(BlockMasks, "draw", lambda self, images, _: torch.arange(16).lt(4).repeat(images, 1))
    masks = fixed_masks(BlockMasks((4, 4), 7, 1))
    assert len(masks) == 8 + 2
    assert masks[8:].sum(1).tolist() == [7, 7]
    assert masks.any(0).all()


def test_drawing_from_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    ExactBlockMasks(BlockMasks((8, 8), 25, 4)).draw(5, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


GUESSING = replace(PRETEXT, crop_scale=1.0, flip=False, color_jitter=0.0)


@pytest.fixture(scope="module")
def small():
    return small_guessing.trained(GUESSING)


def test_errors_are_a_function_of_the_image(small):
    small_guessing.check_errors_are_a_function_of_the_image(small.task)


def test_errors_are_cross_entropies_averaged_over_masks(small):
    task = small.task

    def cross_entropy(images, mask):
        encoded = task.network.forward_masked(images, mask.repeat(len(images), 1), task.mask_token)
        return -task.head(encoded).log_softmax(2).gather(2, task.tokens(images).unsqueeze(2)).squeeze(2)

    small_guessing.check_errors_are_means_over_masks(task, fixed_masks(task.masks), cross_entropy)


def test_a_restored_task_has_the_same_errors(small, tmp_path):
    small_guessing.check_a_restored_task_has_the_same_errors(small, tmp_path / "task.safetensors")


def test_restored_tokens_are_decoded_as_before(small):
    tokens, restored, images = small.task.tokens, small.restored().tokens, small_guessing.UNSEEN
    assert torch.equal(restored.decode(restored(images)), tokens.decode(tokens(images)))


def test_noise_is_guessed_worse_than_digits(small):
    small_guessing.check_noise_is_guessed_worse_than_digits(small)


@pytest.mark.parametrize("missing", ["head.1.bias", "tokens.half_norms"])
def test_tensors_of_another_task_are_refused(small, missing):
    small_guessing.check_other_tensors_are_refused(small, missing)


def test_another_vocabulary_is_refused(small):
    other = replace(small, pretext=replace(GUESSING, tokenizer=KMeansTokenizer(vocabulary=31)))
    with pytest.raises(OODError, match=r"pretext 'mim': .* tokens.centroids is \[32, 15\] instead of"):
        other.restored(small.state())


def test_an_empty_task_needs_patches():
    with pytest.raises(OODError, match="needs a backbone that works on patches"):
        GUESSING.build_empty(NoPatches(), 8)


def test_a_tokenizer_without_an_empty_map_leaves_errors_to_the_training_alone():
    pretext = replace(PRETEXT, tokenizer=TwiceAsLarge())
    assert built(pretext).eval().patch_errors(digits(3)).shape == (3, 4, 4)
    assert pretext.build_empty(Patches(), 8) is None


def test_the_tokenizer_is_shown_the_image_at_its_own_size(monkeypatch):
    task = built(replace(PRETEXT, tokenizer=TwiceAsLarge())).eval()
    shown = []
    monkeypatch.setattr(Brightness, "forward", lambda self, images: shown.append(images) or torch.ones(3, 16).long())
    images = digits(3)
    task.patch_errors(images)
    (found,) = shown
    assert found.shape == (3, 3, 16, 16) and 0 <= found.min() <= found.max() <= 1
    torch.testing.assert_close(nn.functional.avg_pool2d(found, 2), images, atol=0.25, rtol=0)


@pytest.mark.slow
def test_the_loss_falls_and_embeddings_tell_digits_better_than_random_ones():
    network = build_network()
    pretext = replace(PRETEXT, masks="blockwise-exact", crop_scale=1.0, flip=False, color_jitter=0.0)
    losses = losses_of(pretext.build(network, training_data()), pretext.views(8, network.grid), steps=300)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert embeddings_tell_digits_better(network)

"""The same scores up to rounding, whatever else passes: linear layers, networks, and every installed scorer."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ood_core.detector import batch_invariance as exactness
from ood_core.detector.batch_invariance import ExactLinear, exact
from ood_core.detector.forward import _scores, is_exact
from ood_core.detector.state import FittedScorer
from ood_core.evaluation.calibration import Calibration
from ood_core.pipeline import networks
from ood_core.plugins import find
from ood_core.testing import make_image_outputs, make_outputs

from ..contract.required import required

SCORERS = find().classes("scorer")


def close(found, expected):
    """Equal up to the rounding of float32, relative to the largest number."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("width", [3, 96, 768, 769, 3072])
def test_a_row_has_the_same_outputs_alone_and_among_others(width):
    """To the last bit: they are small whole numbers, which every order of summation adds up exactly."""
    torch.manual_seed(0)
    layer = nn.Linear(width, 40)
    for parameter in layer.parameters():
        parameter.data = torch.randint(-3, 4, parameter.shape).float()
    rows = torch.randint(-9, 10, (70, width)).float()
    expected = layer(rows)
    layer.__class__ = ExactLinear
    for size in (1, 2, 15, 16, 33, 70):
        assert torch.equal(torch.cat([layer(part) for part in rows.split(size)]), expected)
    assert torch.equal(layer(rows.view(7, 10, width)), expected.view(7, 10, 40))
    assert torch.equal(layer(rows[0]), expected[0])


@pytest.mark.parametrize("width", [3, 768, 769, 3072])
def test_products_have_no_few_rows_and_no_long_sums(width, monkeypatch):
    """The shapes for which libraries choose another order of summation."""
    shapes = []
    of_linear, of_addmm = exactness.linear, torch.addmm
    monkeypatch.setattr(exactness, "linear", lambda *given: shapes.append(given[0].shape) or of_linear(*given))
    monkeypatch.setattr(torch, "addmm", lambda *given: shapes.append(given[1].shape) or of_addmm(*given))
    layer = nn.Linear(width, 40)
    layer.__class__ = ExactLinear
    for count in (1, 15, 16, 33):
        layer(torch.rand(count, width))
    assert all(rows >= 16 and length <= 768 for rows, length in shapes)


@pytest.mark.parametrize(
    ("model", "options", "size"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4, "depth": 2}, 16),
        ("beit_base_patch16_224", {"patch_size": 8, "depth": 1}, 32),
        ("mixer_s32_224", {}, 64),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "num_heads": (3, 6)}, 56),
        ("resnet18", {}, 32),
    ],
)
def test_batches_change_the_outputs_of_networks_by_rounding_alone(plugins, model, options, size):
    backbone = plugins.get("backbone", "timm")(model=model, options=options)
    torch.manual_seed(0)
    network = networks.build(backbone, size, 5).eval().requires_grad_(False)
    images = torch.rand(17, 3, size, size)
    copied = exact(network)
    whole = copied(images)
    close(whole, network(images))
    for batch in (1, 3):
        close(torch.cat([copied(part) for part in images.split(batch)]), whole)


class Pixels(nn.Module):
    """Embeddings are the first row of pixels."""

    num_features = 4

    def forward_features(self, images):
        return images[:, 0, 0]

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else -features

    def parameters(self, recurse=True):
        yield nn.Parameter(torch.zeros(1))


def test_what_comes_of_each_image_alone_is_found_exact():
    assert is_exact(Pixels(), torch.rand(7, 3, 4, 4), logits=True)


def test_the_copy_shares_the_weights_and_leaves_the_original_alone(plugins):
    backbone = plugins.get("backbone", "timm")(model="vit_tiny_patch16_224", options={"depth": 1})
    network = networks.build(backbone, 32, 2)
    copied = exact(network)
    assert not any(isinstance(module, ExactLinear) for module in network.modules())
    assert any(isinstance(module, ExactLinear) for module in copied.modules())
    for one, other in zip(network.parameters(), copied.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()


def test_a_difference_that_only_large_batches_make_is_found_out():
    class Counting(Pixels):
        def forward_features(self, images):
            return images[:, 0, 0] + 1e-6 * (len(images) > 16)

    assert not is_exact(Counting(), torch.rand(7, 3, 4, 4), logits=True)


def test_a_network_that_looks_at_its_neighbours_is_found_out(plugins):
    backbone = plugins.get("backbone", "timm")(model="resnet18")
    network = networks.build(backbone, 64, 2).train()  # batch normalisation of the batch
    with torch.no_grad():
        assert not is_exact(network, torch.rand(6, 3, 64, 64), None)


# a scorer of each package
@pytest.mark.parametrize("name", {cls.__module__.partition(".")[0]: name for name, cls in SCORERS.items()}.values())
def test_an_image_has_the_same_score_whatever_others_it_is_scored_with(name):
    scorer = SCORERS[name](**required(SCORERS[name]))
    with_images = bool(scorer.all_needs() & {"layers", "network"})
    made = partial(make_image_outputs, scorer) if with_images else make_outputs
    torch.manual_seed(0)
    score = scorer.fit(made())
    of = FittedScorer(name, scorer, score, Calibration.of(torch.zeros(1).double().numpy()))
    test = made(seed=1).without_labels()
    rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:40]
    network, images = test.network, test.images
    plain = replace(test[rows], network=None, images=None)

    def scored(part):
        shown = torch.zeros(0) if images is None else images[rows][part]
        return _scores(of, network, plain[part], shown).tolist()

    def assert_close(found):
        np.testing.assert_allclose(found, whole, rtol=1e-9, atol=0)

    whole = scored(slice(None))
    assert_close(scored(torch.arange(39, -1, -1))[::-1])
    assert_close([scored(slice(row, row + 1))[0] for row in range(40)])
    assert_close([value for start in range(0, 40, 7) for value in scored(slice(start, start + 7))])

"""The same bits, whatever else passes: linear layers, networks, and every installed scorer."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from ood_core import network as networks
from ood_core.calibration import Calibration
from ood_core.detector.exact import ExactLinear, exact
from ood_core.detector.parts import FittedScorer
from ood_core.detector.passage import _scores, is_exact
from ood_core.plugins import find
from ood_core.testing import make_image_outputs, make_outputs

from ..contract.required import required

SCORERS = find().classes("scorer")


@pytest.mark.parametrize("width", [3, 96, 768, 769, 3072])
def test_a_row_has_the_same_bits_alone_and_among_others(width):
    torch.manual_seed(0)
    layer = nn.Linear(width, 40)
    rows = torch.randn(70, width)
    expected = layer(rows)
    layer.__class__ = ExactLinear
    found = layer(rows)
    assert torch.allclose(found, expected, atol=1e-5)
    for size in (1, 2, 15, 16, 33):
        assert torch.equal(torch.cat([layer(part) for part in rows.split(size)]), found)
    assert torch.equal(layer(rows.view(7, 10, width)), found.view(7, 10, 40))
    assert torch.equal(layer(rows[0]), found[0])


@pytest.mark.parametrize(
    ("model", "options", "size"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4, "depth": 2}, 16),
        ("beit_base_patch16_224", {"patch_size": 8, "depth": 1}, 32),
        ("mixer_s32_224", {}, 64),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "num_heads": (3, 6)}, 56),
    ],
)
def test_networks_are_exact(plugins, model, options, size):
    backbone = plugins.get("backbone", "timm")(model=model, options=options)
    torch.manual_seed(0)
    network = networks.build(backbone, size, 5).eval().requires_grad_(False)
    images = torch.rand(17, 3, size, size)
    copied = exact(network)
    head = networks.head_of(copied)
    assert is_exact(copied, images, head)
    assert torch.allclose(copied(images), network(images), atol=1e-5)


def test_the_copy_shares_the_weights_and_leaves_the_original_alone(plugins):
    backbone = plugins.get("backbone", "timm")(model="vit_tiny_patch16_224", options={"depth": 1})
    network = networks.build(backbone, 32, 2)
    copied = exact(network)
    assert not any(isinstance(module, ExactLinear) for module in network.modules())
    assert any(isinstance(module, ExactLinear) for module in copied.modules())
    for one, other in zip(network.parameters(), copied.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()


def test_a_network_that_looks_at_its_neighbours_is_found_out(plugins):
    backbone = plugins.get("backbone", "timm")(model="resnet18")
    network = networks.build(backbone, 64, 2).train()  # batch normalisation of the batch
    with torch.no_grad():
        assert not is_exact(network, torch.rand(6, 3, 64, 64), None)


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_gives_an_image_the_same_bits_whatever_others_it_is_scored_with(name):
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

    whole = scored(slice(None))
    assert scored(torch.arange(39, -1, -1))[::-1] == whole
    assert [scored(slice(row, row + 1))[0] for row in range(40)] == whole
    assert [value for start in (0, 7, 14, 21, 28, 35) for value in scored(slice(start, start + 7))] == whole

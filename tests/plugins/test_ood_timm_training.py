"""What training asks of a timm network: depths of layers, dropped paths, hidden patches, positions."""

import math

import pytest
import torch

from ood_core.errors import OODError
from ood_core.interfaces.building_blocks import sines_and_cosines
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_timm.backbone import Timm

prepare_torchvision()
import timm  # noqa: E402 - only after that
from timm.layers import DropPath  # noqa: E402
from timm.optim import param_groups_layer_decay  # noqa: E402

SMALL = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
VIT, BEIT = "vit_tiny_patch16_224", "beit_base_patch16_224"


def build(model=VIT, size=16, classes=5, **options):
    torch.manual_seed(0)
    return Timm(model=model, options=SMALL | options).build(size, classes)


def images(count=2, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", [VIT, BEIT])
def test_depths_are_the_layers_of_the_paper(model):
    depths = build(model, global_pool="avg").parameter_depths()
    for name, depth in depths.items():
        if "blocks." in name:
            assert depth == int(name.split(".")[2]) + 1
        elif "head" in name or "fc_norm" in name:
            assert depth == 4
        else:
            assert depth == 0, name
    assert {"model.head.weight", "model.fc_norm.weight", "model.patch_embed.proj.weight"} <= depths.keys()


@pytest.mark.parametrize("model", [VIT, BEIT])
def test_factors_are_those_of_timm(model):
    network = build(model)
    depths = network.parameter_depths()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in param_groups_layer_decay(network.model, layer_decay=0.7):
        for parameter in group["params"]:
            assert 0.7 ** (4 - depths[names[id(parameter)]]) == pytest.approx(group["lr_scale"])


def test_tokens_positions_and_tables_do_not_decay():
    assert {"model.pos_embed", "model.cls_token"} <= build().undecayed()
    assert "model.blocks.1.attn.relative_position_bias_table" in build(BEIT).undecayed()


def rates(network):
    return {name: module.drop_prob for name, module in network.named_modules() if isinstance(module, DropPath)}


@pytest.mark.parametrize("model", [VIT, BEIT])
def test_paths_are_dropped_as_in_a_model_made_that_way(model):
    network = build(model)
    network.set_drop_path(0.4)
    made = build(model, drop_path_rate=0.4)
    assert rates(network) == pytest.approx(rates(made))
    assert sorted(set(rates(network).values())) == pytest.approx([0.2, 0.4])


def test_a_rate_of_zero_leaves_the_option_of_the_backbone():
    network = build(drop_path_rate=0.4)
    before = rates(network)
    network.set_drop_path(0)
    assert rates(network) == before != {}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("swin_tiny_patch4_window7_224", {"window_size": 2, "embed_dim": 8, "num_heads": (1, 1, 2, 2)}),
        ("convnext_atto", {"dims": (8, 8, 8, 8)}),
        ("resnetv2_50x1_bit", {"channels": [128] * 4}),
        ("test_resnet", {}),
    ],
)
def test_other_families_drop_theirs_as_timm_does(model, options):
    ours, theirs = (Timm(model=model, options=options | rate).build(64, 2) for rate in ({}, {"drop_path_rate": 0.3}))
    ours.set_drop_path(0.3)
    assert rates(ours) == pytest.approx(rates(theirs))
    assert len(rates(ours)) > 2


def test_all_three_branches_of_an_xcit_are_dropped():
    options = {"depth": 2, "embed_dim": 16, "num_heads": 2}
    network = Timm(model="xcit_nano_12_p16_224", options=options).build(32, 2)
    network.set_drop_path(0.3)
    assert {f"model.blocks.1.drop_path{branch}" for branch in (1, 2, 3)} <= rates(network).keys()


def test_a_network_without_branches_cannot_drop_paths():
    network = Timm(model="dla46_c").build(32, 2)
    network.set_drop_path(0)
    with pytest.raises(OODError, match="this backbone cannot drop paths; leave 'drop_path' at 0"):
        network.set_drop_path(0.1)


@pytest.mark.parametrize("model", [VIT, BEIT])
def test_checkpointing_changes_no_gradient(model):
    plain, checkpointing = build(model).train(), build(model).train()
    checkpointing.set_gradient_checkpointing()
    runs = []
    checkpointing.model.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    for network in (plain, checkpointing):
        network(images()).square().sum().backward()
    assert len(runs) == 2
    torch.testing.assert_close(plain(images()), checkpointing(images()))
    for one, other in zip(plain.parameters(), checkpointing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_network_that_keeps_activations_says_so():
    with pytest.raises(OODError, match="cannot checkpoint gradients; leave 'gradient_checkpointing' at false"):
        Timm(model="dla46_c").build(32, 2).set_gradient_checkpointing()


# ------------------------------------------------------------------------------------------------- visible patches


@pytest.mark.parametrize("options", [{}, {"global_pool": "avg", "class_token": False}, {"reg_tokens": 2}])
def test_all_patches_visible_give_the_ordinary_tokens(options):
    network = build(**options).eval()
    every = torch.arange(16).expand(2, -1)
    expected = network.forward_features(images())[:, -16:]
    torch.testing.assert_close(network.forward_visible(images(), every), expected)


def test_what_is_not_visible_has_no_say_and_order_is_kept():
    network = build().eval()
    visible = torch.tensor([[3, 0, 9], [15, 4, 5]])
    tokens = network.forward_visible(images(), visible)
    assert tokens.shape == (2, 3, 16)
    hidden = images().clone()
    hidden[0, :, 4:8, 4:8] = 0  # patch 5, hidden in the first image, visible in the second
    hidden[1, :, 4:8, 4:8] = 0
    changed = network.forward_visible(hidden, visible)
    torch.testing.assert_close(changed[0], tokens[0])
    assert not torch.allclose(changed[1], tokens[1])
    swapped = network.forward_visible(images(), visible[:, [1, 0, 2]])
    torch.testing.assert_close(swapped[:, [1, 0, 2]], tokens)


@pytest.mark.parametrize("model", [BEIT, "mixer_s32_224"])
def test_networks_that_need_all_patches_say_so(model):
    network = build(model) if model == BEIT else Timm(model=model, options={}).build(64, 2)
    with pytest.raises(OODError, match="cannot leave patches out; choose a ViT with absolute positions"):
        network.forward_visible(images(size=16 if model == BEIT else 64), torch.zeros(2, 1, dtype=torch.long))


# ------------------------------------------------------------------------------------------------------ positions


def test_tied_tables_are_one_shared_table():
    network = build(BEIT)
    table = network.model.blocks[0].attn.relative_position_bias_table
    torch.nn.init.normal_(table)
    network.tie_position_biases()
    options = SMALL | {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}
    shared = timm.create_model(BEIT, img_size=16, num_classes=5, **options)
    state = {n: t for n, t in network.model.state_dict().items() if "relative_position" not in n}
    state["rel_pos_bias.relative_position_bias_table"] = table.detach()
    shared.load_state_dict(state, strict=False)
    normalised = (images() - network.mean) / network.std
    torch.testing.assert_close(network(images()), shared(normalised))
    network(images()).square().sum().backward()
    shared(normalised).square().sum().backward()
    torch.testing.assert_close(table.grad, shared.rel_pos_bias.relative_position_bias_table.grad)


def test_tied_tables_come_apart_where_weights_are_loaded_again():
    tied, fresh = build(BEIT), build(BEIT)
    tied.tie_position_biases()
    names = [name for name, _ in tied.named_parameters() if "bias_table" in name]
    assert len(names) == 1
    torch.nn.init.normal_(tied.get_parameter(names[0]))
    fresh.load_state_dict(tied.state_dict())
    tables = [block.attn.relative_position_bias_table for block in fresh.model.blocks]
    assert len({id(table) for table in tables}) == 3
    assert all(torch.equal(table, tied.get_parameter(names[0])) for table in tables)


def slow_positions(grid, width):
    rows = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            quarter = [10_000 ** (-i / (width / 4)) for i in range(width // 4)]
            entry = [math.sin(column * rate) for rate in quarter] + [math.cos(column * rate) for rate in quarter]
            rows.append(entry + [math.sin(row * rate) for rate in quarter] + [math.cos(row * rate) for rate in quarter])
    return torch.tensor(rows)


def test_fixed_positions_are_sines_and_cosines():
    torch.testing.assert_close(sines_and_cosines((3, 5), 16), slow_positions((3, 5), 16))
    with pytest.raises(OODError, match="multiple of 4, this backbone has 18"):
        sines_and_cosines((2, 2), 18)


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, 1),
        ({"class_token": False, "global_pool": "avg"}, 0),
        ({"reg_tokens": 2}, 3),
        ({"reg_tokens": 2, "no_embed_class": True}, 0),
    ],
)
def test_positions_are_fixed_and_zero_for_the_class_token(options, prefix):
    network = build(**options)
    network.fix_positions()
    positions = network.model.pos_embed
    assert not positions.requires_grad
    assert (positions[0, :prefix] == 0).all()
    torch.testing.assert_close(positions[0, prefix:], slow_positions((4, 4), 16))


def test_without_absolute_positions_nothing_is_fixed():
    network = build(BEIT)
    network.fix_positions()
    assert all(parameter.requires_grad for parameter in network.parameters())

"""One model of every family, tiny, through everything the core asks of a network."""

import pytest
import torch
from safetensors.torch import save_file

from ood_core.errors import OODError
from ood_core.interfaces import PatchNetwork
from ood_timm.backbone import Timm

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3}
FAMILIES = {
    "vit": (Timm(model="vit_tiny_patch16_224", options=TINY | {"patch_size": 4}), 16, 24, (4, 4)),
    "beit": (Timm(model="beit_base_patch16_224", options=TINY | {"patch_size": 4}), 16, 24, (4, 4)),
    "mixer": (Timm(model="mixer_s16_224"), 64, 512, (4, 4)),
    "hybrid": (Timm(model="vit_tiny_r_s16_p8_224", options=TINY), 64, 24, (2, 2)),
    "resnet": (Timm(model="resnet10t"), 32, 512, None),
    "bit": (Timm(model="resnetv2_50x1_bit", options={"channels": [128] * 4}), 64, 128, None),
}
PATCH_FAMILIES = [name for name, (_, _, _, grid) in FAMILIES.items() if grid]
VIT, SIZE, WIDTH, _ = FAMILIES["vit"]


def built(family, classes=5):
    backbone, size, _, _ = FAMILIES[family]
    torch.manual_seed(0)
    return backbone.build(size, classes), torch.rand(3, 3, size, size)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_embeddings_and_logits_of_its_shape(family):
    network, images = built(family)
    network.eval()
    embeddings = network.forward_head(network.forward_features(images), pre_logits=True)
    weight = network.get_classifier().weight.flatten(1)
    assert network.num_features == FAMILIES[family][2]
    assert embeddings.shape == (3, network.num_features)
    assert weight.shape == (5, network.num_features)
    torch.testing.assert_close(network(images), embeddings @ weight.T + network.get_classifier().bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_forward_pass_is_that_of_timm_on_normalised_images(family):
    network, images = built(family)
    network.eval()
    config = network.model.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(network(images), network.model((images - mean) / std), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(family):
    network, images = built(family)
    torch.nn.init.normal_(network.get_classifier().weight)  # BiT starts with a classifier of zeros
    network(images).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_go_round_through_the_state_dict(family):
    first, images = built(family)
    second = FAMILIES[family][0].build(images.shape[-1], 5)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.eval()(images), first.eval()(images), rtol=0, atol=0)
    assert not {"mean", "std"} & first.state_dict().keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reset_classifier_has_the_new_number_of_outputs(family):
    network, images = built(family)
    network.reset_classifier(7)
    assert network(images).shape == (3, 7)


def test_evaluation_is_deterministic_where_training_is_not():
    network = Timm(model=VIT.model, options=VIT.options | {"drop_path_rate": 0.5}).build(SIZE, 5)
    images = torch.rand(8, 3, SIZE, SIZE)
    assert not torch.equal(network(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


def test_without_a_number_of_classes_the_head_is_that_of_the_model():
    assert len(VIT.build(SIZE, None).get_classifier().weight) == 1000


def test_equal_seeds_give_equal_weights():
    first, second = built("vit")[0].state_dict(), built("vit")[0].state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# --------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize("family", FAMILIES)
def test_just_the_models_with_patches_are_patch_networks(family):
    network, _ = built(family)
    assert isinstance(network, PatchNetwork) == (family in PATCH_FAMILIES)
    assert getattr(network, "grid", None) == FAMILIES[family][3]


@pytest.mark.parametrize("family", PATCH_FAMILIES)
def test_masking_nothing_gives_the_plain_tokens(family):
    network, images = built(family)
    network.eval()
    length = network.grid[0] * network.grid[1]
    masked = network.forward_masked(images, torch.zeros(3, length, dtype=torch.bool), torch.ones(network.num_features))
    torch.testing.assert_close(masked, network.forward_features(images)[:, -length:], rtol=0, atol=0)


@pytest.mark.parametrize("family", PATCH_FAMILIES)
def test_the_mask_token_stands_for_just_the_hidden_patches(family):
    network, images = built(family)
    network.eval()
    length = network.grid[0] * network.grid[1]
    mask = torch.zeros(3, length, dtype=torch.bool)
    mask[:, 1] = True
    seen = []
    network.model.get_submodule("blocks.0").register_forward_pre_hook(lambda _layer, args: seen.append(args[0]))
    network.forward_features(images)
    network.forward_masked(images, mask, torch.full((network.num_features,), 9.0))
    changed = (seen[0] != seen[1]).any(2)[:, -length:]
    assert torch.equal(changed, mask)
    plain, patches = seen[0][:, -length:][mask], network.patch_projection()((images - network.mean) / network.std)
    hidden = seen[1][:, -length:][mask] - (plain - patches[mask])  # what remains without the position information
    torch.testing.assert_close(hidden, torch.full_like(hidden, 9.0))


def test_the_model_is_as_before_after_a_masked_pass_that_failed():
    network, images = built("vit")
    network.eval()
    before = network(images)
    with pytest.raises(RuntimeError):
        network.forward_masked(images, torch.ones(3, 5, dtype=torch.bool), torch.ones(WIDTH))
    assert torch.equal(network(images), before)


def test_the_patch_projection_makes_the_patch_embeddings():
    network, images = built("hybrid")
    assert network.patch_projection()(images).shape == (3, 4, WIDTH)


def test_a_model_that_drops_patches_is_no_patch_network():
    dropping = Timm(model=VIT.model, options=VIT.options | {"patch_drop_rate": 0.5})
    assert not isinstance(dropping.build(SIZE, 5), PatchNetwork)


# --------------------------------------------------------------------------------------------------- weights


def save(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_come_from_a_file(tmp_path, name):
    network, images = built("vit")
    save(tmp_path / name, network.model.state_dict())
    loaded = Timm(model=VIT.model, options=VIT.options, weights=tmp_path / name).build(SIZE, None)
    assert torch.equal(loaded.eval()(images), network.eval()(images))


@pytest.mark.parametrize("family", ["resnet", "bit"])
def test_weights_of_networks_without_patches_come_from_a_file(tmp_path, family):
    network, images = built(family)
    save_file(network.model.state_dict(), tmp_path / "w.safetensors")
    backbone = FAMILIES[family][0]
    loaded = Timm(model=backbone.model, options=backbone.options, weights=tmp_path / "w.safetensors")
    assert torch.equal(loaded.build(images.shape[-1], 5).eval()(images), network.eval()(images))


def test_a_file_with_another_classifier_gives_all_but_the_classifier(tmp_path):
    network, images = built("vit", classes=9)
    save_file(network.model.state_dict(), tmp_path / "w.safetensors")
    loaded = Timm(model=VIT.model, options=VIT.options, weights=tmp_path / "w.safetensors").build(SIZE, 5)
    assert loaded(images).shape == (3, 5)
    assert torch.equal(loaded.eval().forward_features(images), network.eval().forward_features(images))


def test_a_file_without_a_classifier_gets_a_fresh_one(tmp_path):
    network, images = built("vit")
    state = {key: value for key, value in network.model.state_dict().items() if not key.startswith("head.")}
    save_file(state, tmp_path / "w.safetensors")
    loaded = Timm(model=VIT.model, options=VIT.options, weights=tmp_path / "w.safetensors").build(SIZE, 5)
    assert loaded(images).shape == (3, 5)


@pytest.mark.parametrize(("classes", "fresh"), [(None, ()), (1000, ()), (5, ("head",))])
def test_the_head_of_downloaded_weights_is_fresh_for_other_classes(monkeypatch, classes, fresh):
    made = VIT.build(SIZE, classes).model
    monkeypatch.setattr("ood_timm.backbone.create", lambda *_: made)
    assert Timm(model=VIT.model, options=VIT.options, pretrained=True).build(SIZE, classes).fresh == fresh


def test_a_partial_checkpoint_is_refused_with_a_short_list_of_what_is_missing(tmp_path):
    network, _ = built("vit")
    state = {key: value for key, value in network.model.state_dict().items() if "blocks" not in key}
    save_file(state | {"odd": torch.ones(1)}, tmp_path / "w.safetensors")
    backbone = Timm(model=VIT.model, options=VIT.options, weights=tmp_path / "w.safetensors")
    with pytest.raises(OODError, match=r"do not fit timm model.*Missing key.*blocks\.0.*Unexpected key.*odd") as caught:
        backbone.build(SIZE, 5)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_a_checkpoint_of_another_width_is_refused(tmp_path):
    save_file(built("vit")[0].model.state_dict(), tmp_path / "w.safetensors")
    wider = Timm(model=VIT.model, options=VIT.options | {"embed_dim": 48}, weights=tmp_path / "w.safetensors")
    with pytest.raises(OODError, match="do not fit timm model 'vit_tiny_patch16_224': size mismatch"):
        wider.build(SIZE, 5)


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pt"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(OODError, match=f"{name}' are neither safetensors nor a plain state dict"):
        Timm(model=VIT.model, options=VIT.options, weights=tmp_path / name).build(SIZE, 5)


def test_a_pickle_is_not_executed(tmp_path):
    torch.save({"head": pytest.raises}, tmp_path / "evil.pt")
    with pytest.raises(OODError, match="neither safetensors nor a plain state dict"):
        Timm(model=VIT.model, options=VIT.options, weights=tmp_path / "evil.pt").build(SIZE, 5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OODError, match=r"no file '.*absent.pt'"):
        Timm(model=VIT.model, options=VIT.options, weights=tmp_path / "absent.pt").build(SIZE, 5)


# -------------------------------------------------------------------------------------------------- mistakes

MISTAKES = [
    ("vit_tiny_patch16_225", {}, r"no timm model 'vit_tiny_patch16_225'\. Did you mean 'vit_tiny_patch16_224'\?"),
    ("resnet18.nobody", {}, r"no timm model 'resnet18.nobody'\. Did you mean 'resnet18"),
    ("vit_tiny_patch16_224", {"embd_dim": 24}, r"has no option 'embd_dim'\. Did you mean 'embed_dim'\?"),
    ("mixer_b16_224", {"patch_size": 8}, "sets the option 'patch_size' itself; leave it out, or choose another model"),
    ("vit_tiny_patch16_224", {"num_heads": 7}, "cannot build 'vit_tiny_patch16_224' at .* pixels with these options"),
    ("vit_tiny_patch16_224", {"global_pool": "sum"}, "with these options: Only avg"),
    ("vit_tiny_patch16_224", {"global_pool": ""}, "must pool its features to one vector an image"),
    ("vit_tiny_patch16_224", {"num_classes": 3}, "leave 'num_classes' out of the options"),
    ("vit_tiny_patch16_224", {"embed_dim": 10**10}, "option 'embed_dim' is larger than 100000"),
    ("resnet18", {"layers": [2, {"n": 10**10}]}, "more than 1000 layers"),
    ("swin_tiny_patch4_window7_224", {"patch_size": 0}, "with these options: ZeroDivisionError: integer division"),
    ("swin_tiny_patch4_window7_224", {"num_heads": [1, 2]}, "with these options: IndexError: list index out of range"),
    ("swin_tiny_patch4_window7_224", {"num_heads": {}}, "with these options: KeyError: 0"),
    ("mixer_s16_224", {"drop_path_rate": 10**400}, "option 'drop_path_rate' is larger than 100000"),
    ("vit_tiny_patch16_224", {"depth": 10**12}, "'depth' is 1000000000000, more than 1000 layers"),
    ("resnet18", {"layers": [2, 2, 10**12, 2]}, r"'layers' is \[2, 2, 1000000000000, 2\], more than 1000 layers"),
    ("caformer_s18", {}, "has a MlpHead for a classifier, not one linear layer"),
]


@pytest.mark.parametrize(("model", "options", "message"), MISTAKES)
def test_mistakes_are_told_before_the_run_and_by_build_alike(model, options, message):
    with pytest.raises(OODError, match=message) as caught:
        Timm(model=model, options=options).check()
    assert "\n" not in str(caught.value)
    with pytest.raises(OODError, match=message):
        Timm(model=model, options=options).build(32, 5)


@pytest.mark.parametrize("size", [15, 18])
def test_an_image_size_that_patches_do_not_divide_is_refused(size):
    with pytest.raises(OODError, match=f"the image size {size} is not a multiple of the patch size 4"):
        VIT.build(size, 5)


def test_two_sources_of_weights_are_refused(tmp_path):
    with pytest.raises(OODError, match="'pretrained' and 'weights' both set the initial weights"):
        Timm(model=VIT.model, pretrained=True, weights=tmp_path / "w.pt").check()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_backbone_passes_the_check(family):
    FAMILIES[family][0].check()


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_those_that_timm_lists_and_a_probe_can_read_them(family):
    network, images = built(family)
    modules = dict(network.named_modules())
    outputs = {}
    for name in network.layer_names():
        modules[name].register_forward_hook(lambda _m, _i, output, name=name: outputs.update({name: output}))
    network.eval().forward_features(images)
    assert len(outputs) == len(network.layer_names()) >= 2
    assert all(output.ndim in (3, 4) and len(output) == 3 for output in outputs.values())


def test_the_layers_of_a_vit_are_its_blocks_and_of_a_resnet_its_stages():
    assert built("vit")[0].layer_names() == ("model.blocks.0", "model.blocks.1")
    assert built("resnet")[0].layer_names()[1:] == tuple(f"model.layer{stage}" for stage in (1, 2, 3, 4))


@pytest.mark.parametrize("outputs", [0, 5])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}),
        ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "global_pool": "avg"}),
        ("beit_base_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}),
        ("mixer_s32_224", {}),
        ("resnet10t", {}),
        ("resnetv2_50x1_bit", {"channels": [128] * 4}),
        ("convnext_atto", {}),
    ],
)
def test_an_empty_network_takes_the_weights_of_one_built_from_a_file(tmp_path, model, options, outputs):
    plain = Timm(model=model, options=options)
    state = plain.build(32, outputs).model.state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "weights.safetensors")
    backbone = Timm(model=model, options=options, weights=tmp_path / "weights.safetensors")
    built = backbone.build(32, 3).eval()
    (tmp_path / "weights.safetensors").unlink()
    empty = backbone.build_empty(32, 3).eval()
    empty.load_state_dict(built.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(empty(images), built(images))

"""Checkpoints in the layouts that their authors published, each written from a tiny model and read back."""

import gc
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from ood_core.errors import OODError
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_timm.backbone import Timm
from ood_timm.checkpoint import read

prepare_torchvision()
from timm.layers import resize_rel_pos_bias_table  # noqa: E402 - only after that

VIT, BEIT, SIZE, DEPTH = "vit_tiny_patch16_224", "beit_base_patch16_224", 16, 2
SMALL = {"patch_size": 4, "embed_dim": 16, "depth": DEPTH, "num_heads": 2}
SHARED = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "global_pool": "token"}


def backbone(model, weights=None, **options):
    return Timm(model=model, options=SMALL | options, weights=weights)


def source(model, classes=0, **options):
    """Return a network all of whose weights are random, also those that usually start at zero or one."""
    torch.manual_seed(3)
    network = backbone(model, **options).build(SIZE, classes).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def load(path, model, classes=None, size=SIZE, **options):
    return backbone(model, path, **options).build(size, classes).eval()


def images():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def prefixed(prefix, state):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def index(state):
    """Add the tables' indices, which timm keeps out of its files and BEiT does not."""
    tables = [key for key in state if key.endswith("relative_position_bias_table")]
    return state | {key.replace("bias_table", "index"): torch.zeros(17, 17, dtype=torch.long) for key in tables}


# --------------------------------------------------------------------------------------- the layouts, as published


def beit_pretraining(state):
    extra = {"mask_token": torch.ones(1, 1, 16), "lm_head.weight": torch.ones(32, 16), "lm_head.bias": torch.ones(32)}
    return {"model": index(state | extra), "args": Namespace(lr=1.0)}


def beit_v2_pretraining(state):
    layers = {"cls_pt_layers.0.gamma_1": torch.ones(16), "cls_pt_layers.1.attn.qkv.weight": torch.ones(48, 16)}
    return {"model": beit_pretraining(state)["model"] | layers}


def mocov3(state):
    head = {"head.0.weight": torch.ones(8, 16), "head.1.running_mean": torch.ones(8)}
    names = prefixed("base_encoder.", state | head) | prefixed("momentum_encoder.", state | head)
    names |= {"predictor.0.weight": torch.ones(8, 8)}
    return {"state_dict": prefixed("module.", names), "epoch": 300, "arch": "vit_small", "optimizer": {"state": {}}}


def mae(state):
    decoder = {"decoder_pos_embed": torch.ones(1, 17, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    return {"model": state | decoder | {"mask_token": torch.ones(1, 1, 8), "decoder_pred.bias": torch.ones(48)}}


def dino(state):
    head = {"head.mlp.0.weight": torch.ones(8, 16), "head.last_layer.weight_g": torch.ones(9, 1)}
    teacher = prefixed("backbone.", state) | head
    student = prefixed("module.", prefixed("backbone.", {key: tensor + 1 for key, tensor in state.items()}) | head)
    return {"student": student, "teacher": teacher, "epoch": 100, "args": Namespace(arch="vit_small")}


def dino_student(state):
    return {"student": dino({key: tensor - 1 for key, tensor in state.items()})["student"]}


LAYOUTS = {
    "beit": (beit_pretraining, BEIT, SHARED),
    "beit v2": (beit_v2_pretraining, BEIT, SHARED),
    "moco v3": (mocov3, VIT, {}),
    "mae": (mae, VIT, {}),
    "mae encoder": (lambda state: {"model": state}, VIT, {}),
    "dino": (dino, VIT, {}),
    "dino student": (dino_student, VIT, {}),
    "dino backbone": (dict, VIT, {}),
}


def written(path, layout, changed=dict):
    """Write a checkpoint of pre-training, changed before it is put into its layout, and return the source."""
    publish, model, options = LAYOUTS[layout]
    network = source(model, **options)
    torch.save(publish(changed(network.model.state_dict())), path)
    return network


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_checkpoint_gives_its_features_and_a_fresh_head(tmp_path, layout):
    network = written(tmp_path / "w.pth", layout)
    loaded = load(tmp_path / "w.pth", LAYOUTS[layout][1], classes=5, global_pool="token")
    expected = network.forward_features(images())
    torch.testing.assert_close(loaded.forward_features(images()), expected)
    assert loaded(images()).shape == (2, 5)
    assert loaded.fresh == ("head",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_patches_are_averaged_the_norm_behind_is_fresh(tmp_path, layout):
    network = written(tmp_path / "w.pth", layout)
    loaded = load(tmp_path / "w.pth", LAYOUTS[layout][1], classes=5, global_pool="avg")
    expected = network.forward_features(images())
    torch.testing.assert_close(network.model.norm(loaded.forward_features(images())), expected)
    assert (loaded.model.fc_norm.weight == 1).all() and (loaded.model.fc_norm.bias == 0).all()
    assert loaded.fresh == ("fc_norm", "head")


def test_pretraining_without_a_norm_leaves_that_of_the_averaged_patches_fresh(tmp_path):
    written(
        tmp_path / "w.pth", "beit v2", lambda state: {key: state[key] for key in state if not key.startswith("norm.")}
    )
    assert load(tmp_path / "w.pth", BEIT).fresh == ("fc_norm",)


def test_a_fine_tuned_beit_that_lost_its_head_keeps_its_norm(tmp_path):
    network = source(BEIT)
    torch.save({"model": network.model.state_dict()}, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth", BEIT, classes=5)
    assert torch.equal(loaded.model.fc_norm.weight, network.model.fc_norm.weight)
    assert loaded.fresh == ("head",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_classes_a_pretrained_network_has_no_classifier(tmp_path, layout):
    written(tmp_path / "w.pth", layout)
    loaded = load(tmp_path / "w.pth", LAYOUTS[layout][1], global_pool="token")
    assert isinstance(loaded.get_classifier(), torch.nn.Identity)
    assert loaded.fresh == ()


@pytest.mark.parametrize("wrapper", [None, "model", "module", "model_ema"])
def test_fine_tuned_beit_gives_its_logits(tmp_path, wrapper):
    network = source(BEIT, classes=7)
    state = index(network.model.state_dict())
    torch.save({wrapper: state} if wrapper else state, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth", BEIT)
    torch.testing.assert_close(loaded(images()), network(images()))
    assert loaded.fresh == ()
    assert load(tmp_path / "w.pth", BEIT, classes=7).fresh == ()
    assert load(tmp_path / "w.pth", BEIT, classes=5).fresh == ("head",)


def test_moco_v3_of_a_resnet_is_read(tmp_path):
    torch.manual_seed(0)
    network = Timm(model="resnet10t").build(32, 0).eval()
    encoder = prefixed("module.base_encoder.", network.model.state_dict() | {"fc.0.weight": torch.ones(8, 512)})
    torch.save({"state_dict": encoder}, tmp_path / "w.pth.tar")
    loaded = Timm(model="resnet10t", weights=tmp_path / "w.pth.tar").build(32, 3).eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.forward_features(x), network.forward_features(x))
    assert loaded.fresh == ("fc",)


def test_published_tensors_are_read_from_safetensors_too(tmp_path):
    network = source(BEIT, **SHARED)
    save_file(beit_pretraining(network.model.state_dict())["model"], tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors", BEIT, global_pool="token")
    torch.testing.assert_close(loaded.forward_features(images()), network.forward_features(images()))


# ----------------------------------------------------------------------------------------------------- image sizes


def test_every_block_gets_its_resized_copy_of_the_shared_table(tmp_path):
    network = written(tmp_path / "w.pth", "beit")
    shared = network.model.rel_pos_bias.relative_position_bias_table
    loaded = load(tmp_path / "w.pth", BEIT, size=24)
    tables = [block.attn.relative_position_bias_table for block in loaded.model.blocks]
    expected = resize_rel_pos_bias_table(shared.detach(), (6, 6), (11 * 11 + 3, 2))
    assert all(torch.equal(table, expected) for table in tables)
    assert len({table.data_ptr() for table in tables}) == DEPTH
    torch.testing.assert_close(tables[0][-3:], shared[-3:])


def test_a_model_that_shares_its_table_gets_it_shared(tmp_path):
    network = written(tmp_path / "w.pth", "beit")
    loaded = load(tmp_path / "w.pth", BEIT, **SHARED)
    torch.testing.assert_close(loaded.forward_features(images()), network.forward_features(images()))


def test_positions_of_a_mae_are_resampled(tmp_path):
    network = written(tmp_path / "w.pth", "mae")
    loaded = load(tmp_path / "w.pth", VIT, size=24)
    assert loaded.model.pos_embed.shape == (1, 37, 16)
    torch.testing.assert_close(loaded.model.pos_embed[:, 0], network.model.pos_embed[:, 0])


# -------------------------------------------------------------------------------------------------------- mistakes


def without_a_block(state):
    return {key: tensor for key, tensor in state.items() if not key.startswith("blocks.1.")}


def with_an_odd_key(state):
    return state | {"odd.weight": torch.ones(1)}


def with_a_wide_layer(state):
    return state | {"blocks.1.mlp.fc1.bias": torch.ones(65)}


DAMAGES = [
    (without_a_block, r"Missing keys: 1\d \(blocks\.1\.\S+, blocks\.1\.\S+, blocks\.1\.\S+, \.\.\.\)$"),
    (with_an_odd_key, r"Unexpected keys: 1 \(odd\.weight\)$"),
    (with_a_wide_layer, r"size mismatch: 1 \(blocks\.1\.mlp\.fc1\.bias \[65\] for \[64\]\)$"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_that_does_not_fit_is_refused_with_its_differences(tmp_path, layout, damage, message):
    model = LAYOUTS[layout][1]
    written(tmp_path / "w.pth", layout, damage)
    with pytest.raises(OODError, match=rf"weights '.*w\.pth' do not fit timm model '{model}': {message}"):
        load(tmp_path / "w.pth", model, classes=5)


def test_what_timm_resamples_is_no_difference(tmp_path):
    written(tmp_path / "w.pth", "mae", with_an_odd_key)
    with pytest.raises(
        OODError, match=r"do not fit timm model 'vit_tiny_patch16_224': Unexpected keys: 1 \(odd\.weight\)$"
    ):
        load(tmp_path / "w.pth", VIT, size=24)


def test_a_plain_file_without_any_last_norm_is_refused(tmp_path):
    state = source(VIT).model.state_dict()
    torch.save({key: state[key] for key in state if not key.startswith("norm.")}, tmp_path / "w.pth")
    with pytest.raises(OODError, match=r"Missing keys: 2 \(fc_norm\.weight, fc_norm\.bias\)$"):
        load(tmp_path / "w.pth", VIT, global_pool="avg")


def test_a_deeper_beit_is_refused_with_its_keys(tmp_path):
    torch.save(index(source(BEIT, classes=3, depth=3).model.state_dict()), tmp_path / "w.pth")
    with pytest.raises(OODError, match=r"'beit_base_patch16_224': Unexpected keys: 16 \(blocks\.2\..*, \.\.\.\)$"):
        load(tmp_path / "w.pth", BEIT)


@pytest.mark.parametrize(("layout", "model"), [("beit", VIT), ("mae", BEIT), ("dino", BEIT)])
def test_a_checkpoint_of_another_family_is_refused(tmp_path, layout, model):
    written(tmp_path / "w.pth", layout)
    with pytest.raises(OODError, match=r"do not fit timm model .*Missing keys.*; Unexpected keys") as caught:
        load(tmp_path / "w.pth", model)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_classifier_alone_does_not_make_a_norm_dispensable(tmp_path):
    torch.save(source(VIT, classes=3).model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        OODError, match=r"Missing keys: 2 \(fc_norm\.weight, fc_norm\.bias\); Unexpected keys: 2 \(norm"
    ):
        load(tmp_path / "w.pth", VIT, global_pool="avg")


def test_a_file_with_other_things_than_tensors_is_refused(tmp_path):
    torch.save({"weights": {}, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(OODError, match=r"w\.pth' are no state dict, some entries are no tensors: weights, epoch$"):
        load(tmp_path / "w.pth", VIT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "are empty$"),
        ([1, 2], "are no state dict but a list$"),
        ({1: torch.ones(2)}, "are no state dict, some entries are no tensors: 1$"),
        ({"state_dict": {}}, "are no state dict, some entries are no tensors: state_dict$"),
        (
            {"state_dict": {"a": torch.ones(2)}, "hparams": pytest.raises},
            r"raises is no tensor, and not unpickled; torch\.save",
        ),
    ],
)
def test_a_file_without_a_network_is_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(OODError, match=message) as caught:
        backbone(VIT, tmp_path / "w.pth").check()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------- wrappers of training


PREFIXES = ["module.", "model.", "net.", "backbone.", "_orig_mod.", "module.model.", "model._orig_mod.", "a.b.c."]


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict", "network", "anything", None])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_wrappers_put_before_all_keys_is_taken_off(tmp_path, prefix, entry):
    network = source(VIT, classes=3)
    state = prefixed(prefix, network.model.state_dict())
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]}
    content = {
        "epoch": 3,
        entry: state,
        "optimizer": optimizer,
        "optimizer_states": [optimizer],
        "hyper_parameters": {},
    }
    torch.save(content if entry else state, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth", VIT)
    torch.testing.assert_close(loaded(images()), network(images()))
    backbone(VIT, tmp_path / "w.pth").check()


@pytest.mark.parametrize(
    "model", ["resnet10t", "convnext_atto", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]
)
def test_prefixes_are_taken_off_in_every_family(tmp_path, model):
    torch.manual_seed(0)
    network = Timm(model=model).build(224, 3).eval()
    save_file(prefixed("module.model.", network.model.state_dict()), tmp_path / "w.safetensors")
    timm = Timm(model=model, weights=tmp_path / "w.safetensors")
    timm.check()
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(timm.build(224, None).eval()(x), network(x))


def test_an_averaged_model_is_read(tmp_path):
    network = source(VIT, classes=3)
    averaged = torch.optim.swa_utils.AveragedModel(network.model)
    torch.save({"state_dict": averaged.state_dict()}, tmp_path / "w.pth")
    torch.testing.assert_close(load(tmp_path / "w.pth", VIT)(images()), network(images()))


@pytest.mark.parametrize(
    ("plain", "average"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("network", "ema_state_dict")],
)
def test_a_moving_average_beside_weights_is_chosen_by_a_key(tmp_path, plain, average):
    network = source(VIT, classes=3)
    other = {key: tensor + 1 for key, tensor in network.model.state_dict().items()}
    path = tmp_path / "w.pth"
    torch.save({plain: network.model.state_dict(), average: {"module." + key: other[key] for key in other}}, path)
    choice = f"'weights_key: {average}' or 'weights_key: {plain}'"
    with pytest.raises(OODError, match=rf"hold '{average}' and '{plain}', .*\(EMA\); say which by {choice}$"):
        backbone(VIT, path).check()
    for key, expected in ((plain, network.model.state_dict()), (average, other)):
        timm = Timm(model=VIT, options=SMALL, weights=path, weights_key=key)
        timm.check()
        loaded = timm.build(SIZE, None).model.state_dict()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_network_beside_others_in_one_state_dict_is_chosen_by_its_prefix(tmp_path):
    network, path = source(VIT, classes=3), tmp_path / "w.ckpt"
    state = network.model.state_dict()
    other = {key: tensor + 1 for key, tensor in state.items()}
    both = prefixed("model.", state) | prefixed("ema.module.", other) | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": both, "pytorch-lightning_version": "2.0"}, path)
    with pytest.raises(OODError, match=r"; to take what fits alone: weights_key: model or weights_key: ema\.module$"):
        backbone(VIT, path).check()
    for key, expected in (("model", state), ("ema.module", other), ("ema", other)):
        loaded = Timm(model=VIT, options=SMALL, weights=path, weights_key=key).build(SIZE, None).model.state_dict()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    with pytest.raises(OODError, match=r"have no entry or prefix 'modle'\. Did you mean 'model'\?"):
        Timm(model=VIT, options=SMALL, weights=path, weights_key="modle").check()


def test_a_key_without_weights_is_refused():
    with pytest.raises(OODError, match="'weights_key' says what to take of 'weights', which is not given"):
        Timm(model=VIT, options=SMALL, weights_key="model").check()


# ------------------------------------------------------------------------------------------------------- in the plan


@pytest.mark.parametrize("form", ["pth", "safetensors", "old"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_the_plan_says_what_does_not_fit_by_names_and_shapes(tmp_path, form, damage, message):
    state = damage(source(VIT, classes=3).model.state_dict())
    path = tmp_path / f"w.{form}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "pth")
    with pytest.raises(OODError, match=message):
        backbone(VIT, path).check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_plan_takes_published_checkpoints(tmp_path, layout):
    written(tmp_path / "w.pth", layout)
    _, model, options = LAYOUTS[layout]
    backbone(model, tmp_path / "w.pth", **options).check()
    backbone(model, tmp_path / "w.pth", global_pool="avg").check()


def test_the_plan_reads_no_values(tmp_path):
    save_file(source(VIT, classes=3).model.state_dict(), tmp_path / "w.safetensors")
    before = held()
    found = read(tmp_path / "w.safetensors", shapes=True)
    assert all(tensor.is_meta for tensor in found.values())
    assert held() == before


# ---------------------------------------------------------------------------------------------------------- memory


def held():
    """Return the bytes of all tensors that are alive."""
    gc.collect()
    real = (torch.Tensor, torch.nn.Parameter)  # what traces leave behind has no memory
    tensors = [thing for thing in gc.get_objects() if type(thing) in real and not thing.is_meta]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_no_second_copy_of_the_weights_stays_in_memory(tmp_path):
    written(tmp_path / "w.pth", "mae")
    before = held()
    loaded = load(tmp_path / "w.pth", VIT, classes=5)
    own = sum(tensor.untyped_storage().nbytes() for tensor in (*loaded.parameters(), *loaded.buffers()))
    assert held() - before == own > 0

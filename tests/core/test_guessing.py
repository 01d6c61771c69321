"""Errors averaged over masks, and modules kept as tensors and revived from them."""

import pytest
import torch
from torch import nn

from ood_core.errors import OODError
from ood_core.interfaces.building_blocks.masked_errors import averaged, besides, differences, restore


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 2)
        self.networks = nn.Linear(2, 2)  # another name that begins alike
        self.head = nn.Linear(2, 3)
        self.register_buffer("counts", torch.arange(3))


def test_the_error_of_a_patch_is_the_mean_over_the_masks_that_hide_it():
    masks = torch.tensor([[True, False, True], [True, True, False]])
    of_masks = iter([torch.tensor([[1.0, float("nan"), 5.0]]), torch.tensor([[2.0, 7.0, float("inf")]])])
    assert averaged(masks, lambda mask: next(of_masks)).tolist() == [[1.5, 7.0, 5.0]]


def test_averages_are_float32_whatever_the_errors_are():
    found = averaged(torch.ones(2, 3, dtype=torch.bool), lambda mask: torch.ones(4, 3, dtype=torch.bfloat16))
    assert found.dtype == torch.float32 and found.shape == (4, 3)


def test_what_belongs_to_a_child_is_left_out_by_its_whole_name():
    names = {"counts", "head.weight", "head.bias", "networks.weight", "networks.bias"}
    assert besides(Around(), "network").keys() == names
    assert besides(Around(), "network", "networks").keys() == {"counts", "head.weight", "head.bias"}


def test_a_restored_module_has_copies_of_the_tensors_and_its_children_as_they_were():
    trained, network = Around(), nn.Linear(2, 2)
    kept = besides(trained, "network")
    with torch.device("meta"):
        module = Around()
    module.network = network
    assert restore(module, kept, "it", "network") is module
    assert not module.training and all(parameter.requires_grad for parameter in module.parameters())
    assert module.network is network
    assert all(torch.equal(tensor, kept[name]) for name, tensor in besides(module, "network").items())
    assert isinstance(module.head.weight, nn.Parameter)
    trained.head.weight.data.zero_()
    assert module.head.weight.any()


def test_tensors_take_the_precision_of_the_module():
    trained = Around()
    restored = restore(Around(), {name: t.double() for name, t in trained.state_dict().items()}, "it")
    assert restored.head.weight.dtype == torch.float32 and restored.counts.dtype == torch.int64
    assert torch.equal(restored.head.weight, trained.head.weight)


def test_tensors_that_do_not_fit_are_named():
    kept = besides(Around(), "network")
    kept["extra"] = kept.pop("head.bias")
    kept["head.weight"] = torch.zeros(5, 2)
    message = (
        r"^pretext 'it': the kept tensors are not those of these options: 1 missing: head\.bias; "
        r"1 unexpected: extra; 1 of another shape: head\.weight is \[5, 2\] instead of \[3, 2\]$"
    )
    with pytest.raises(OODError, match=message):
        restore(Around(), kept, "pretext 'it'", "network")


def test_long_lists_of_names_are_cut_short():
    wanted = {f"layer {number}": torch.zeros(1) for number in range(5)}
    assert differences({}, wanted) == "5 missing: layer 0, layer 1, layer 2, ..."
    assert differences(wanted, wanted) == ""

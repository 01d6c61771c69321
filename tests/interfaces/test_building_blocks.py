"""Errors averaged over masks, and the differences between state dicts."""

import torch

from ood_core.interfaces.building_blocks import mean_over_masks, state_differences


def test_the_error_of_a_patch_is_the_mean_over_the_masks_that_hide_it():
    masks = torch.tensor([[True, False, True], [True, True, False]])
    of_masks = iter([torch.tensor([[1.0, float("nan"), 5.0]]), torch.tensor([[2.0, 7.0, float("inf")]])])
    assert mean_over_masks(masks, lambda mask: next(of_masks)).tolist() == [[1.5, 7.0, 5.0]]


def test_averages_are_float32_whatever_the_errors_are():
    found = mean_over_masks(torch.ones(2, 3, dtype=torch.bool), lambda mask: torch.ones(4, 3, dtype=torch.bfloat16))
    assert found.dtype == torch.float32 and found.shape == (4, 3)


def test_long_lists_of_names_are_cut_short():
    wanted = {f"layer {number}": torch.zeros(1) for number in range(5)}
    assert state_differences({}, wanted) == "5 missing: layer 0, layer 1, layer 2, ..."
    assert state_differences(wanted, wanted) == ""

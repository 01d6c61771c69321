"""What is asked of every task that tells how badly it guesses hidden patches, on a tiny ViT and real digits."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file

from ood_core.data.selection import to_unit
from ood_core.errors import OODError
from ood_core.interfaces import PretextTask, Task

from .small_training import build_network, digits, losses_of, training_data

UNSEEN = to_unit(digits()[0][1200:1240])
"""Digits behind those that trainings see."""


@dataclass(frozen=True)
class Trained:
    """A pretext task after a short training."""

    pretext: PretextTask
    task: Task

    def revived(self, kept=None):
        """The task again, around a network of its own with the same weights."""
        network = build_network()
        network.load_state_dict(self.task.network.state_dict())
        return self.pretext.revive(network, 8, self.task.kept() if kept is None else kept)


def trained(pretext, data=None):
    network = build_network()
    task = pretext.build(network, data or training_data())
    losses_of(task, pretext.views(8, network.grid), steps=40)
    return Trained(pretext, task)


def check_errors_are_a_function_of_the_image(task):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    errors = task.errors(UNSEEN)
    torch.manual_seed(1)
    again = task.errors(UNSEEN)
    torch.manual_seed(0)
    task.errors(UNSEEN[:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(errors, again)
    assert errors.shape == (40, 4, 4) and errors.dtype == torch.float32
    assert errors.isfinite().all() and errors.min() >= 0 and not errors.requires_grad
    torch.testing.assert_close(task.errors(UNSEEN.flip(0)[:7]), errors.flip(0)[:7])
    for patch in range(16):  # each is looked at
        assert errors.flatten(1)[:, patch].std() > 0


def check_errors_are_means_over_masks(task, masks, error):
    """`error(images, mask)`: [B, L] under one mask [L], written from the loss."""
    errors = task.errors(UNSEEN[:3]).flatten(1)
    assert masks.any(0).all()
    with torch.no_grad():
        each = [error(UNSEEN[:3], mask) for mask in masks]
    for image in range(3):
        for patch in range(16):
            hidden = [each[k][image, patch].item() for k in range(len(masks)) if masks[k, patch]]
            assert errors[image, patch].item() == pytest.approx(sum(hidden) / len(hidden), rel=1e-4)


def check_a_revived_task_has_the_same_errors(small, path):
    kept = small.task.kept()
    assert not any(name.startswith("network.") for name in kept)
    save_file({name: tensor.detach().contiguous() for name, tensor in kept.items()}, path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    from_file = load_file(path)
    network = build_network()
    network.load_state_dict(small.task.network.state_dict())
    torch.manual_seed(3)
    revived = small.pretext.revive(network, 8, from_file)
    assert torch.equal(torch.get_rng_state(), before)  # nothing random is drawn for what is replaced
    assert not any(module.training for module in revived.modules())
    assert all(tensor.device.type == "cpu" for tensor in revived.state_dict().values())
    for tensor in from_file.values():
        tensor.zero_()  # nothing is shared with what was given
    errors = small.task.errors(UNSEEN)
    assert torch.equal(revived.errors(UNSEEN), errors)
    torch.testing.assert_close(revived.requires_grad_(False).errors(UNSEEN), errors)
    assert revived.kept().keys() == kept.keys()


def check_noise_is_guessed_worse_than_digits(small):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(UNSEEN.shape, generator=generator)
    assert small.task.errors(noise).mean() > 1.3 * small.task.errors(UNSEEN).mean()


def check_other_tensors_are_refused(small, missing, message):
    """`message`: the start, down to the list of differences."""
    kept = dict(small.task.kept())
    without = {name: tensor for name, tensor in kept.items() if name != missing}
    own = missing.removeprefix("tokens.")
    prefix = missing.removesuffix(own)
    start = f"^{message}: the kept tensors are not those of these options: "
    with pytest.raises(OODError, match=f"{start}1 missing: {own}$"):
        small.revived(without)
    with pytest.raises(OODError, match=f"{start}1 unexpected: extra$"):
        small.revived({**kept, f"{prefix}extra": torch.zeros(1)})
    with pytest.raises(OODError, match=rf"{start}1 of another shape: {own} is \[7\] instead of \["):
        small.revived({**kept, missing: torch.zeros(7)})

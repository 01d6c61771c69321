"""What is asked of every task that tells how badly it guesses hidden patches, on a tiny ViT and real digits."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file

from ood_core.data.selection import to_unit
from ood_core.errors import OODError
from ood_core.interfaces import PretextTask, Task
from ood_core.pipeline import networks

from .small_training import build_network, digits, losses_of, training_data

UNSEEN = to_unit(digits()[0][1200:1240])
"""Digits behind those that trainings see."""


@dataclass(frozen=True)
class Trained:
    """A pretext task after a short training."""

    pretext: PretextTask
    task: Task

    def state(self):
        """What a training saves of the task beside the weights."""
        empty = networks.empty_task(self.pretext, self.task.network, 8)
        state = self.task.state_dict()
        return {name: state[name] for name in networks.task_state(empty)}

    def restored(self, state=None):
        """The task again, around a network of its own with the same weights."""
        network = build_network()
        network.load_state_dict(self.task.network.state_dict())
        return networks.restored_task(self.pretext, network, 8, self.state() if state is None else state)


def trained(pretext, data=None):
    network = build_network()
    task = pretext.build(network, data or training_data())
    losses_of(task, pretext.views(8, network.grid), steps=40)
    return Trained(pretext, task)


def check_errors_are_a_function_of_the_image(task):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    errors = task.patch_errors(UNSEEN)
    torch.manual_seed(1)
    again = task.patch_errors(UNSEEN)
    torch.manual_seed(0)
    task.patch_errors(UNSEEN[:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(errors, again)
    assert errors.shape == (40, 4, 4) and errors.dtype == torch.float32
    assert errors.isfinite().all() and errors.min() >= 0 and not errors.requires_grad
    torch.testing.assert_close(task.patch_errors(UNSEEN.flip(0)[:7]), errors.flip(0)[:7])
    for patch in range(16):  # each is looked at
        assert errors.flatten(1)[:, patch].std() > 0


def check_errors_are_means_over_masks(task, masks, error):
    """`error(images, mask)`: [B, L] under one mask [L], written from the loss."""
    errors = task.patch_errors(UNSEEN[:3]).flatten(1)
    assert masks.any(0).all()
    with torch.no_grad():
        each = [error(UNSEEN[:3], mask) for mask in masks]
    for image in range(3):
        for patch in range(16):
            hidden = [each[k][image, patch].item() for k in range(len(masks)) if masks[k, patch]]
            assert errors[image, patch].item() == pytest.approx(sum(hidden) / len(hidden), rel=1e-4)


def check_a_restored_task_has_the_same_errors(small, path):
    state = small.state()
    assert not any(name.startswith("network.") for name in state)
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, path)
    from_file = load_file(path)
    network = build_network()
    network.load_state_dict(small.task.network.state_dict())
    before = torch.get_rng_state()
    restored = networks.restored_task(small.pretext, network, 8, from_file)
    assert torch.equal(torch.get_rng_state(), before)  # whatever the empty task was filled with
    assert not any(module.training for module in restored.modules())
    for tensor in from_file.values():
        tensor.zero_()  # nothing is shared with what was given
    errors = small.task.patch_errors(UNSEEN)
    assert torch.equal(restored.patch_errors(UNSEEN), errors)
    torch.testing.assert_close(restored.requires_grad_(False).patch_errors(UNSEEN), errors)


def check_noise_is_guessed_worse_than_digits(small):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(UNSEEN.shape, generator=generator)
    assert small.task.patch_errors(noise).mean() > 1.3 * small.task.patch_errors(UNSEEN).mean()


def check_other_tensors_are_refused(small, missing):
    state = dict(small.state())
    without = {name: tensor for name, tensor in state.items() if name != missing}
    start = f"^pretext '{small.pretext.name}': the saved tensors are not those of these options: "
    with pytest.raises(OODError, match=f"{start}1 missing: {missing}$"):
        small.restored(without)
    with pytest.raises(OODError, match=f"{start}1 unexpected: extra$"):
        small.restored({**state, "extra": torch.zeros(1)})
    with pytest.raises(OODError, match=rf"{start}1 of another shape: {missing} is \[7\] instead of \["):
        small.restored({**state, missing: torch.zeros(7)})

"""Rotation prediction: the loss over all four turns, its views, and learning on real digits."""

import math

import pytest
import torch

from ood_core.interfaces import Batch
from ood_rotation.pretext import Rotation, RotationTask

from .small_training import build_network, embeddings_tell_digits_better, losses_of, training_data


def test_the_loss_is_the_mean_over_images_and_turns():
    network = build_network()
    task = RotationTask(network).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(task.head.weight)
    images = torch.rand(3, 3, 8, 8)
    terms, right = [], 0
    for image in images:
        turned = image
        for turns in range(4):
            embedding = network.forward_head(network.forward_features(turned.unsqueeze(0)), pre_logits=True)
            logits = task.head(embedding)[0]
            terms.append(-math.log(logits.softmax(0)[turns]))
            right += int(logits.argmax() == turns)
            turned = turned.flip(2).transpose(1, 2)  # counter-clockwise
    found = task(Batch((images,), torch.zeros(3, dtype=torch.long)))
    assert found["loss"].item() == pytest.approx(sum(terms) / 12, rel=1e-5)
    assert found["accuracy"].item() == pytest.approx(right / 12)


def test_without_options_the_view_is_the_image():
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    (view,) = Rotation(epochs=1, crop_scale=1.0, flip=False).views(8, None)(image)
    assert torch.equal(view, image)


@pytest.mark.parametrize("options", [{"flip": True}, {"color_jitter": 0.4}, {"crop_scale": 0.3}])
def test_each_option_changes_views(options):
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    views = Rotation(epochs=1, **{"crop_scale": 1.0, "flip": False} | options).views(8, None)
    assert any(not torch.equal(views(image)[0], image) for _ in range(20))


@pytest.mark.slow
def test_the_loss_falls_and_embeddings_tell_digits_better_than_random_ones():
    task, network = Rotation(epochs=1, crop_scale=1.0, flip=False), build_network()
    losses = losses_of(task.build(network, training_data()), task.views(8, network.grid))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert embeddings_tell_digits_better(network)

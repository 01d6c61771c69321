"""The order of training, augmentation by seed, step and image, and the plain stream."""

import random

import numpy as np
import pytest
import torch

from ood_core import batches
from ood_core.batches import Steps
from ood_core.errors import OODError

from .test_data import select


def test_each_epoch_visits_every_image_once_in_another_order():
    steps = list(Steps(images=12, batch_size=4, epochs=2, seed=0))
    assert [step.number for step in steps] == list(range(6))
    first, second = ([row for step in part for row in step.rows] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_incomplete_batch_is_dropped_but_a_small_set_makes_one_step():
    assert [len(step.rows) for step in Steps(images=10, batch_size=4, epochs=1, seed=0)] == [4, 4]
    assert [len(step.rows) for step in Steps(images=3, batch_size=4, epochs=2, seed=0)] == [3, 3]


@pytest.mark.parametrize("begin", [0, 1, 3, 5, 6])
def test_a_continued_order_is_the_rest_of_the_whole_order(begin):
    whole = list(Steps(images=13, batch_size=4, epochs=2, seed=7))
    rest = Steps(images=13, batch_size=4, epochs=2, seed=7, begin=begin)
    assert list(rest) == whole[begin:]
    assert len(rest) == len(whole) - begin


def test_augmentation_depends_on_seed_and_step_alone():
    images = select()

    def views(image):
        return (image.float() + torch.rand(()),)

    whole = list(batches.training_batches(images, views, Steps(images=60, batch_size=16, epochs=2, seed=3)))
    torch.manual_seed(99)
    rest = list(batches.training_batches(images, views, Steps(images=60, batch_size=16, epochs=2, seed=3, begin=4)))
    assert len(rest) == 2
    for one, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(one.views[0], other.views[0])
        assert torch.equal(one.labels, other.labels)
    another = next(iter(batches.training_batches(images, views, Steps(images=60, batch_size=16, epochs=2, seed=4))))
    assert not torch.equal(another.views[0], whole[0].views[0])


def test_workers_give_the_batches_that_the_main_process_gives(monkeypatch):
    images = select()
    alone = [batch.views[0] for batch in batches.evaluation_batches(images, 4, 16)]
    monkeypatch.setattr(batches, "INLINE_IMAGES", 0)
    helped = [batch.views[0] for batch in batches.evaluation_batches(images, 4, 16)]
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))


def test_evaluation_keeps_the_order_and_the_last_incomplete_batch():
    images = select()
    found = list(batches.evaluation_batches(images, 4, 16))
    assert [len(batch.labels) for batch in found] == [16, 16, 16, 12]
    assert torch.cat([batch.views[0][:, 0, 0, 0] for batch in found]).tolist() == list(range(60))


def test_a_broken_image_stops_the_evaluation_with_its_own_message():
    images = select()

    def broken(index):
        raise OODError("img.png: not a picture")

    images._images.image = broken
    with pytest.raises(OODError, match=r"img\.png: not a picture"):
        list(batches.evaluation_batches(images, 4, 16))


def test_the_sample_is_the_same_each_time_and_mixed():
    images = select()
    one, two = batches.sample(images, 4, 10), batches.sample(images, 4, 10)
    assert torch.equal(one, two)
    assert one.shape == (10, 3, 4, 4)
    assert 0 <= one.min() <= one.max() <= 1
    assert (one[:, 0, 0, 0] * 255).round().tolist() != list(range(10))
    assert len(batches.sample(images, 4, 1000)) == 60


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_batch_of_the_one_order(processes):
    whole = Steps(images=26, batch_size=6, epochs=2, seed=7)
    parts = [Steps(images=26, batch_size=6, epochs=2, seed=7, process=p, processes=processes) for p in range(processes)]
    assert {len(part) for part in parts} == {len(whole)}
    for step, *shares in zip(whole, *parts, strict=True):
        assert [row for share in shares for row in share.rows] == step.rows
        assert [share.first for share in shares] == [place * 6 // processes for place in range(processes)]
        assert {share.number for share in shares} == {step.number}


def test_an_image_is_augmented_alike_however_many_processes_share_the_batch():
    images = select()

    def views(image):
        return (image.float() + torch.rand(()) + random.random() + np.random.rand(),)

    options = {"images": 60, "batch_size": 16, "epochs": 1, "seed": 3}
    whole = list(batches.training_batches(images, views, Steps(**options)))
    halves = [list(batches.training_batches(images, views, Steps(**options, process=p, processes=2))) for p in (0, 1)]
    for alone, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(alone.views[0], torch.cat((first.views[0], second.views[0])))
        assert torch.equal(alone.labels, torch.cat((first.labels, second.labels)))
    drawn = whole[0].views[0][:, 0, 0, 0] % 1
    assert len(drawn.unique()) > 8  # each image has its own numbers


@pytest.mark.parametrize(("images", "processes"), [(60, 2), (60, 3), (61, 4), (3, 4)])
def test_processes_in_turn_give_the_order_of_one(images, processes):
    chosen = select(limit=-(-images // 3))
    shares = [list(batches.evaluation_batches(chosen, 4, 8, p, processes)) for p in range(processes)]
    rows = torch.cat([batch.views[0][:, 0, 0, 0] for turn in zip(*shares, strict=True) for batch in turn])
    alone = torch.cat([batch.views[0][:, 0, 0, 0] for batch in batches.evaluation_batches(chosen, 4, 8)])
    sizes = [{len(batch.labels) for batch in turn} for turn in zip(*shares, strict=True)]
    assert all(len(size) == 1 for size in sizes)  # equal parts can be gathered
    assert torch.equal(rows[: len(alone)], alone)
    assert (rows[len(alone) :] == alone[-1]).all()


def test_the_sample_of_views_is_the_same_each_time():
    images = select()

    def views(image):
        return (image.float() + torch.rand(()),)

    one, two = batches.sample_batch(images, views, 5), batches.sample_batch(images, views, 5)
    assert torch.equal(one.views[0], two.views[0])
    assert one.views[0].shape == (5, 3, 4, 5)

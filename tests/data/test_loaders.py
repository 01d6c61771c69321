"""The order of training, augmentation by seed, step and image, and the plain stream."""

import random

import numpy as np
import pytest
import torch

from ood_core.data import loaders
from ood_core.data.loaders import ShuffledBatchSampler
from ood_core.data.selection import Selection
from ood_core.errors import OODError

from .test_selection import FlatSource, select


def test_each_epoch_visits_every_image_once_in_another_order():
    steps = list(ShuffledBatchSampler(images=12, batch_size=4, epochs=2, seed=0))
    assert [step.number for step in steps] == list(range(6))
    first, second = ([row for step in part for row in step.rows] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_incomplete_batch_is_dropped_but_a_small_set_makes_one_step():
    assert [len(step.rows) for step in ShuffledBatchSampler(images=10, batch_size=4, epochs=1, seed=0)] == [4, 4]
    assert [len(step.rows) for step in ShuffledBatchSampler(images=3, batch_size=4, epochs=2, seed=0)] == [3, 3]


@pytest.mark.parametrize("begin", [0, 1, 3, 5, 6])
def test_a_continued_order_is_the_rest_of_the_whole_order(begin):
    whole = list(ShuffledBatchSampler(images=13, batch_size=4, epochs=2, seed=7))
    rest = ShuffledBatchSampler(images=13, batch_size=4, epochs=2, seed=7, begin=begin)
    assert list(rest) == whole[begin:]
    assert len(rest) == len(whole) - begin


SHOWN = loaders.EvaluationTransform(image_size=4)


def test_augmentation_depends_on_seed_and_step_alone():
    images = select()

    def views(image):
        return (image.float() + torch.rand(()),)

    whole = list(
        loaders.training_batches(images, views, ShuffledBatchSampler(images=60, batch_size=16, epochs=2, seed=3))
    )
    torch.manual_seed(99)
    rest = list(
        loaders.training_batches(
            images, views, ShuffledBatchSampler(images=60, batch_size=16, epochs=2, seed=3, begin=4)
        )
    )
    assert len(rest) == 2
    for one, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(one.views[0], other.views[0])
        assert torch.equal(one.labels, other.labels)
    another = next(
        iter(loaders.training_batches(images, views, ShuffledBatchSampler(images=60, batch_size=16, epochs=2, seed=4)))
    )
    assert not torch.equal(another.views[0], whole[0].views[0])


def test_workers_give_the_batches_that_the_main_process_gives(monkeypatch):
    images = select()
    alone = [batch.images for batch in loaders.evaluation_batches(images, SHOWN, 16)]
    monkeypatch.setattr(loaders, "INLINE_IMAGES", 0)
    helped = [batch.images for batch in loaders.evaluation_batches(images, SHOWN, 16)]
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))


def test_evaluation_keeps_the_order_and_the_last_incomplete_batch():
    images = select()
    found = list(loaders.evaluation_batches(images, SHOWN, 16))
    assert [len(batch.digests) for batch in found] == [16, 16, 16, 12]
    assert torch.cat([batch.images[:, 0, 0, 0] for batch in found]).tolist() == list(range(60))


def test_a_broken_image_stops_the_evaluation_with_its_own_message():
    images = select()

    def broken(index):
        raise OODError("img.png: not a picture")

    images._pictures.images.image = broken
    with pytest.raises(OODError, match=r"img\.png: not a picture"):
        list(loaders.evaluation_batches(images, SHOWN, 16))


def with_broken(*rows, skip=True):
    """Return the images of which these cannot be read."""
    images = Selection(name="flat", source=FlatSource(), skip_broken=skip).open("train")
    good = images._pictures.images.image

    def image(index):
        if index in rows:
            raise OODError(f"{index}.png: not a picture")
        return good(index)

    images._pictures.images.image = image
    return images


def test_a_broken_picture_that_is_skipped_is_black_and_has_no_digest():
    (batch,) = loaders.evaluation_batches(with_broken(1, 5), SHOWN, 60)
    assert (batch.digests == loaders.BROKEN).nonzero().flatten().tolist() == [1, 5]
    assert batch.images[5].max() == 0
    assert batch.images[6, 0, 0, 0] == 6


def test_equal_pictures_have_equal_digests():
    (batch,) = loaders.evaluation_batches(select(), SHOWN, 60)
    (again,) = loaders.evaluation_batches(select(), loaders.EvaluationTransform(image_size=8), 60)
    assert torch.equal(batch.digests, again.digests)
    assert len(batch.digests.unique()) == 60


def levels(image):
    return (image.float(),)


def test_the_next_good_picture_stands_in_while_training_and_brings_its_own_label():
    images = with_broken(0, 1, 59)
    steps = ShuffledBatchSampler(images=60, batch_size=60, epochs=1, seed=3)
    (batch,) = loaders.training_batches(images, levels, steps)
    rows = batch.views[0][:, 0, 0, 0].long()
    assert sorted(rows.tolist()) == sorted([*range(2, 59), 2, 2, 2])
    assert torch.equal(batch.labels, rows % 3)
    assert set(batch.broken) == {"0.png: not a picture", "1.png: not a picture", "59.png: not a picture"}


def test_without_any_good_picture_there_is_nothing_to_train_on():
    steps = ShuffledBatchSampler(images=60, batch_size=60, epochs=1, seed=3)
    with pytest.raises(OODError, match=r"none of the 60 pictures can be read; the first: \d+\.png: not a picture"):
        list(loaders.training_batches(with_broken(*range(60)), levels, steps))


def test_a_broken_picture_stops_a_training_that_does_not_skip():
    steps = ShuffledBatchSampler(images=60, batch_size=60, epochs=1, seed=3)
    with pytest.raises(OODError, match=r"^7\.png: not a picture"):
        list(loaders.training_batches(with_broken(7, skip=False), levels, steps))


def test_an_augmentation_shows_an_image_alike_each_time_and_each_image_otherwise():
    shown = loaders.EvaluationTransform(image_size=4, views=lambda image: (image.float() + torch.rand(()),), seed=5)
    (one,), (two,) = (loaders.evaluation_batches(select(), shown, 60) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert len((one.images[:, 0, 0, 0] % 1).unique()) > 50


def outliers(**options):
    return loaders.AuxiliarySampler(
        images=Selection(name="aux", source=FlatSource()).open("test"), step_size=8, **options
    )


def test_outliers_come_with_every_batch_the_same_for_any_number_of_processes():
    images, options = select(), {"images": 60, "batch_size": 16, "epochs": 2, "seed": 3}

    def views(image):
        return (image.float() + torch.rand(()),)

    whole = list(loaders.training_batches(images, views, ShuffledBatchSampler(**options), outliers()))
    halves = [
        list(
            loaders.training_batches(
                images, views, ShuffledBatchSampler(**options, process=p, processes=2), outliers(process=p, processes=2)
            )
        )
        for p in (0, 1)
    ]
    for alone, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(alone.outliers, torch.cat((first.outliers, second.outliers)))
        assert (alone.outliers[:, 0, 0, 0] >= 100).all()  # out of the other set
    assert not torch.equal(whole[0].outliers, whole[1].outliers)
    resumed = list(loaders.training_batches(images, views, ShuffledBatchSampler(**options, begin=4), outliers()))
    assert torch.equal(resumed[0].outliers, whole[4].outliers)


def test_more_outliers_than_there_are_come_twice():
    many = loaders.AuxiliarySampler(images=Selection(name="aux", source=FlatSource(test=3)).open("test"), step_size=8)
    drawn, _ = many.draw(0, 0, levels)
    assert len(drawn) == 8


def test_the_sample_is_the_same_each_time_and_mixed():
    images = select()
    one, two = loaders.sample(images, 4, 10), loaders.sample(images, 4, 10)
    assert torch.equal(one, two)
    assert one.shape == (10, 3, 4, 4)
    assert 0 <= one.min() <= one.max() <= 1
    assert (one[:, 0, 0, 0] * 255).round().tolist() != list(range(10))
    assert len(loaders.sample(images, 4, 1000)) == 60


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_batch_of_the_one_order(processes):
    whole = ShuffledBatchSampler(images=26, batch_size=6, epochs=2, seed=7)
    parts = [
        ShuffledBatchSampler(images=26, batch_size=6, epochs=2, seed=7, process=p, processes=processes)
        for p in range(processes)
    ]
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
    whole = list(loaders.training_batches(images, views, ShuffledBatchSampler(**options)))
    halves = [
        list(loaders.training_batches(images, views, ShuffledBatchSampler(**options, process=p, processes=2)))
        for p in (0, 1)
    ]
    for alone, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(alone.views[0], torch.cat((first.views[0], second.views[0])))
        assert torch.equal(alone.labels, torch.cat((first.labels, second.labels)))
    drawn = whole[0].views[0][:, 0, 0, 0] % 1
    assert len(drawn.unique()) > 8  # each image has its own numbers


@pytest.mark.parametrize(("images", "processes"), [(60, 2), (60, 3), (61, 4), (3, 4)])
def test_processes_in_turn_give_the_order_of_one(images, processes):
    chosen = select(limit=-(-images // 3))
    shares = [list(loaders.evaluation_batches(chosen, SHOWN, 8, p, processes)) for p in range(processes)]
    rows = torch.cat([batch.images[:, 0, 0, 0] for turn in zip(*shares, strict=True) for batch in turn])
    alone = torch.cat([batch.images[:, 0, 0, 0] for batch in loaders.evaluation_batches(chosen, SHOWN, 8)])
    sizes = [{len(batch.digests) for batch in turn} for turn in zip(*shares, strict=True)]
    assert all(len(size) == 1 for size in sizes)  # equal parts can be gathered
    assert torch.equal(rows[: len(alone)], alone)
    assert (rows[len(alone) :] == alone[-1]).all()


def test_the_sample_of_views_is_the_same_each_time():
    images = select()

    def views(image):
        return (image.float() + torch.rand(()),)

    one, two = loaders.sample_batch(images, views, 5), loaders.sample_batch(images, views, 5)
    assert torch.equal(one.views[0], two.views[0])
    assert one.views[0].shape == (5, 3, 4, 5)

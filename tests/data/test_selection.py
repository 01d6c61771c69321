"""Selection, hold-out, decoding and the order of training, on small sets made here."""

import copy
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from ood_core.data import open_sources, selection
from ood_core.data.open_sources import SourcePool
from ood_core.data.selection import Selection
from ood_core.errors import OODError
from ood_core.interfaces import DatasetSource, ImageSet


class Flat(ImageSet):
    """Image i is grey of level i; labels go round."""

    def __init__(self, count, offset=0):
        self.classes = ("a", "b", "c")
        self.labels = [i % 3 for i in range(count)]
        self.fingerprint = f"flat {count} {offset}"
        self.offset = offset

    def image(self, index):
        return Image.new("L", (5, 4), self.offset + index)


@dataclass(frozen=True, kw_only=True)
class FlatSource(DatasetSource):
    name = "flat"
    train: int = 60
    test: int = 30

    def open(self, split):
        return Flat(self.train) if split == "train" else Flat(self.test, 100)


def select(part="train", **options):
    return Selection(name="flat", source=FlatSource(), **options).open(part)


def levels(images):
    return [int(images.pixels(i)[0, 0, 0]) for i in range(len(images))]


def test_selected_classes_are_numbered_in_the_order_of_the_recipe():
    images = select(classes=("c", "a"))
    assert images.classes == ("c", "a")
    assert levels(images)[:4] == [0, 2, 3, 5]
    assert images.labels[:4].tolist() == [1, 0, 1, 0]


def test_the_limit_counts_for_each_class():
    assert levels(select(limit=2)) == [0, 1, 2, 3, 4, 5]


def test_a_draw_takes_other_images_of_each_class_the_same_each_time():
    first, second = select(limit=2, draw=0), select(limit=2, draw=1)
    assert torch.bincount(first.labels).tolist() == torch.bincount(second.labels).tolist() == [2, 2, 2]
    assert levels(first) == levels(select(limit=2, draw=0))
    assert levels(first) not in (levels(second), levels(select(limit=2)))


def test_classes_can_be_left_out():
    images = select(without=("b",))
    assert images.classes == ("a", "c")
    assert levels(images)[:4] == [0, 2, 3, 5]
    assert images.labels[:4].tolist() == [0, 1, 0, 1]


def test_leaving_all_classes_out_leaves_nothing():
    with pytest.raises(OODError, match="data set 'flat' has no image for train"):
        select(without=("a", "b", "c"))


def test_superclasses_take_classes_together_under_one_label():
    images = select(superclasses=(("vowels", ("a",)), ("consonants", ("c", "b"))))
    assert images.classes == ("vowels", "consonants")
    assert images.labels[:6].tolist() == [0, 1, 1, 0, 1, 1]
    assert images.all_classes == 2
    assert select(superclasses=(("vowels", ("a",)), ("consonants", ("c", "b"))), classes=("consonants",)).classes == (
        "consonants",
    )


def test_a_superclass_of_classes_that_are_not_there_is_refused():
    with pytest.raises(OODError, match="superclass 'all' takes in a class 'd', which data set 'flat' does not have"):
        select(superclasses=(("all", ("a", "d")),))


def test_files_that_two_sources_share_are_images_that_both_have():
    one, other = select(), Selection(name="other", source=FlatSource(train=9)).open("train")
    one._pictures.images.places = [f"{row}.png" for row in range(60)]
    other._pictures.images.places = [f"{row}.png" for row in range(55, 64)]
    assert one.shared_with(other) == other.shared_with(one) == 5
    assert select().shared_with(Selection(name="other", source=FlatSource(train=9)).open("train")) == 0


def test_images_of_another_selection_are_taken_out():
    few = Selection(name="few", source=FlatSource(), limit=2)
    assert levels(select(minus=(few,)))[:3] == [6, 7, 8]
    elsewhere = Selection(name="few", source=FlatSource(train=9), limit=2)
    assert len(select(minus=(elsewhere,))) == 60


def test_the_split_can_be_chosen_against_the_purpose():
    assert levels(select("test", split="train")) == list(range(60))
    assert levels(select("known", split="test"))[0] == 100


def test_how_many_images_there_were_before_the_holdout_is_known():
    assert select(holdout=0.5).found == 60
    assert select(limit=2).found == 6
    assert select(minus=(Selection(name="few", source=FlatSource(), limit=2),)).found == 60
    assert select(without=("a",)).found == 40


class Empty(FlatSource):
    name = "empty"

    def open(self, split):
        raise OODError("no such folder")


def test_the_first_candidate_that_can_be_opened_is_used():
    found = Selection(name="x", source=Empty(), candidates=(Empty(), FlatSource(train=6), FlatSource())).open("train")
    assert len(found) == 6


def test_another_selection_stands_in_where_none_can():
    other = Selection(name="y", source=FlatSource(train=9))
    assert len(Selection(name="x", source=Empty(), otherwise=other).open("train")) == 9
    with pytest.raises(OODError, match=r"^no such folder; otherwise: no such folder$"):
        Selection(name="x", source=Empty(), otherwise=Selection(name="y", source=Empty())).open("train")


def test_without_any_candidate_all_reasons_are_told():
    with pytest.raises(OODError, match="no such folder; no such folder"):
        Selection(name="x", source=FlatSource(), candidates=(Empty(), Empty(test=1))).open("train")


def test_selections_of_one_library_open_a_source_once(monkeypatch):
    opened = []
    monkeypatch.setattr(FlatSource, "open", lambda self, split: opened.append(split) or Flat(60))
    shared = SourcePool()
    for name in ("a", "b"):
        Selection(name=name, source=FlatSource(), classes=(name,)).open("train", shared)
    assert opened == ["train"]


def test_holdout_and_training_images_share_nothing_and_miss_nothing():
    train, held = select(holdout=0.2), select("holdout", holdout=0.2)
    assert len(held) == 12
    assert torch.bincount(held.labels).tolist() == [4, 4, 4]
    assert sorted(levels(train) + levels(held)) == list(range(60))


def test_the_holdout_is_no_prefix_of_the_files():
    assert levels(select("holdout", holdout=0.2)) != list(range(12))


def test_test_images_are_not_held_out():
    assert len(select("test", holdout=0.2)) == 30


def test_an_unknown_class_is_answered_with_the_nearest():
    with pytest.raises(OODError, match=r"no class 'd' in data set 'flat'. There is: a, b, c"):
        select(classes=("d",))


def test_classes_of_one_name_stay_apart_but_cannot_be_chosen_by_it(monkeypatch):
    monkeypatch.setattr(FlatSource, "open", lambda self, split: twins())
    assert torch.bincount(select().labels).tolist() == [10, 10, 10]
    with pytest.raises(OODError, match="data set 'flat' has 2 classes called 'a'; it cannot be chosen by name"):
        select(classes=("a",))


def twins():
    images = Flat(30)
    images.classes = ("a", "b", "a")
    return images


def test_a_selection_without_images_is_refused():
    with pytest.raises(OODError, match="data set 'flat' has no image for holdout"):
        select("holdout", holdout=0.01)


def test_the_fingerprint_tells_content_classes_and_purpose_apart():
    prints = [
        select().fingerprint,
        select(classes=("a", "b")).fingerprint,
        select(classes=("b", "a")).fingerprint,
        select(limit=3).fingerprint,
        select(holdout=0.1).fingerprint,
        select("holdout", holdout=0.1).fingerprint,
        select("test").fingerprint,
        select(limit=3, draw=1).fingerprint,
        select(superclasses=(("a", ("a",)), ("b", ("b", "c")))).fingerprint,
        select(skip_broken=True).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert select().fingerprint == prints[0]


def test_the_evaluation_view_scales_the_shorter_side_and_takes_the_centre():
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    image[:, :, 10:30] = 200
    view = selection.evaluation_view(image, 10)
    assert view.shape == (3, 10, 10)
    assert view.dtype == torch.uint8
    assert (view.float() - 200).abs().max() < 40


def test_an_image_that_fits_passes_unchanged():
    image = torch.randint(0, 255, (3, 8, 8), dtype=torch.uint8)
    assert selection.evaluation_view(image, 8) is image


@pytest.fixture
def memory(monkeypatch):
    cache = open_sources.MemoryCache()
    monkeypatch.setattr(open_sources, "_MEMORY", cache)
    return cache


def test_all_sources_of_a_process_share_a_cache_that_evicts_what_was_not_used_for_longest(memory, monkeypatch):
    one, two = select(), select()
    first = one.pixels(0)
    monkeypatch.setattr(open_sources, "MEMORY_BYTES", 2 * first.nbytes)
    other = two.pixels(0)
    assert one.pixels(0) is first
    one.pixels(1)
    assert memory.nbytes == open_sources.MEMORY_BYTES
    assert one.pixels(0) is first
    assert two.pixels(0) is not other


def test_an_image_larger_than_the_cache_is_decoded_each_time(memory, monkeypatch):
    monkeypatch.setattr(open_sources, "MEMORY_BYTES", 0)
    images = select()
    assert images.pixels(0) is not images.pixels(0)
    assert memory.nbytes == 0


def test_a_copy_for_another_process_has_images_of_its_own(memory):
    images = select()
    copied = copy.deepcopy(images)
    assert torch.equal(copied.pixels(0), images.pixels(0))
    assert copied.pixels(0) is not images.pixels(0)

"""What scorers see: rows, chunks, and nothing that they do not declare."""

from dataclasses import dataclass, replace

import pytest
import torch

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Scorer
from ood_core.testing import make_outputs
from ood_core.testing.data import make_image_outputs

TENSORS = ("embeddings", "logits", "labels")


def scorer_that_needs(*parts: str) -> Scorer:
    @dataclass(frozen=True, kw_only=True)
    class Needing(Scorer):
        name = "needing"
        needs = frozenset(parts)

        def fit(self, train: Outputs) -> None:
            raise NotImplementedError

    return Needing()


READINGS = [
    lambda values: values.double(),
    lambda values: values + 1,
    lambda values: torch.ones(3) @ values,
    lambda values: torch.cat([torch.ones(3), values]),
    lambda values: values.shape[1],
    lambda values: values.norm(dim=1),
    lambda values: torch.bincount(values, minlength=3),
    lambda values: values.numpy(),
    lambda values: values.tolist(),
    lambda values: torch.zeros(3)[values],
    lambda values: torch.zeros(3).index_add_(0, values, torch.ones(3)),
]


@pytest.mark.parametrize("read", READINGS)
@pytest.mark.parametrize("part", TENSORS)
def test_a_tensor_that_is_not_declared_names_scorer_and_need_when_it_is_read(part, read):
    outputs = make_outputs(rows=3).declared_by(scorer_that_needs("head"))
    expected = f"scorer 'needing' reads '{part}', which its 'needs' does not name; add \"{part}\" to 'needs'"
    for rows in (outputs, outputs[1:], outputs[torch.tensor([0, 2])], next(iter(outputs.chunks(2)))):
        with pytest.raises(OODError) as caught:
            read(getattr(rows, part))
        assert str(caught.value) == expected


def test_a_need_that_only_the_options_bring_is_checked_as_well():
    needing = scorer_that_needs("logits")
    other = type("Other", (type(needing),), {"own_needs": lambda self: frozenset({"logit"})})()
    with pytest.raises(OODError, match=r"^scorer 'needing' needs 'logit'\. Did you mean 'logits'\?$"):
        other.all_needs()


def test_outputs_keep_their_rows_and_chunks_whatever_is_declared():
    outputs = make_outputs(rows=7).declared_by(scorer_that_needs("logits"))
    assert len(outputs) == 7
    assert [len(chunk) for chunk in outputs.chunks(3)] == [3, 3, 1]
    assert torch.equal(outputs[2:4].logits, make_outputs(rows=7).logits[2:4])


def test_zeros_like_the_labels_are_there_without_the_labels():
    outputs = make_outputs(rows=4).declared_by(scorer_that_needs("embeddings"))
    zeros = torch.zeros_like(outputs[1:].labels)
    assert type(zeros) is torch.Tensor
    assert zeros.dtype == torch.int64
    assert zeros.tolist() == [0, 0, 0]
    assert outputs.without_labels().labels.tolist() == [-1] * 4


def test_what_is_declared_is_there_and_nothing_else():
    everything = make_image_outputs(scorer_that_needs("layers"), rows=10)
    everything = replace(everything, layers={"a": torch.ones(10, 2)})
    optional = ("head", "layers", "held_out", "known_ood", "network")
    for part in optional:
        outputs = everything.declared_by(scorer_that_needs(part))
        assert [name for name in optional if getattr(outputs, name)] == [part]
        assert (outputs.images is not None) == (part == "network")


def test_held_out_and_known_images_hold_no_more_than_is_declared():
    outputs = make_outputs().declared_by(scorer_that_needs("held_out", "known_ood", "logits"))
    for part in (outputs.held_out, outputs.known_ood):
        assert part.logits.shape[1] == 5
        with pytest.raises(OODError, match="reads 'embeddings'"):
            part.embeddings.double()
        with pytest.raises(OODError, match="reads 'labels'"):
            part.labels.max()


def test_what_scorers_within_a_scorer_declare_is_there(plugins):
    fusion = plugins.get("scorer", "rank-fusion")(
        scorers=(plugins.get("scorer", "energy")(), plugins.get("scorer", "mahalanobis")())
    )
    outputs = make_outputs().declared_by(fusion)
    assert outputs.logits.shape[1] == 5
    assert outputs.embeddings.shape[1] == 16
    assert outputs.labels.max() == 4
    assert outputs.held_out.logits.shape[1] == 5
    assert outputs.head is None
    assert outputs.known_ood is None

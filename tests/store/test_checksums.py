"""Checksums: whatever is changed of what they are over, they are others."""

import json
import zlib

import pytest
import torch

from ood_core.store.files import file_checksum, signed, tensors_checksum, verified

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor(3, dtype=torch.int64),
    "c": torch.ones(2, dtype=torch.bfloat16),
    "d": torch.empty(0),
    "e": torch.tensor([True, False]),
}
NOTES = {"step": 3, "loss": [0.1]}


def test_a_file_has_the_crc_of_its_content(tmp_path):
    content = bytes(range(256)) * 10_000  # more than one buffer
    (tmp_path / "file").write_bytes(content)
    assert file_checksum(tmp_path / "file") == f"{zlib.crc32(content):08x}"


@pytest.mark.parametrize(
    "changes",
    [
        {"a": TENSORS["a"].reshape(3, 2)},
        {"a": TENSORS["a"].view(torch.int32)},
        {"a": TENSORS["a"] + torch.finfo(torch.float32).eps},
        {"b": torch.tensor(4)},
        {"c": torch.tensor([1, 2], dtype=torch.bfloat16)},
        {"e": torch.tensor([True, True])},
        {"f": torch.empty(0)},
    ],
)
def test_another_value_type_shape_or_name_is_another_checksum(changes):
    first = tensors_checksum(TENSORS, NOTES)
    assert tensors_checksum({name: tensor.clone() for name, tensor in TENSORS.items()}, dict(NOTES)) == first
    assert tensors_checksum(TENSORS | changes, NOTES) != first
    assert tensors_checksum(TENSORS, NOTES | {"step": 4}) != first


def test_a_signed_document_comes_back_from_json_and_no_other_does():
    document = json.loads(json.dumps(signed({"a": [0.1, float("inf")], "b": None, "c": {"d": "é"}})))
    assert verified(document) == {"a": [0.1, float("inf")], "b": None, "c": {"d": "é"}}
    for changes in ({"b": 0}, {"e": 1}, {"checksum": "00000000"}):
        with pytest.raises(ValueError, match="it was changed since it was written"):
            verified(document | changes)
    with pytest.raises(ValueError, match="it was changed since it was written"):
        verified({"a": 1})

"""The store: a folder that is there is whole, whatever happens while it is written."""

from dataclasses import dataclass

import pytest
import torch

from ood_core import store as stores
from ood_core.errors import OODError
from ood_core.store import (
    Store,
    create_array,
    load_array,
    load_notes,
    load_tensors,
    save_tensors,
    write_text,
)


@dataclass(frozen=True)
class FakeStage:
    key: str
    kind: str = "train"

    def __str__(self):
        return f"fake {self.key}"


STAGE = FakeStage("abc")


@pytest.fixture(autouse=True)
def costs(monkeypatch):
    """A fake stage is like no other."""
    monkeypatch.setattr(stores, "alike", lambda stage: "alike")
    monkeypatch.setattr(stores, "work", lambda stage: 1)


def put(store, content="x"):
    with store.put(STAGE) as (folder, facts):
        (folder / "a.txt").write_text(content)
        facts["loss"] = 1.5


def test_what_was_put_is_found_again_with_its_facts(tmp_path):
    store = Store(tmp_path / "store")
    assert store.facts(STAGE) is None
    put(store)
    facts = store.facts(STAGE)
    assert facts["loss"] == 1.5
    assert (facts["stage"], facts["key"]) == ("fake abc", "abc")
    assert facts["seconds"] >= 0
    assert (store.folder(STAGE) / "a.txt").read_text() == "x"


def test_asking_writes_nothing(tmp_path):
    assert Store(tmp_path / "store").facts(STAGE) is None
    assert not (tmp_path / "store").exists()


def test_an_error_leaves_nothing_behind(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.put(STAGE) as (folder, _):
        (folder / "half").write_text("half")
        raise RuntimeError
    assert store.facts(STAGE) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_process_killed_while_writing_leaves_no_artifact(tmp_path):
    store = Store(tmp_path)
    manager = store.put(STAGE)
    folder, _ = manager.__enter__()
    (folder / "half").write_text("half")  # and no __exit__, as after kill -9
    assert store.facts(STAGE) is None
    put(store)
    assert {path.name for path in store.folder(STAGE).iterdir()} == {"a.txt", "stage.json"}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_unfinished_folder_vanishes_when_the_stage_is_filed(tmp_path):
    store = Store(tmp_path)
    checkpoint = store.unfinished(STAGE) / "checkpoint"
    checkpoint.write_text("x")
    put(store)
    assert not checkpoint.exists()


def test_damaged_facts_are_named(tmp_path):
    store = Store(tmp_path)
    put(store)
    (store.folder(STAGE) / "stage.json").write_text('{"loss":')
    with pytest.raises(OODError, match=r"stage\.json is damaged"):
        store.facts(STAGE)


def test_a_folder_without_its_facts_is_replaced(tmp_path):
    store = Store(tmp_path)
    put(store, "old")
    (store.folder(STAGE) / "stage.json").unlink()
    assert store.facts(STAGE) is None
    put(store, "new")
    assert (store.folder(STAGE) / "a.txt").read_text() == "new"


@pytest.mark.parametrize("text", ["{}", "[1]", '{"key": "other"}'])
def test_facts_that_are_not_the_stages_own_are_named(tmp_path, text):
    store = Store(tmp_path)
    put(store)
    (store.folder(STAGE) / "stage.json").write_text(text)
    with pytest.raises(OODError, match=r"stage\.json is damaged \(.*\); delete its folder, and it is computed again"):
        store.facts(STAGE)


@pytest.mark.parametrize("load", [load_tensors, load_notes, load_array])
@pytest.mark.parametrize("content", [b"", b"cut", None])
def test_a_damaged_or_missing_file_is_named(tmp_path, load, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(OODError, match=r"/file is damaged \(.*\); delete its folder, and it is computed again"):
        load(tmp_path / "file")


def test_an_array_that_was_cut_off_is_named(tmp_path):
    create_array(tmp_path / "a.npy", (1000, 8)).flush()
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(OODError, match=r"a\.npy is damaged"):
        load_array(tmp_path / "a.npy")


def test_a_failed_write_keeps_the_old_text(tmp_path):
    path = tmp_path / "report.md"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_back_as_they_were_also_when_they_share_memory(tmp_path):
    base = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    tensors = {"a": base, "b": base.T, "c": base[0], "d": torch.tensor([True, False])}
    save_tensors(tmp_path / "t", tensors, {"step": 3, "loss": 0.1})
    loaded = load_tensors(tmp_path / "t")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert load_notes(tmp_path / "t") == {"step": 3, "loss": 0.1}


def test_an_array_is_memory_mapped_and_may_be_empty(tmp_path):
    array = create_array(tmp_path / "a.npy", (3, 2))
    array[:] = 7
    array.flush()
    loaded = load_array(tmp_path / "a.npy")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, torch.full((3, 2), 7.0))
    create_array(tmp_path / "b.npy", (3, 0)).flush()
    assert load_array(tmp_path / "b.npy").shape == (3, 0)

"""The store: a folder that is there is whole, whatever happens while it is written."""

import errno
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors import SafetensorError

from ood_core.errors import OODError
from ood_core.runtime import leftovers
from ood_core.store import files
from ood_core.store import store as stores
from ood_core.store.files import (
    DiskFullError,
    create_array,
    load_array,
    load_notes,
    load_tensors,
    save_tensors,
    signed,
    verified,
    write_text,
)
from ood_core.store.store import Store


@dataclass(frozen=True)
class FakeStage:
    key: str
    kind: str = "score"

    def __str__(self):
        return f"fake {self.key}"


STAGE = FakeStage("abc")
RATE = {"seconds": 2.0, "work": 1}
FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


pytestmark = pytest.mark.usefixtures("fake_stages")


def put(store, content="x"):
    with store.put(STAGE) as (folder, facts):
        (folder / "a.txt").write_text(content)
        facts["images"] = 15


def test_what_was_put_is_found_again_with_its_facts(tmp_path):
    store = Store(tmp_path / "store")
    assert store.facts(STAGE) is None
    put(store)
    facts = store.facts(STAGE)
    assert facts["images"] == 15
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


@pytest.mark.parametrize("old_text", [None, '{"loss":', "", "{}", "[1]", '{"key": "other"}', '{"key": "abc"}', "\0"])
def test_a_stage_with_damaged_facts_counts_as_absent_and_is_replaced(tmp_path, caplog, old_text):
    store = Store(tmp_path)
    put(store, "old")
    file = store.folder(STAGE) / "stage.json"
    file.write_text(file.read_text().replace('"images": 15', '"images": 16') if old_text is None else old_text)
    assert store.facts(STAGE) is None
    assert store.facts(STAGE) is None
    (message,) = caplog.messages  # once
    assert message.startswith(f"{file} is damaged (")
    assert message.endswith("): 'fake abc' counts as not stored")
    put(store, "new")
    assert store.facts(STAGE)["images"] == 15
    assert store.file(STAGE, "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": "15"}, "images: Input should be a valid integer"),
        ({"images": 15, "loss": 0.5}, "loss: Unexpected keyword argument"),
        ({}, "images: Field required"),
    ],
)
def test_facts_that_are_not_those_of_the_kind_count_as_absent(tmp_path, caplog, wrong, message):
    store = Store(tmp_path)
    put(store)
    file = store.folder(STAGE) / "stage.json"
    entries = verified(json.loads(file.read_text()))
    del entries["images"]
    file.write_text(json.dumps(signed(entries | wrong)))
    assert store.facts(STAGE) is None
    assert caplog.messages == [f"{file} is damaged ({message}): 'fake abc' counts as not stored"]
    with pytest.raises(ValueError, match=message), store.put(STAGE) as (_, facts):
        facts |= wrong


def test_a_file_is_read_for_its_checksum_once_for_each_state(tmp_path, monkeypatch):
    put(Store(tmp_path))
    read = []
    really = stores.file_checksum
    monkeypatch.setattr(stores, "file_checksum", lambda path: read.append(path.name) or really(path))
    store = Store(tmp_path)
    for _ in range(3):
        path = store.file(STAGE, "a.txt")
    assert read == ["a.txt"]
    path.write_text("y")
    with pytest.raises(OODError, match="is damaged"):
        store.file(STAGE, "a.txt")
    path.write_text("x")
    assert store.file(STAGE, "a.txt") == path


def test_what_a_process_filed_itself_is_not_read_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    put(store)
    monkeypatch.setattr(stores, "file_checksum", None)
    assert store.file(STAGE, "a.txt").read_text() == "x"


@pytest.mark.parametrize("content", [b"y", b"", b"xx", None])
def test_a_file_that_is_not_what_was_filed_is_named_with_the_folder_to_delete(tmp_path, content):
    put(Store(tmp_path))
    store = Store(tmp_path)
    path = store.folder(STAGE) / "a.txt"
    path.write_bytes(content) if content is not None else path.unlink()
    with pytest.raises(OODError) as caught:
        store.file(STAGE, "a.txt")
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith(f"); delete the folder {path.parent}, and it is computed again")
    assert "\n" not in str(caught.value)


def test_what_lies_beside_the_files_of_a_stage_is_no_part_of_it(tmp_path):
    store = Store(tmp_path)
    put(store)
    (store.folder(STAGE) / "junk").write_text("x")
    assert set(store.names(STAGE)) == {"a.txt"}
    with pytest.raises(OODError, match=r"junk is damaged"):
        store.file(STAGE, "junk")


def test_a_stage_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OODError, match=r"^fake abc: is not in the store"):
        Store(tmp_path).file(STAGE, "a.txt")


def test_a_lock_is_deleted_also_after_a_stage_that_failed(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.lock(STAGE):
        assert (tmp_path / "locks" / "abc").exists()
        raise RuntimeError
    assert list((tmp_path / "locks").iterdir()) == []


def test_locks_and_parts_of_stages_of_killed_processes_are_removed_before_a_run(tmp_path):
    store = Store(tmp_path)
    for name in ("locks/killed", "temporary/killed/a.npy", "temporary/unlocked/a.npy", "temporary/abc/a.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with store.lock(STAGE):
        store.prepare()
        assert {path.name for path in tmp_path.glob("*/*")} == {"abc"}
        assert (tmp_path / "temporary" / "abc" / "a.npy").exists()
    store.prepare()
    assert list(tmp_path.glob("*/*")) == []


def test_a_stage_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done, replace = [], Path.replace
    monkeypatch.setattr(files, "flush", lambda path: done.append(path.name))
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append("renamed") or replace(self, target))
    put(Store(tmp_path))
    assert sorted(done[:2]) == ["a.txt", "stage.json"]
    assert done[2:] == ["abc", "renamed", "score"]


def test_what_a_killed_process_left_beside_a_file_is_removed_before_it_is_written_again(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(leftovers, "_PROCESS", "abcdef")
        left = leftovers.temporary_path(tmp_path / "report.html")
    left.write_text("half")
    write_text(tmp_path / "report.md", "text")
    assert {path.name for path in tmp_path.iterdir()} == {"report.md"}


def test_a_lock_keeps_others_out_also_after_one_that_failed(tmp_path):
    store, at_work, most = Store(tmp_path), [], []

    def work():
        try:
            with store.lock(STAGE):
                if store.facts(STAGE) is None:
                    at_work.append(1)
                    most.append(len(at_work))
                    time.sleep(0.02)
                    at_work.pop()
                    if len(most) < 3:
                        raise RuntimeError
                    put(store)
        except RuntimeError:
            pass

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert list((tmp_path / "locks").iterdir()) == []


def test_waiting_for_another_process_names_the_stage_and_that_process_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(stores, "PATIENCE", 0.01)
    store, holder = Store(tmp_path), f"{os.getpid()} of {platform.node()}"

    def wait():
        with store.lock(STAGE):
            pass

    wait()
    assert caplog.messages == []
    with store.lock(STAGE):
        assert (tmp_path / "locks" / "abc").read_text() == holder
        thread = Thread(target=wait)
        thread.start()
        thread.join(0.3)
        assert caplog.messages == [f"fake abc: waiting for process {holder}, which is at work on it"]
    thread.join()
    assert len(caplog.messages) == 1


def test_costs_are_read_of_a_bounded_number_of_stages_and_damage_does_not_stop_that(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(stores, "cost_key", lambda stage: stage.key)
    for key in ("a", "b", "c", "d"):
        with store.put(FakeStage(key)) as (_, facts):
            facts |= {"seconds": 2.0, "images": 1}
        os.utime(store.folder(FakeStage(key)) / "stage.json", (0, ord(key)))
    (store.folder(FakeStage("d")) / "stage.json").write_text("{")
    assert store.rates({"a", "b", "d"}) == {"a": 2.0, "b": 2.0}
    monkeypatch.setattr(stores, "RATES", 3)
    assert store.rates({"a", "b", "d"}) == {"b": 2.0}
    read = []
    monkeypatch.setattr(stores, "_read_entries", lambda path, key: read.append(key) or {"alike": "x", **RATE})
    assert store.rates({"x"}) == {"x": 2.0}
    assert read == ["d"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError(FULL)])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, error):
    store = Store(tmp_path)
    message = rf"^{tmp_path}: cannot be written, the disk is full: .*No space left on device.*the same command goes on$"
    with pytest.raises(DiskFullError, match=message), store.put(STAGE) as (folder, _):
        (folder / "half").write_text("half")
        raise error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("use", [Store.unfinished, lambda store, stage: store.lock(stage).__enter__()])
def test_a_disk_without_room_for_another_folder_is_one_line(tmp_path, monkeypatch, use):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskFullError, match=rf"^{tmp_path}: cannot be written, the disk is full"):
        use(Store(tmp_path), STAGE)


def test_a_root_that_cannot_be_made_is_one_line(tmp_path):
    store = Store(tmp_path / ("x" * 300))
    with pytest.raises(OODError, match=r"locks/abc: cannot be written: File name too long$"), store.lock(STAGE):
        pass


def test_an_array_takes_its_room_at_once_as_a_full_disk_would_kill_the_process_later(tmp_path, monkeypatch):
    create_array(tmp_path / "a.npy", (1000, 100))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 400_000

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        create_array(tmp_path / "b.npy", (1000, 100))


def test_a_folder_without_its_facts_is_replaced(tmp_path):
    store = Store(tmp_path)
    put(store, "old")
    (store.folder(STAGE) / "stage.json").unlink()
    assert store.facts(STAGE) is None
    put(store, "new")
    assert (store.folder(STAGE) / "a.txt").read_text() == "new"


@pytest.mark.parametrize("load", [load_tensors, load_notes, load_array])
@pytest.mark.parametrize("content", [b"", b"cut", None])
def test_a_damaged_or_missing_file_is_named(tmp_path, load, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(OODError, match=r"/file is damaged \(.*\); delete the folder .*, and it is computed again"):
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

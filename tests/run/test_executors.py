"""Jobs side by side: the same results as one after another, and what becomes of them when a process dies."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import psutil
import pytest
import torch

from ood_core.errors import OODError
from ood_core.hookspecs import hookimpl
from ood_core.pipeline.dispatch import JobResult
from ood_core.plan.make import make_plan
from ood_core.plugins import find, hook_manager
from ood_core.recipe.read import read_recipes
from ood_core.records.results import Failure
from ood_core.run import executors, worker
from ood_core.run.executors import Executor, InProcess, Job, LocalProcesses, local_executor, places
from ood_core.run.schedule import jobs, run
from ood_core.run.worker import Assignment, _portable, work
from ood_core.runtime.plugin_errors import PluginError
from ood_core.store.files import DiskFullError, load_tensors
from ood_core.store.store import Store

from .. import conftest

HOOKS = hook_manager().hook
SEEDS = "seeds=[0, 1]"
LONG = "vary: {short: {}, long: {training.0.epochs: 100000}}\n"


def planned(path, *overrides):
    return conftest.planned(path, *overrides)[1]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


# ------------------------------------------------------------------------------------------------------- scheduling


class Recording(Executor):
    """Takes down in which order jobs begin, pretends to carry them out, and lets some stages fail."""

    def __init__(self, places, failing=(), deadly=None):
        self.places, self.failing, self.deadly = places, failing, deadly
        self.began, self.running = [], []

    def has_room(self):
        return len(self.running) < self.places

    def submit(self, job):
        self.began.append(job)
        self.running.append(job)

    def next_result(self):
        job = self.running.pop()
        keys = [stage.key for stage in job.stages]
        if self.deadly in keys:
            done = tuple(keys[: keys.index(self.deadly)])
            return job, JobResult(done, done, (failure(job.stages[len(done)]),))
        failed = [stage for stage in job.stages if stage.key in self.failing]
        lost = {stage.key for stage in failed}
        for stage in job.stages:
            if any(earlier.key in lost for earlier in stage.inputs):
                lost.add(stage.key)
        done = tuple(stage.key for stage in job.stages if stage.key not in lost)
        return job, JobResult(done, done, tuple(map(failure, failed)))

    def close(self):
        self.closed = True


def failure(stage):
    return Failure(stage, "broken", RuntimeError("broken"))


def schedule(todo, executor):
    from ood_core.run.schedule import _carry_out

    return _carry_out(todo, executor)


def test_a_job_begins_when_all_that_it_needs_is_done(tiny, store):
    made = planned(tiny, SEEDS)
    recording = Recording(places=3)
    done, failures = schedule(jobs(made, store), recording)
    assert done == {stage.key for stage in made.stages}
    assert not failures
    seen = set()
    for job in recording.began:
        assert job.needs <= seen
        seen |= {stage.key for stage in job.stages}


def test_what_needs_a_failed_stage_is_left_out_and_all_else_is_done(tiny, store):
    made = planned(tiny, SEEDS)
    broken = next(stage for stage in made.stages if stage.kind == "train" and stage.seed == 0)
    done, failures = schedule(jobs(made, store), Recording(places=2, failing=[broken.key]))
    assert [failed.stage.key for failed in failures] == [broken.key]
    assert done == {stage.key for row in made.rows if row.seed == 1 for stage in behind(row.measure)}


def behind(stage):
    return [stage, *(found for earlier in stage.inputs for found in behind(earlier))]


def test_what_a_dead_process_did_not_come_to_is_begun_again(tiny, store):
    made = planned(tiny)
    fit = next(job for job in jobs(made, store) if job.stages[0].kind == "fit")
    deadly = fit.stages[1]
    assert deadly.kind == "score"
    done, failures = schedule(jobs(made, store), Recording(places=1, deadly=deadly.key))
    assert [failed.stage.key for failed in failures] == [deadly.key]
    lost = {stage.key for stage in fit.stages if deadly.key in {earlier.key for earlier in behind(stage)}}
    assert done == {stage.key for stage in made.stages} - lost


def test_jobs_are_trainings_passes_and_all_of_one_fitted_scorer(tiny, store):
    made = planned(tiny)
    kinds = [[stage.kind for stage in job.stages] for job in jobs(made, store)]
    assert kinds[0] == ["train"]
    assert kinds[1:-2] == [["extract"]] * 5
    for kind in kinds[-2:]:
        assert kind == ["fit", *["score"] * 4, *["measure"] * 2]


# -------------------------------------------------------------------------------------------------- how many at once


def test_as_many_jobs_as_asked_for_share_the_cores(tiny, store, monkeypatch):
    todo = jobs(planned(tiny, SEEDS), store)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert places(todo, 3) == (3, 2)
    assert places(todo, 16) == (16, 1)


def test_small_trainings_are_not_worth_a_process(tiny, store, monkeypatch):
    todo = jobs(planned(tiny, SEEDS), store)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert places(todo, None) == (1, 8)
    monkeypatch.setattr(executors, "SMALL", 0)
    assert places(todo, None) == (2, 4)


def test_trainings_that_wait_for_each_other_are_one_chain(tiny, store, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(executors, "SMALL", 0)
    chain = "training=[{use: rotation, epochs: 1, batch_size: 16}, {use: classification, epochs: 1, batch_size: 16}]"
    assert places(jobs(planned(tiny, chain), store), None) == (1, 8)


def test_with_gpus_each_has_its_jobs(tiny, store, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert places(jobs(planned(tiny), store), None) == (2, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with executors._environment(1, 4):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
        assert os.environ["OMP_NUM_THREADS"] == "4"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_one_place_is_this_process(tiny, store):
    made = planned(tiny, SEEDS)
    assert isinstance(local_executor(made, store, HOOKS, jobs(made, store), 1, {}), InProcess)
    assert isinstance(local_executor(made, store, HOOKS, jobs(made, store), 2, {}), LocalProcesses)


def test_no_job_begins_without_memory_for_it_unless_none_is_at_work(tiny, store, monkeypatch):
    made = planned(tiny, SEEDS)
    at_work = local_executor(made, store, HOOKS, [], 2, {})
    monkeypatch.setattr(executors.memory, "available", lambda: 0.0)
    assert at_work.has_room()
    at_work._workers.append(executors._Worker(None, None, 0, Job(made.stages[:1])))
    assert not at_work.has_room()
    monkeypatch.setattr(executors.memory, "available", lambda: 1e9)
    assert at_work.has_room()


# ---------------------------------------------------------------------------------------------------- real processes


class Killer:
    """Kills the process that trains the variant of many epochs, as soon as it does."""

    def __init__(self, executor):
        self.executor = executor
        self.killed = 0

    @hookimpl
    def ood_on_progress(self, stage, done, total):
        if stage.kind == "train" and stage.task.epochs == 100_000 and not self.killed:
            worker = next(one for one in self.executor._workers if one.stage is not None and one.stage.key == stage.key)
            self.killed = worker.process.pid
            os.kill(worker.process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_costs_its_variant_alone_and_the_others_are_as_of_one_process(tiny, tmp_path):
    variants = "vary: {one: {}, two: {seed: 1}, long: {training.0.epochs: 100000}}\n"
    tiny.write_text(tiny.read_text() + variants)
    made, others = planned(tiny), make_plan(read_recipes(tiny, (), ("variant=one,two",)), find())
    together, alone = Store(tmp_path / "together"), Store(tmp_path / "alone")
    manager = hook_manager()
    at_work = local_executor(made, together, manager.hook, jobs(made, together), 2, {})
    killer = Killer(at_work)
    manager.register(killer)
    results = run(made, together, manager.hook, at_work)
    assert killer.killed
    (failed,) = results.failures
    assert failed.message == "train classification: its process was ended by SIGKILL; what it had done is kept"

    expected = run(others, alone)
    assert [(row.variant, row.auroc) for row in results.rows] == [(row.variant, row.auroc) for row in expected.rows]
    assert {row.variant for row in results.rows} == {"one", "two"}
    for stage in others.stages:
        if stage.kind == "train":
            first, second = (load_tensors(of.folder(stage) / "weights.safetensors") for of in (together, alone))
            assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_disk_that_another_process_found_full_ends_the_run(tiny, store, monkeypatch):
    def full(*_):
        raise DiskFullError("store: cannot be written, the disk is full")

    made = planned(tiny)
    monkeypatch.setattr(worker, "carry_out", full)
    here, there = multiprocessing.Pipe()
    thread = Thread(target=work, args=(there, Assignment(pickle.dumps(made.stages), made.versions, store.root, 1, {})))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # threads must not
    monkeypatch.setattr(os, "_exit", lambda _: None)
    thread.start()
    at_work = local_executor(made, store, HOOKS, jobs(made, store), 2, {})
    at_work._workers.append(executors._Worker(None, here, 0))
    here.send([made.stages[0].key])
    with pytest.raises(DiskFullError, match=r"^store: cannot be written, the disk is full$"):
        at_work.next_result()
    here.close()
    thread.join()


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_process_behind(tiny, tmp_path):
    tiny.write_text(tiny.read_text() + LONG)
    command = [Path(sys.executable).with_name("ood-run"), tiny, "--jobs", "2", "--store", tmp_path / "s"]
    at_work = subprocess.Popen(
        [*command, "--out", tmp_path / "o"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("s/train/*/stage.json")) and time.monotonic() < deadline:  # the short one is done
        time.sleep(0.2)
    children = psutil.Process(at_work.pid).children(recursive=True)
    assert children
    at_work.send_signal(signal.SIGINT)
    _, errors = at_work.communicate(timeout=60)
    assert at_work.returncode == 130
    assert "interrupted; the same command goes on from here" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_mistake_from_another_process_is_one_line_and_a_bug_keeps_its_traceback(tiny):
    stage = planned(tiny).stages[0]
    mistake = _portable(Failure.of(stage, OODError("too\nlarge")))
    assert pickle.loads(pickle.dumps(mistake)) == mistake  # noqa: S301 - our own
    assert str(mistake.error) == r"too\nlarge"
    try:
        stage.seed / 0
    except ZeroDivisionError as error:
        bug = pickle.loads(pickle.dumps(_portable(Failure.of(stage, error))))  # noqa: S301 - our own
    assert bug.message == "train classification: ZeroDivisionError: division by zero"
    assert isinstance(bug.error, RuntimeError)
    assert "stage.seed / 0" in bug.error.__notes__[0]


def test_the_exception_of_a_plugin_in_another_process_is_one_line_and_keeps_its_traceback(tiny):
    stage = planned(tiny).stages[0]
    failure = _portable(Failure.of(stage, PluginError.of("train classification", ZeroDivisionError("no rows"))))
    received = pickle.loads(pickle.dumps(failure))  # noqa: S301 - our own
    assert isinstance(received.error, OODError)
    assert str(received.error) == received.message == "train classification: ZeroDivisionError: no rows"
    assert received.traceback == "ZeroDivisionError: no rows\n"


def test_a_process_with_other_code_says_so_and_goes_on(tiny, store):
    made = planned(tiny)
    here, there = multiprocessing.Pipe()
    other = made.versions | {"ood-framework": "0.1+00000000"}
    assignment = Assignment(pickle.dumps(made.stages), other, store.root, 1, {})
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there, assignment))
    process.start()
    there.close()
    for _ in range(2):
        here.send([made.stages[0].key])
        assert str(here.recv()) == "code changed since the run began: ood-framework; run it again"
    here.close()
    process.join(20)
    assert process.exitcode == 0


def test_stages_that_cannot_be_sent_are_carried_out_in_this_process(tiny, store, caplog):
    made = planned(tiny)
    made.stages[0].images.opened.open_file = tiny.open()
    assert isinstance(local_executor(made, store, HOOKS, jobs(made, store), 2, {}), InProcess)
    assert "one job after another: stages cannot be sent to other processes: TypeError: cannot pickle" in caplog.text

"""Detectors give the same scores whatever their caller has set in torch, and leave it as it was."""

import contextlib
import random
import threading

import numpy as np
import pytest
import torch

from ood_core.detector import Detector
from ood_core.runtime.torch_state import GENERATORS, OF_PROCESS, OF_STAGE, OF_THREAD

SETTINGS = {setting.name: setting for setting in (*OF_PROCESS, *OF_THREAD, *GENERATORS, *OF_STAGE)}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 11, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(tiny_detector, images):
    return tiny_detector.predict(images)


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@contextlib.contextmanager
def low_precision():
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


CONTEXTS = {
    "autocast": lambda: torch.autocast("cpu"),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64": default_dtype,
    "another device": default_device,
    "another device around": lambda: torch.device("meta"),
    "bfloat16 products": low_precision,
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_predictions_are_the_same_in_any_state_of_the_caller(context, tiny_detector, images, expected):
    with context():
        before = {name: setting.read() for name, setting in SETTINGS.items()}
        found = tiny_detector.predict(images)
        assert {name: setting.read() for name, setting in SETTINGS.items()} == before
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.p_value, expected.p_value)


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_a_detector_loads_and_fits_alike_in_any_state_of_the_caller(context, tiny_run, images, expected):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    train = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3

    def fitted():
        return Detector(image_size=8).fit(module, train, ["energy", "mahalanobis"]).score(images)

    plain = fitted()
    with context():
        before = {name: setting.read() for name, setting in SETTINGS.items()}
        loaded = Detector.load(tiny_run.detector).predict(images).score
        found = fitted()
        assert {name: setting.read() for name, setting in SETTINGS.items()} == before
    np.testing.assert_array_equal(loaded, expected.score)
    for name, values in plain.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_stream_leaves_the_caller_its_state_between_batches(tiny_detector, images):
    expected = tiny_detector.predict(images, batch_size=5)
    torch.set_default_dtype(torch.float64)
    try:
        scores = []
        with torch.autocast("cpu"):
            for _, found in tiny_detector.stream(images, batch_size=5):
                assert torch.get_default_dtype() == torch.float64
                assert torch.is_autocast_enabled("cpu")
                torch.manual_seed(len(scores))
                scores.append(found.scores[tiny_detector.scorers[0]])
                drawn = torch.get_rng_state()
            assert torch.equal(torch.get_rng_state(), drawn)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(np.concatenate(scores), expected.score)


def test_an_error_in_the_network_leaves_the_callers_state(tiny_run, images):
    detector = Detector.load(tiny_run.detector)

    def fail(*_):
        raise KeyError("no such layer")

    detector.state.network.forward_features = fail
    before = {name: setting.read() for name, setting in SETTINGS.items()}
    with pytest.raises(KeyError):
        detector.predict(images)
    assert {name: setting.read() for name, setting in SETTINGS.items()} == before


def test_predictions_leave_the_threads_of_the_process_alone(tiny_detector, images):
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        large = np.random.default_rng(0).integers(0, 256, (4, 80, 80, 3), dtype=np.uint8)
        tiny_detector.predict(images)
        tiny_detector.predict(large)
        found = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert found == [torch.get_num_threads()] == [3]
    finally:
        torch.set_num_threads(usual)


def test_two_threads_that_predict_at_once_leave_the_callers_state(tiny_detector, images):
    expected = tiny_detector.predict(images, batch_size=2)
    torch.set_default_dtype(torch.float64)
    try:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        before = {name: setting.read() for name, setting in SETTINGS.items()}
        found = []
        threads = [
            threading.Thread(
                target=lambda: found.extend(tiny_detector.predict(images, batch_size=2).score for _ in range(10))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {name: setting.read() for name, setting in SETTINGS.items()} == before
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(found) == 20
    for scores in found:
        np.testing.assert_allclose(scores, expected.score, rtol=1e-6)

"""What happens where memory runs out: batches are halved and all goes on, or one line says what to do."""

import numpy as np
import pytest
import torch

from ood_core.detector import Detector
from ood_core.errors import OODError
from ood_core.pipeline import score
from ood_core.run.schedule import run
from ood_core.runtime.memory import Halving, exhaustion_explained, is_exhausted
from ood_core.store.files import load_array
from ood_core.store.store import Store
from ood_mahalanobis.scorers import Mahalanobis
from ood_timm.network import TimmNetwork

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
ERRORS = [
    CUDA,
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError("Unable to allocate 7.45 GiB for an array"),
]


def room_for(most, sizes, error=CUDA):
    def compute(part):
        sizes.append(len(part))
        if len(part) > most:
            raise error
        return 2 * part

    return compute


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_is_halved_until_it_fits_and_later_ones_begin_with_that_size(error):
    sizes, in_parts = [], Halving()
    compute = room_for(3, sizes, error)
    assert torch.cat(in_parts(compute, torch.arange(10))).tolist() == list(range(0, 20, 2))
    assert sizes == [10, 5, 3, 2, 3, 2]
    sizes.clear()
    assert torch.cat(in_parts(compute, torch.arange(5))).tolist() == list(range(0, 10, 2))
    assert sizes == [3, 2]


def test_a_batch_that_fits_is_passed_whole():
    sizes = []
    (whole,) = Halving()(room_for(10, sizes), torch.arange(10))
    assert len(whole) == 10 and sizes == [10]


def test_a_single_image_that_does_not_fit_is_told_in_one_line():
    with pytest.raises(OODError, match=r"^out of memory even with one image at a time: [^\n]+$"):
        Halving()(room_for(0, []), torch.arange(4))


def test_other_errors_of_torch_are_no_lack_of_memory():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 2x2)")
    assert not is_exhausted(error) and not is_exhausted(ValueError("out of memory"))
    for context in (lambda: Halving()(room_for(0, [], error), torch.arange(4)), lambda: fail(error)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), exhaustion_explained("never"):
            context()


def fail(error):
    raise error


@pytest.fixture
def small_gpu(monkeypatch):
    """`small_gpu(most)`: networks in evaluation mode find no memory for more images than that at once."""
    really = TimmNetwork.forward_features

    def limit(most):
        def forward(self, images):
            if not self.training and len(images) > most:
                raise CUDA
            return really(self, images)

        monkeypatch.setattr(TimmNetwork, "forward_features", forward)

    return limit


def results(store, plan):
    files = [(stage, name) for stage in plan.stages for name in ("embeddings.npy", "logits.npy", score.SCORES)]
    return {
        (str(stage), name): load_array(store.folder(stage) / name)
        for stage, name in files
        if (store.folder(stage) / name).is_file()
    }


def test_extraction_and_scoring_go_on_with_smaller_batches(make_plan, tiny, tmp_path, small_gpu):
    plan = make_plan(tiny, "scorers=[energy, odin]")
    plain, small = Store(tmp_path / "plain"), Store(tmp_path / "small")
    run(plan, plain)
    small_gpu(7)
    assert not run(plan, small).failures
    expected, found = results(plain, plan), results(small, plan)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-5)


def test_a_network_too_large_for_one_image_fails_its_stage_in_one_line(make_plan, tiny, tmp_path, small_gpu):
    small_gpu(0)
    with pytest.raises(OODError, match=r"^extract [^\n]*: out of memory even with one image at a time: [^\n]*$"):
        run(make_plan(tiny), Store(tmp_path / "store"))


def test_memory_that_runs_out_in_fitting_names_the_scorer_and_the_option(make_plan, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Mahalanobis, "fit", lambda self, train: fail(ERRORS[1]))
    (failure,) = run(make_plan(tiny), Store(tmp_path / "store")).failures
    assert failure.message.endswith(
        "out of memory fitting scorer 'mahalanobis': fit it to fewer images, see 'fit_images'"
    )


def test_a_detector_goes_on_with_smaller_batches(tiny_detector, small_gpu):
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    expected = tiny_detector.score(images)
    small_gpu(2)
    for name, values in tiny_detector.score(images).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6)
    small_gpu(0)
    with pytest.raises(OODError, match=r"^out of memory even with one image at a time"):
        tiny_detector.score(images)


def test_memory_that_runs_out_in_fitting_a_detector_is_told_in_one_line(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    monkeypatch.setattr(Mahalanobis, "fit", lambda self, train: fail(ERRORS[1]))
    with pytest.raises(OODError, match=r"^out of memory fitting scorer 'mahalanobis': give fewer images$"):
        Detector(image_size=8).fit(module, (images, np.arange(40) % 4), ["mahalanobis"])

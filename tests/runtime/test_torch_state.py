"""Stages and passes of detectors depend on nothing that plugins or callers set in the process, and leave nothing."""

import random
import threading
import warnings

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import torch

from ood_classification.pretext import ClassificationTask
from ood_core import plugins
from ood_core.data.loaders import _prefetch
from ood_core.errors import OODError
from ood_core.run.schedule import run
from ood_core.runtime import torch_state
from ood_core.runtime.torch_state import AS_FOUND, GENERATORS, OF_PROCESS, OF_STAGE, OF_THREAD
from ood_core.store.store import Store
from ood_logits.energy import Energy
from ood_samples.sources import DigitImages
from ood_timm.backbone import Timm

SETTINGS = {setting.name: setting for setting in (*OF_PROCESS, *OF_THREAD, *GENERATORS, *OF_STAGE)}

CHANGES = {
    "torch.get_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "float32 precision of torch": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.autograd.set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "torch.backends.cudnn.enabled": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch.backends.cudnn.deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "torch.backends.mkldnn.enabled": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "torch.backends.mkldnn.deterministic": lambda: setattr(torch.backends.mkldnn, "deterministic", True),
    **{
        f"torch.backends.cuda.matmul.{name}": lambda name=name, value=value: setattr(
            torch.backends.cuda.matmul, name, value
        )
        for name, value in (
            ("allow_fp16_reduced_precision_reduction", False),
            ("allow_bf16_reduced_precision_reduction", False),
            ("allow_fp16_accumulation", True),
        )
    },
    "torch.backends.cuda.enable_flash_sdp": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "torch.backends.cuda.enable_math_sdp": lambda: torch.backends.cuda.enable_math_sdp(False),
    "torch.backends.cuda.enable_cudnn_sdp": lambda: torch.backends.cuda.enable_cudnn_sdp(False),
    "torch.backends.cuda.enable_mem_efficient_sdp": lambda: torch.backends.cuda.enable_mem_efficient_sdp(False),
    "torch.set_default_device": lambda: torch.set_default_device("meta"),
    "torch.autocast('cpu')": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.set_autocast_dtype('cpu')": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "torch.autocast('cuda')": lambda: torch.set_autocast_enabled("cuda", True),
    "torch.set_autocast_dtype('cuda')": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "torch.set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "torch.set_flush_denormal": lambda: torch.set_flush_denormal(True),
    "numpy.seterr": lambda: np.seterr(all="raise"),
    "the generators of torch": lambda: torch.manual_seed(99),
    "the generator of numpy": lambda: np.random.seed(99),
    "the generator of random": lambda: random.seed(99),
    "torch.set_num_threads": lambda: torch.set_num_threads(3),
    "torch.multiprocessing.set_sharing_strategy": lambda: torch.multiprocessing.set_sharing_strategy("file_system"),
    "warnings.filters": lambda: warnings.simplefilter("error"),
    "PIL.Image.MAX_IMAGE_PIXELS": lambda: setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10),
    "PIL.ImageFile.LOAD_TRUNCATED_IMAGES": lambda: setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True),
}
"""What foreign code may do to each setting."""


@pytest.fixture
def untouched():
    """Give the tests after this one the state that they would have had without it."""
    before = {name: setting.read() for name, setting in SETTINGS.items()}
    yield before
    for name, setting in SETTINGS.items():
        setting.write(before[name])


def change(without=()):
    for name, one in CHANGES.items():
        if name not in without:
            one()


def test_each_setting_has_a_change_that_is_tried_here():
    assert set(CHANGES) == set(SETTINGS)


@pytest.mark.parametrize("name", CHANGES)
def test_a_stage_begins_with_the_stated_value_and_gives_the_callers_back(name, untouched):
    setting = SETTINGS[name]
    CHANGES[name]()
    changed = setting.read()
    assert changed != untouched[name]
    with torch_state.stage_state():
        begun = setting.read()
    assert setting.read() == changed
    if setting in GENERATORS:
        random.random(), np.random.rand(), torch.rand(1)
        with torch_state.stage_state():
            assert setting.read() == begun != changed  # whatever was drawn before
    elif name == "torch.set_default_device":
        assert begun == torch.device("cpu")
    else:
        assert begun == (changed if setting.stated is AS_FOUND else setting.stated)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("context", [torch_state.stage_state, lambda: torch_state.restoring(generators=True)])
def test_what_is_changed_within_a_stage_is_undone(name, context, untouched):
    with context():
        CHANGES[name]()
    assert SETTINGS[name].read() == untouched[name]


@pytest.mark.parametrize("name", [setting.name for setting in (*OF_PROCESS, *OF_THREAD, *GENERATORS)])
def test_what_is_changed_within_a_pass_of_a_detector_is_undone_also_by_an_error(name, untouched):
    with pytest.raises(KeyError), torch_state.computing():
        CHANGES[name]()
        raise KeyError
    assert SETTINGS[name].read() == untouched[name]


def test_a_device_that_is_set_around_a_stage_is_not_that_of_the_stage():
    with torch.device("meta"):
        with torch_state.stage_state():
            assert torch.empty(1).device.type == "cpu"
        assert torch.empty(1).device.type == "meta"


def test_inference_mode_around_a_stage_is_not_that_of_the_stage():
    with torch.inference_mode():
        with torch_state.stage_state():
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()


def tf32():
    backends = torch.backends
    operators = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul)
    return {operator.fp32_precision for operator in operators} | {backends.mkldnn.conv.fp32_precision}


def allow_by_older_settings():
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")


def allow_everywhere():
    torch.backends.fp32_precision = "tf32"


def allow_in_convolutions_alone():
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cudnn.rnn.fp32_precision = "ieee"


def allow_in_products_alone():
    torch.backends.cuda.matmul.fp32_precision = "tf32"


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch < 2.9 has the older settings alone")
@pytest.mark.parametrize(
    "allow", [allow_by_older_settings, allow_everywhere, allow_in_convolutions_alone, allow_in_products_alone]
)
def test_float32_is_true_however_the_caller_has_allowed_tf32(allow, untouched):
    generic = torch.backends.fp32_precision
    try:
        allow()
        given = [operator.fp32_precision for operator in torch_state._OPERATORS]
        assert "tf32" in given
        with torch_state.computing():
            assert tf32() <= {"none", "ieee"}
            assert not torch.backends.cudnn.allow_tf32  # the older settings can still be read, as torch itself does
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert [operator.fp32_precision for operator in torch_state._OPERATORS] == given
    finally:
        torch.backends.fp32_precision = generic


def test_threads_that_compute_at_once_restore_what_was_before_the_first(untouched):
    torch.set_default_dtype(torch.float64)
    caller, inside, leave = torch.get_rng_state(), threading.Event(), threading.Event()

    def longer():
        with torch_state.computing():
            inside.set()
            leave.wait(10)
            seen.append(torch.get_default_dtype())

    seen, thread = [], threading.Thread(target=longer)
    with torch_state.computing():
        thread.start()
        inside.wait(10)
    assert torch.get_default_dtype() == torch.float32  # of the other thread, which is still at it
    leave.set()
    thread.join()
    assert seen == [torch.float32]
    assert torch.get_default_dtype() == torch.float64
    assert torch.equal(torch.get_rng_state(), caller)


def test_what_is_drawn_in_a_pass_depends_on_no_callers_generator(untouched):
    def drawn():
        with torch_state.computing():
            return torch.rand(1).item(), np.random.rand(), random.random()

    first = drawn()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert drawn() == first


def threads_of_a_new_one():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_on_one_core_leaves_the_others_theirs(untouched):
    torch.set_num_threads(2)
    found = []

    def work():
        torch_state.use_one_core()
        found.append(torch.get_num_threads())
        with torch_state.restoring():
            torch.set_num_threads(5)
        found.append(torch.get_num_threads())

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [1, 1, 1, 1]
    assert torch.get_num_threads() == threads_of_a_new_one() == 2


# ------------------------------------------------------------------------------------------------------- whole stages


def arrays(store, plans):
    """Return the bytes of all that the stages of plans have left, but for their facts."""
    return {
        (stage.key, file.name): file.read_bytes()
        for plan in plans
        for stage in plan.stages
        for file in sorted(store.folder(stage).iterdir())
        if file.suffix in (".npy", ".safetensors")
    }


@pytest.fixture
def both(make_plan, tiny):
    """Run a recipe with two seeds after one another, and return what they leave."""

    def results(folder):
        store = Store(folder)
        plans = []
        for seed in (0, 1):  # a plan of its own each, so that images are read again
            plans.append(make_plan(tiny, f"seed={seed}", "scorers=[energy, mahalanobis, odin]"))
            run(plans[-1], store)
        return arrays(store, plans)

    return results


@pytest.fixture(scope="module")
def undisturbed():
    return {}


def after(monkeypatch, owner, name, without=()):
    """Have a method change all settings when it is through."""
    really = getattr(owner, name)

    def disturbing(*arguments, **options):
        result = really(*arguments, **options)
        called.append(name)
        change(without)
        return result

    called = []
    monkeypatch.setattr(owner, name, disturbing)
    return called


PLACES = {
    "a scorer's fit": (Energy, "fit", ()),
    # what a backbone draws goes before what its task draws, so the generators are its own
    "a backbone's build": (Timm, "build", [setting.name for setting in GENERATORS]),
    "a task's forward": (ClassificationTask, "forward", ()),
    "a data set's image": (DigitImages, "image", ()),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_stage_feels_what_a_plugin_sets(place, both, tmp_path, monkeypatch, untouched, undisturbed):
    expected = undisturbed.setdefault("found", None) or both(tmp_path / "plain")
    undisturbed["found"] = expected
    called = after(monkeypatch, *PLACES[place])
    found = both(tmp_path / "disturbed")
    assert called
    assert found.keys() == expected.keys()
    assert [key for key in found if found[key] != expected[key]] == []
    assert {name: setting.read() for name, setting in SETTINGS.items()} == untouched


def test_no_stage_feels_what_its_caller_has_set(both, tmp_path, untouched, undisturbed):
    expected = undisturbed.setdefault("found", None) or both(tmp_path / "plain")
    undisturbed["found"] = expected
    change(without=["warnings.filters", "torch.set_num_threads", "PIL.Image.MAX_IMAGE_PIXELS"])
    found = both(tmp_path / "disturbed")
    assert [key for key in found if found[key] != expected[key]] == []


def test_plugins_that_set_what_they_like_at_their_import_leave_none_of_it(monkeypatch, untouched):
    called = after(monkeypatch, plugins, "_load")
    plugins.find()
    assert called
    assert {name: setting.read() for name, setting in SETTINGS.items()} == untouched


def test_extraction_is_true_float32(make_plan, tiny, tmp_path, monkeypatch, untouched):
    from ood_timm.network import TimmNetwork

    seen, really = [], TimmNetwork.forward_features

    def forward(self, images):
        if not self.training:
            seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(), images.dtype))
        return really(self, images)

    monkeypatch.setattr(TimmNetwork, "forward_features", forward)
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    with torch.autocast("cpu"):
        run(make_plan(tiny), Store(tmp_path / "store"))
    assert set(seen) == {(False, "highest", torch.float32)}


def test_a_training_within_the_callers_autocast_uses_no_old_weights(make_plan, tiny, tmp_path):
    plan = make_plan(tiny, "training=[{use: classification, epochs: 2, batch_size: 16, precision: bf16}]")
    plain, within = Store(tmp_path / "plain"), Store(tmp_path / "within")
    run(plan, plain)
    with torch.autocast("cpu"):
        run(plan, within)
    assert arrays(plain, [plan]) == arrays(within, [plan])


class Images:
    disturbs = False


def test_images_that_disturb_from_the_first_are_read_between_the_passes(untouched):
    at_work = []

    def batches():
        for batch in range(3):
            torch.set_default_dtype(torch.float64)
            at_work.append(batch)
            yield batch

    read = _prefetch(batches(), Images())
    assert next(read) == 0
    assert torch.get_default_dtype() == torch.float32
    assert at_work == [0]
    assert list(read) == [1, 2]


def test_images_that_begin_to_disturb_beside_a_pass_stop_the_stage(untouched):
    def batches():
        yield 0
        torch.set_default_dtype(torch.float64)
        yield 1

    with pytest.raises(OODError, match="changed settings of torch while the network was at work"):
        list(_prefetch(batches(), Images()))
    assert torch.get_default_dtype() == torch.float32

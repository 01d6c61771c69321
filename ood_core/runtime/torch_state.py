"""Process-wide and thread-wide settings that numbers depend on, fixed in stages and detectors.

torch, numpy, random and Pillow keep defaults, flags and generators for the whole process or thread. Values that a
plugin or the caller has set would change results whose keys are equal. So a stage and a pass of a detector begin with
the values of the tables below, and restore the caller's afterwards. Float32 is full precision: no TF32, no autocast.
`os.environ`, the locale and the working folder are left alone: libraries set variables for good when they are imported.
"""

from __future__ import annotations

import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from torch.backends import cuda, cudnn, mkldnn

from ood_core.runtime.openmp import require_own_threads

AS_FOUND = object()  # in place of a stated value: the value set by the user stays, changes are undone


class Setting(NamedTuple):
    """One value of the process or thread: how to read and write it, and its value during computations."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    stated: Any = AS_FOUND


def _attribute(owner: Any, name: str, stated: Any = AS_FOUND) -> list[Setting]:
    """Return the setting of a module's attribute; none if this version of the library has no such attribute."""
    if not hasattr(owner, name):
        return []
    title = f"{getattr(owner, '__name__', 'torch.backends.cuda.matmul')}.{name}"
    return [Setting(title, lambda: getattr(owner, name), lambda value: setattr(owner, name, value), stated)]


_OPERATORS: list[Any] = [  # with a precision of their own, since torch 2.9; the older settings raise unless they agree
    getattr(backend, name)
    for backend in (cudnn, cuda, mkldnn)
    for name in ("conv", "rnn", "matmul")
    if hasattr(getattr(backend, name, None), "fp32_precision")
]


def _precision() -> tuple[Any, ...]:
    older: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: cudnn.allow_tf32):
        try:
            older.append(read())
        except RuntimeError:  # the caller has set an operator's own precision, which the older settings cannot express
            older.append(None)
    return (*older, *(operator.fp32_precision for operator in _OPERATORS))


def _set_precision(wanted: tuple[Any, ...]) -> None:
    matmul, convolutions, *operators = wanted
    now = _precision()
    if matmul is not None and now[0] != matmul:
        torch.set_float32_matmul_precision(matmul)
    if convolutions is not None and now[1] != convolutions:
        cudnn.allow_tf32 = convolutions
    for operator, precision in zip(_OPERATORS, operators, strict=True):
        if operator.fp32_precision != precision:
            operator.fp32_precision = "none"  # as its backend has it, which may be what is wanted
        if operator.fp32_precision != precision:  # "none" for which the backend has TF32 must be written out
            operator.fp32_precision = "ieee" if precision == "none" else precision


def _set_threads(count: int) -> None:
    """Set the number of threads that torch uses in this thread; for a thread of `use_one_core`, in no other."""
    torch.set_num_threads(count)
    if (default := getattr(_OWN_CORE, "default", None)) is not None:
        other = threading.Thread(target=torch.set_num_threads, args=(default,))
        other.start()
        other.join()


def _set_filters(filters: Sequence[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters.extend(filters)  # type: ignore[attr-defined]


def _numpy_generator() -> tuple[Any, ...]:
    name, key, *rest = cast(tuple[Any, ...], np.random.get_state())
    return name, key.tolist(), *rest  # arrays have no equality


def _torch_generators() -> list[bytes]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [state.numpy().tobytes() for state in (torch.get_rng_state(), *devices)]


def _set_torch_generators(states: Sequence[bytes]) -> None:
    own, *devices = [torch.frombuffer(bytearray(state), dtype=torch.uint8) for state in states]
    torch.set_rng_state(own)
    if devices:
        torch.cuda.set_rng_state_all(devices)


_OWN_CORE = threading.local()
_CPU = torch.device("cpu")

OF_PROCESS = (
    Setting("torch.get_default_dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    Setting("float32 precision of torch", _precision, _set_precision, ("highest", False, *["none"] * len(_OPERATORS))),
    Setting(
        "torch.use_deterministic_algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        (False, False),
    ),
    Setting(
        "torch.autograd.set_detect_anomaly",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        (False, True),
    ),
    *_attribute(cudnn, "enabled", True),
    *_attribute(cudnn, "benchmark", False),
    *_attribute(cudnn, "deterministic", False),
    *_attribute(mkldnn, "enabled", True),
    *_attribute(mkldnn, "deterministic", False),
    *_attribute(cuda.matmul, "allow_fp16_reduced_precision_reduction", True),
    *_attribute(cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
    *_attribute(cuda.matmul, "allow_fp16_accumulation", False),
    *(
        Setting(f"torch.backends.cuda.enable_{of}", getattr(cuda, f"{of}_enabled"), getattr(cuda, f"enable_{of}"), True)
        for of in ("flash_sdp", "math_sdp", "cudnn_sdp", "mem_efficient_sdp")
    ),
)
"""Settings that all threads of the process share."""


def _autocast(device: str, dtype: torch.dtype) -> list[Setting]:
    enabled = partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device), False
    dtypes = partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device), dtype
    return [Setting(f"torch.autocast('{device}')", *enabled), Setting(f"torch.set_autocast_dtype('{device}')", *dtypes)]


OF_THREAD = (
    # a device that is set around a block is another thing: `computing` sets one within
    Setting(
        "torch.set_default_device",
        torch.get_default_device,
        lambda value: torch.set_default_device(None if value == _CPU else value),
    ),
    *_autocast("cpu", torch.bfloat16),
    *_autocast("cuda", torch.float16),
    Setting("torch.set_grad_enabled", torch.is_grad_enabled, torch._C._set_grad_enabled, True),
    Setting("torch.set_flush_denormal", lambda: sys.float_info.min / 2 == 0, torch.set_flush_denormal, False),
    Setting(
        "numpy.seterr",
        np.geterr,
        lambda value: np.seterr(**value),
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
)

GENERATORS = (
    Setting("the generators of torch", _torch_generators, _set_torch_generators),
    Setting("the generator of numpy", _numpy_generator, np.random.set_state),
    Setting("the generator of random", random.getstate, random.setstate),
)

OF_STAGE = (
    Setting("torch.set_num_threads", torch.get_num_threads, _set_threads),  # set by the user or --jobs, and in no key
    Setting(
        "torch.multiprocessing.set_sharing_strategy",
        torch.multiprocessing.get_sharing_strategy,
        torch.multiprocessing.set_sharing_strategy,
    ),
    Setting("warnings.filters", lambda: list(warnings.filters), _set_filters),
    *_attribute(PIL.Image, "MAX_IMAGE_PIXELS"),
    *_attribute(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", False),
)
"""Further settings of a stage; detectors leave them to their caller."""


def _read(settings: Sequence[Setting]) -> list[Any]:
    return [setting.read() for setting in settings]


def _write(settings: Sequence[Setting], values: Sequence[Any]) -> list[str]:
    """Write the values that differ, and return the names of their settings."""
    changed = []
    for setting, value in zip(settings, values, strict=True):
        if value is not AS_FOUND and setting.read() != value:
            setting.write(value)
            changed.append(setting.name)
    return changed


@contextmanager
def _within(settings: Sequence[Setting]) -> Iterator[None]:
    """Set the stated values; restore those from before."""
    before = _read(settings)
    try:
        _write(settings, [setting.stated for setting in settings])
        yield
    finally:
        _write(settings, before)


_LOCK = threading.Lock()
_COMPUTING: list[tuple[list[Any], list[Any]]] = []  # the caller's settings and generators, once a thread


@contextmanager
def _process_state(seed: int) -> Iterator[None]:
    """Set the settings of the process while threads compute; the last one restores those that the first one found."""
    with _LOCK:
        _COMPUTING.append(_COMPUTING[0] if _COMPUTING else (_read(OF_PROCESS), _read(GENERATORS)))
        _write(OF_PROCESS, [setting.stated for setting in OF_PROCESS])
        seed_cpu(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        with _LOCK:
            settings, generators = _COMPUTING.pop()
            if not _COMPUTING:
                _write(OF_PROCESS, settings)
                for setting, state in zip(GENERATORS, generators, strict=True):
                    setting.write(state)


@contextmanager
def computing(seed: int = 0) -> Iterator[None]:
    """Compute in the stated state of process and thread, generators seeded, and restore the caller's afterwards.

    Threads may do so at the same time. Generators belong to the process: a thread that draws from one beside this
    disturbs what is drawn here, and the numbers that it draws are drawn again.

    Raises:
        OODError: The process was forked from one that has computed with threads.
    """
    require_own_threads(torch.get_num_threads())
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_within(OF_THREAD))
        if torch.get_default_device() != _CPU:
            stack.enter_context(_CPU)
        stack.enter_context(_process_state(seed))
        yield


@contextmanager
def stage_state() -> Iterator[None]:
    """Run a stage, the import of plugins or a plan in the stated state, and restore the caller's afterwards."""
    with _within(OF_STAGE), computing():
        yield


@contextmanager
def restoring(generators: bool = False) -> Iterator[list[str]]:
    """Undo what a plugin changes within a stage; yield the names of changed settings that other threads share.

    The list is filled at the end. The random generators are restored only with `generators`.
    """
    own = (*OF_THREAD, *OF_STAGE, *(GENERATORS if generators else ()))
    before, shared, changed = _read(own), _read(OF_PROCESS), list[str]()
    try:
        yield changed
    finally:
        changed += _write(OF_PROCESS, shared)
        _write(own, before)


def seed_all(seed: int) -> None:
    """Seed the generators of torch, numpy and random."""
    torch.manual_seed(seed)
    seed_cpu(seed)


def seed_cpu(seed: int) -> None:
    """Seed them, but for the GPU's, which takes half a millisecond where none was used yet."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def use_one_core() -> None:
    """Have torch compute on one core in this thread, which has just begun; other threads keep what they have."""
    with _LOCK:  # torch takes the number for all threads to come as well, so that is set back
        _OWN_CORE.default = torch.get_num_threads()
        _set_threads(1)

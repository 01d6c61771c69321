"""File formats of graphs: ONNX, and torch's own; written, and opened again to run on the CPU for verification.

`require` refuses a missing package or an option that the format does not have, before anything is done.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ood_core.errors import OODError
from ood_export.graph import IMAGES

Runnable: TypeAlias = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]  # images to outputs by name
Description: TypeAlias = Mapping[str, Any]

KEY = "ood"  # of the description, in the metadata of the file
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2_000_000_000  # bytes in one ONNX file: protobuf counts them in 31 bits


@contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress warnings, logs and progress of torch's exporters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class UnsupportedGraphError(Exception):
    """A format or its runtime does not support a graph; the message begins with a verb."""


class Onnx:
    """ONNX, for onnxruntime and many others."""

    suffix = ".onnx"

    def require(self, opset: int | None) -> None:
        """Raise OODError if a package is missing."""
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            raise OODError(f"ONNX needs {' and '.join(missing)}: pip install 'ood-framework[export]'")

    def write(
        self, program: ExportedProgram, outputs: list[str], description: Description, file: Path, opset: int | None
    ) -> None:
        """Write the graph with the description in its metadata.

        Raises:
            UnsupportedGraphError: ONNX does not support the graph.
            OODError: The graph is too large, or not available with that opset.
        """
        size = sum(tensor.nbytes for tensor in (*program.state_dict.values(), *program.constants.values()))
        if size > LARGEST:
            raise OODError(f"weights and scores take {size / 1e9:.1f} GB, an ONNX file holds 2; a .pt2 holds more")
        try:
            with suppress_output():
                made = torch.onnx.export(
                    program,
                    (),
                    input_names=[IMAGES],
                    output_names=outputs,
                    opset_version=opset,
                    dynamo=True,
                    verbose=False,
                )
                assert made is not None, "dynamo gives a program"
                _tidy(made.model.graph, {IMAGES, *outputs})
                made.model.metadata_props[KEY] = json.dumps(description, ensure_ascii=False, allow_nan=False)
                made.save(file, external_data=False)
        except OSError:  # of the disk, not of the graph
            raise
        except Exception as error:
            raise UnsupportedGraphError(f"has no ONNX: {_first_cause(error)}") from error
        if opset is not None and made.model.opset_imports[""] != opset:
            raise OODError(f"opset {opset}: this graph is available with opset {made.model.opset_imports['']}")

    def open(self, file: Path) -> Runnable:
        """Open the graph with onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        try:
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen classes without a common one
            raise UnsupportedGraphError(f"is not run by onnxruntime: {_first_cause(error)}") from error
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(names, {IMAGES: images}), strict=True))


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return shorten(str(error), 160, placeholder="...")


def _tidy(graph: Any, public: set[str]) -> None:
    """Rename inner values called as an input or output (softmax, its score), and call the number of images N.

    The exporter's notes on nodes are removed, because paths of this machine are in them.
    """
    outer = [*graph.inputs, *graph.outputs]
    graph.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if value.name in public and not any(value is other for other in outer):
                value.name = f"inner.{value.name}"
    for value in outer:
        value.metadata_props.clear()
        value.shape = type(value.shape)([size if isinstance(size, int) else "N" for size in value.shape])


class Torch:
    """torch's own format, opened by `torch.export.load`."""

    suffix = ".pt2"

    def require(self, opset: int | None) -> None:
        """Raise OODError for an opset."""
        if opset is not None:
            raise OODError(f"opset {opset}: is for ONNX; leave it out, or write an .onnx")

    def write(
        self, program: ExportedProgram, outputs: list[str], description: Description, file: Path, opset: int | None
    ) -> None:
        """Write the graph with the description as an extra file."""
        text = json.dumps(description, ensure_ascii=False, allow_nan=False)
        content = io.BytesIO()
        with suppress_output():
            torch.export.save(program, content, extra_files={KEY: text})
        file.write_bytes(content.getbuffer())  # not by torch, which ends the process where the disk is full

    def open(self, file: Path) -> Runnable:
        """Open the graph with torch."""
        with suppress_output():
            module = torch.export.load(file).module()

        def run(images: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
            with torch.inference_mode():
                found = module(**{IMAGES: torch.from_numpy(images)})
            return {name: values.numpy() for name, values in found.items()}

        return run


Format: TypeAlias = Onnx | Torch

FORMATS: Mapping[str, Format] = {"onnx": Onnx(), "torch": Torch()}

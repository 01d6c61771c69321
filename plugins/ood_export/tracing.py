"""Traces a detector, for any number of images; names the scorers that cannot be traced, with reasons."""

from __future__ import annotations

import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ood_core.detector.state import DetectorState, FittedScorer
from ood_core.errors import OODError
from ood_core.interfaces import Outputs
from ood_export.graph import IMAGES, IS_OOD, P_VALUE, PREDICTED, Graph, SingleChunk


def trace(graph: Graph) -> ExportedProgram:
    """Return the graph as a program.

    Raises:
        OODError: A scorer or the network is no plain tensor code; names all such scorers with their reasons.
    """
    for of in graph.state.scorers:
        if of.name in (IMAGES, IS_OOD, P_VALUE, PREDICTED):
            raise OODError(f"scorer '{of.name}': the graph has something else of this name; give the scorer another")
    try:
        return _trace_module(graph, {IMAGES: graph.example_images()})
    except Exception as error:  # whatever torch says of code that is no graph
        read = read_example(graph)
        require_scorers(graph.state, lambda of: _refusal(of, read))
        raise OODError(f"cannot be exported: the network {_reason(error)}") from error


def require_scorers(state: DetectorState, refusal: Callable[[FittedScorer], str | None]) -> None:
    """Raise OODError with all refused scorers, their reasons, and the scorers that are left."""
    refused = {of.name: reason for of in state.scorers if (reason := refusal(of)) is not None}
    if not refused:
        return
    reasons = "; ".join(f"'{name}' {reason}" for name, reason in refused.items())
    left = [of.name for of in state.scorers if of.name not in refused]
    mend = f"name the others: {', '.join(left)}" if left else "no other one is there"
    raise OODError(f"cannot be exported: scorer {reasons}; {mend}")


def read_example(graph: Graph) -> Outputs:
    """Return outputs of the network to trace scores with."""
    with suppress_output(), torch.no_grad():
        return graph.read(graph.example_images())


class _ScoreModule(nn.Module):
    """One score without the network."""

    def __init__(self, of: FittedScorer, read: Outputs) -> None:
        super().__init__()
        self.score, self.classes, self.head = of.score, read.classes, read.head

    def forward(self, embeddings: Tensor, logits: Tensor, labels: Tensor, layers: dict[str, Tensor]) -> Tensor:
        return self.score(SingleChunk(embeddings, logits, labels, self.classes, self.head, layers))


def trace_score(of: FittedScorer, read: Outputs) -> ExportedProgram:
    """Return a score without the network as a program; its inputs are outputs of the network such as these."""
    inputs = {"embeddings": read.embeddings, "logits": read.logits, "labels": read.labels, "layers": dict(read.layers)}
    return _trace_module(_ScoreModule(of, read), inputs)


def _refusal(of: FittedScorer, read: Outputs) -> str | None:
    """Return why a score cannot be traced, None if it can."""
    if "network" in of.scorer.all_needs():
        return "needs the network itself, with gradients or changed images"
    try:
        trace_score(of, read)
    except Exception as error:
        return _reason(error)
    return None


def _trace_module(module: nn.Module, inputs: dict[str, Any]) -> ExportedProgram:
    batch = Dim("batch")
    shapes = {
        name: {key: {0: batch} for key in value} if isinstance(value, dict) else {0: batch}
        for name, value in inputs.items()
    }
    with suppress_output(), torch.no_grad():
        return torch.export.export(module, (), inputs, dynamic_shapes=shapes, strict=False)


def _reason(error: Exception) -> str:
    """Return why code cannot be traced, beginning with a verb, and its line."""
    where = _line_of(error)
    if isinstance(error, GuardOnDataDependentSymNode):
        return f"decides by values what to do, which a graph cannot{where}"
    first = next(iter(str(error).strip().splitlines()), "")
    if first.startswith("Constraints violated"):
        return f"fixes the number of images{where}, as len(tensor) does and tensor.shape[0] does not"
    return f"is no plain tensor code{where}: {type(error).__name__}: {shorten(first, 140, placeholder='...')}"


def _line_of(error: Exception) -> str:
    """Return the innermost line of code outside torch and this module, "" if there is none."""
    ours = (str(Path(torch.__file__).parent), __file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if not frames:
        return ""
    return f" ({'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno})"


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

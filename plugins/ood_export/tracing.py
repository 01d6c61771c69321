"""A torch module as a graph, for any number of images; which scorer cannot be one, and why."""

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
from ood_export.graph import IMAGES, IS_OOD, P_VALUE, PREDICTED, Graph, Whole

ROWS = 3
"""Images that are traced with; a graph made with one of them would hold for one alone."""


def trace(graph: Graph) -> ExportedProgram:
    """Return the graph.

    Raises:
        OODError: A scorer or the network is no plain tensor code; names all such scorers with their reasons.
    """
    state, shown = graph.state, _shown(graph)
    _require_free_names(state)
    try:
        return _traced(graph, {IMAGES: shown})
    except Exception as error:  # whatever torch says of code that is no graph
        with quiet(), torch.no_grad():
            read = graph.read(shown)
        require(state, lambda of: _refusal(of, read))
        raise OODError(f"cannot be exported: the network {_reason(error)}") from error


def require(state: DetectorState, refusal: Callable[[FittedScorer], str | None]) -> None:
    """Refuse scorers for whatever reason is found.

    Raises:
        OODError: Names all of them with their reasons, and what could be exported instead.
    """
    refused = {of.name: reason for of in state.scorers if (reason := refusal(of)) is not None}
    if not refused:
        return
    reasons = "; ".join(f"'{name}' {reason}" for name, reason in refused.items())
    left = [of.name for of in state.scorers if of.name not in refused]
    mend = f"name the others: {', '.join(left)}" if left else "no other one is there"
    raise OODError(f"cannot be exported: scorer {reasons}; {mend}")


def _require_free_names(state: DetectorState) -> None:
    for of in state.scorers:
        if of.name in (IMAGES, IS_OOD, P_VALUE, PREDICTED):
            raise OODError(f"scorer '{of.name}': the graph has something else of this name; give the scorer another")


def _shown(graph: Graph) -> Tensor:
    size = graph.state.preprocessing.image_size
    return torch.zeros(ROWS, 3, size, size)


class _Alone(nn.Module):
    """One score without the network."""

    def __init__(self, of: FittedScorer, read: Outputs) -> None:
        super().__init__()
        self.score, self.classes, self.head = of.score, read.classes, read.head

    def forward(self, embeddings: Tensor, logits: Tensor, labels: Tensor, layers: dict[str, Tensor]) -> Tensor:
        return self.score(Whole(embeddings, logits, labels, self.classes, self.head, layers))


def alone(of: FittedScorer, graph: Graph) -> ExportedProgram:
    """Return a score without the network, as a graph from what it reads."""
    with quiet(), torch.no_grad():
        read = graph.read(_shown(graph))
    return _alone(of, read)


def _alone(of: FittedScorer, read: Outputs) -> ExportedProgram:
    inputs = {"embeddings": read.embeddings, "logits": read.logits, "labels": read.labels, "layers": dict(read.layers)}
    return _traced(_Alone(of, read), inputs)


def _refusal(of: FittedScorer, read: Outputs) -> str | None:
    """Return why a score cannot be traced, None if it can."""
    if "network" in of.scorer.all_needs():
        return "asks the network itself, with gradients or changed images"
    try:
        _alone(of, read)
    except Exception as error:
        return _reason(error)
    return None


def _traced(module: nn.Module, inputs: dict[str, Any]) -> ExportedProgram:
    batch = Dim("batch")
    shapes = {
        name: {key: {0: batch} for key in value} if isinstance(value, dict) else {0: batch}
        for name, value in inputs.items()
    }
    with quiet(), torch.no_grad():
        return torch.export.export(module, (), inputs, dynamic_shapes=shapes, strict=False)


def _reason(error: Exception) -> str:
    """Return why code is no graph, beginning with a verb, and where in it that came out."""
    where = _where(error)
    if isinstance(error, GuardOnDataDependentSymNode):
        return f"decides by values what to do, which a graph cannot{where}"
    said = next(iter(str(error).strip().splitlines()), "")
    if said.startswith("Constraints violated"):
        return f"fixes the number of images{where}, as len(tensor) does and tensor.shape[0] does not"
    return f"is no plain tensor code{where}: {type(error).__name__}: {shorten(said, 140, placeholder='...')}"


def _where(error: Exception) -> str:
    """Return the innermost line of code that is neither torch's nor of this module, "" if there is none."""
    ours = (str(Path(torch.__file__).parent), __file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if not frames:
        return ""
    return f" ({'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno})"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's exporters say to themselves from the user: warnings, progress, the graph so far."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

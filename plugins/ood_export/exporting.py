"""Traces, writes and verifies a detector; names the scorers that cannot be exported, with reasons.

A file gets its name only after it was run and compared with the detector.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ood_core.data.selection import to_unit
from ood_core.detector import Detector
from ood_core.detector.bundle import READABLE
from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import decode_image, preprocess
from ood_core.detector.predictions import DecisionRule, ScoredBatch, decision_rule
from ood_core.detector.state import DetectorState, FittedScorer
from ood_core.errors import OODError
from ood_core.interfaces import Outputs
from ood_core.store.files import replacing, require_writable
from ood_export.formats import FORMATS, Format, Runnable, UnsupportedGraphError, suppress_output
from ood_export.graph import IMAGES, IS_OOD, P_VALUE, PREDICTED, Graph, SingleChunk, describe_graph

TOLERANCE = 1e-4  # default largest deviation of a score: relative to its size, absolute below 1
EXAMPLES = 48
NOISE = 16
BATCHES = (1, 2, 17)  # sizes of the first batches; the last one takes the other images


@dataclass(frozen=True)
class Exported:
    """A written graph."""

    file: Path
    size: int  # in bytes
    scorers: tuple[str, ...]  # names; the first one decides
    images: int  # number of those on which it was compared with the detector
    deviation: float  # largest of a score: relative to its size, absolute below 1


def export(
    detector: Detector,
    file: str | Path,
    *,
    scorers: str | Sequence[str] = (),
    tpr: float | None = None,
    opset: int | None = None,
    tolerance: float = TOLERANCE,
    digest: str = "",
) -> Exported:
    """Write a detector as one graph, whole and verified or not at all.

    The graph takes `images`, float32 [N, 3, S, S] in [0, 1], any N; normalisation is inside. It gives each score by the
    name of its scorer, float64 [N]; `is_ood` bool [N], `p_value` float64 [N], and where there is a classifier
    `predicted` int64 [N].

    Args:
        detector: A fitted one.
        file: Ends in `.onnx`, or in `.pt2` for torch's own format; its folder is created if necessary.
        scorers: A name or several; the first one decides. Default: all of the detector, in its order.
        tpr: Share of ID images to accept; default: the detector's.
        opset: Of ONNX; default: the exporter's.
        tolerance: Largest deviation of a score from the detector's: relative to its size, absolute below 1.
        digest: Of the detector's manifest, for the description in the file.

    Raises:
        OODError: There is no such scorer, or it cannot be traced; a package is missing, the file cannot be written, or
            its outputs differ from the detector's.
    """
    file = Path(file)
    by_suffix = {format.suffix: format for format in FORMATS.values()}
    if file.suffix not in by_suffix:
        raise OODError(f"{file}: a graph is a file that ends in {' or '.join(by_suffix)}")
    format = by_suffix[file.suffix]
    format.require(opset)
    require_writable(file.parent, "folder")
    state = detector.state
    names = [scorers] if isinstance(scorers, str) else scorers
    state = replace(state, scorers=tuple(state.scorer(name) for name in dict.fromkeys(names)) or state.scorers)
    rule = decision_rule(state, tpr=tpr)
    graph = Graph(state, rule)
    program, description = trace(graph), describe_graph(state, rule, digest)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            try:
                format.write(program, graph.names, description, temporary, opset)
                run = format.open(temporary)
            except UnsupportedGraphError as error:
                read = read_example(graph)
                _require_scorers(state, lambda of: _write_refusal(of, read, format, temporary))
                raise OODError(f"cannot be exported: the network {error}") from error
            images, deviation = _verify(run, state, rule, tolerance)
            temporary.chmod(READABLE)
    except OSError as error:
        raise OODError(f"{file}: cannot be written: {error.strerror}") from error
    return Exported(file, file.stat().st_size, tuple(of.name for of in state.scorers), images, deviation)


def _write_refusal(of: FittedScorer, read: Outputs, format: Format, file: Path) -> str | None:
    try:
        format.write(trace_score(of, read), [of.name], {}, file, None)
        format.open(file)
    except UnsupportedGraphError as error:
        return str(error)
    return None


def trace(graph: Graph) -> ExportedProgram:
    """Return the graph as a program for any number of images; raise OODError with all scorers that are no such code."""
    for of in graph.state.scorers:
        if of.name in (IMAGES, IS_OOD, P_VALUE, PREDICTED):
            raise OODError(f"scorer '{of.name}': the graph has something else of this name; give the scorer another")
    try:
        return _trace_module(graph, {IMAGES: graph.example_images()})
    except Exception as error:  # whatever torch says of code that is no graph
        read = read_example(graph)
        _require_scorers(graph.state, lambda of: _trace_refusal(of, read))
        raise OODError(f"cannot be exported: the network {_reason(error)}") from error


def _require_scorers(state: DetectorState, refusal: Callable[[FittedScorer], str | None]) -> None:
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
    def __init__(self, of: FittedScorer, read: Outputs) -> None:
        super().__init__()
        self.score, self.classes, self.head = of.score, read.classes, read.head

    def forward(self, embeddings: Tensor, logits: Tensor, labels: Tensor, layers: dict[str, Tensor]) -> Tensor:
        return self.score(SingleChunk(embeddings, logits, labels, self.classes, self.head, layers))


def trace_score(of: FittedScorer, read: Outputs) -> ExportedProgram:
    """Return a score without the network as a program; its inputs are outputs of the network such as these."""
    inputs = {"embeddings": read.embeddings, "logits": read.logits, "labels": read.labels, "layers": dict(read.layers)}
    return _trace_module(_ScoreModule(of, read), inputs)


def _trace_refusal(of: FittedScorer, read: Outputs) -> str | None:
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
    """Return why code cannot be traced, beginning with a verb, and its innermost line outside torch and this module."""
    ours = (str(Path(torch.__file__).parent), __file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    where = f" ({'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, GuardOnDataDependentSymNode):
        return f"decides by values what to do, which a graph cannot{where}"
    first = next(iter(str(error).strip().splitlines()), "")
    if first.startswith("Constraints violated"):
        return f"fixes the number of images{where}, as len(tensor) does and tensor.shape[0] does not"
    return f"is no plain tensor code{where}: {type(error).__name__}: {shorten(first, 140, placeholder='...')}"


def _verify(run: Runnable, state: DetectorState, rule: DecisionRule, tolerance: float) -> tuple[int, float]:
    """Return the number of compared images, and the largest deviation of a score.

    Embeddings of two implementations differ in their last digits. Most scores differ by no more; but a distance under a
    covariance that is next to singular can magnify it a million times. More, or another decision, is an OODError.
    """
    size, parts = state.preprocessing.image_size, [*state.reference_images]
    if state.examples is not None:
        pictures = state.examples.pictures
        chosen = range(0, len(pictures), max(1, len(pictures) // EXAMPLES))[:EXAMPLES]
        parts += [preprocess(decode_image(pictures[row], f"example {row}"), state.preprocessing) for row in chosen]
    noise = torch.randint(256, (NOISE, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.cat([torch.stack(parts), noise])  # some like those of the detector, and some unlike them
    expected, largest = score_images(state, images), 0.0
    batches = [part for part in np.split(to_unit(images).numpy(), np.cumsum(BATCHES)) if len(part)]
    parts = [run(batch) for batch in batches]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for of in state.scorers:
        worst = float(deviation(found[of.name], expected.scores[of.name]).max())
        if not worst <= tolerance:  # NaN, too
            raise OODError(
                f"the graph is not exact: scorer '{of.name}' is off by {worst:.1e} of its scores, allowed is "
                f"{tolerance:g}; leave it out, or allow a larger tolerance if it magnifies the last digits that much"
            )
        largest = max(largest, worst)
    _require_decisions(found, expected, state, rule, tolerance)
    return len(images), largest


def deviation(found: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return deviations of scores, relative to their size and absolute below 1; 0 if none is expected."""
    finite, far = np.isfinite(expected), np.zeros(len(expected))
    far[finite] = np.abs(found[finite] - expected[finite]) / np.maximum(1, np.abs(expected[finite]))
    return far


def _require_decisions(
    found: Mapping[str, NDArray[Any]], expected: ScoredBatch, state: DetectorState, rule: DecisionRule, tolerance: float
) -> None:
    score, threshold = expected.scores[rule.scorer], rule.threshold_of(expected)
    by_class = expected.predicted if rule.per_class else None
    margin = tolerance * np.maximum(1, np.abs(score))
    calibration, classes = state.scorer(rule.scorer).calibration, len(state.classes)
    low, high = (calibration.p_values(score + shift, by_class, classes) for shift in (margin, -margin))
    wrong = {
        IS_OOD: (found[IS_OOD] != (score > threshold)) & (np.abs(score - threshold) > margin),
        P_VALUE: (found[P_VALUE] < low - 1e-12) | (found[P_VALUE] > high + 1e-12),
    }
    if expected.predicted is not None:
        wrong[PREDICTED] = found[PREDICTED] != expected.predicted
    comparable = np.isfinite(score) & ~_ties(expected, state)
    for name, rows in wrong.items():
        if (count := int((rows & comparable).sum())) > 0:
            raise OODError(f"the graph is not exact: '{name}' differs for {count} of {len(score)} images")


def _ties(expected: ScoredBatch, state: DetectorState) -> NDArray[np.bool_]:
    """Return the images whose two largest logits differ by rounding alone."""
    if state.head is None or len(state.classes) < 2:
        return np.zeros(len(expected), np.bool_)
    logits = torch.nn.functional.linear(expected.embeddings, state.head.weight.cpu(), state.head.bias.cpu())
    best = logits.topk(2, dim=1).values
    return np.asarray(best[:, 0] - best[:, 1] <= TOLERANCE * best[:, 0].abs().clamp(min=1))

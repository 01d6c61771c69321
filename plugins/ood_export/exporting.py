"""Traces, writes and verifies a detector; a file gets its name only after it was run and compared."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ood_core.detector import Detector
from ood_core.detector.bundle import READABLE
from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import FittedScorer
from ood_core.errors import OODError
from ood_core.interfaces import Outputs
from ood_core.store.files import flush, require_writable
from ood_export.formats import FORMATS, Format, UnsupportedGraphError
from ood_export.graph import Graph, describe_graph
from ood_export.tracing import read_example, require_scorers, trace, trace_score
from ood_export.verification import TOLERANCE, verify


@dataclass(frozen=True)
class Exported:
    """A written graph.

    Attributes:
        file: Its path.
        size: In bytes.
        scorers: Names of its scores; the first one decides.
        images: Number of images on which it was compared with the detector.
        deviation: Largest of a score: relative to its size, absolute below 1.
    """

    file: Path
    size: int
    scorers: tuple[str, ...]
    images: int
    deviation: float


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
    temporary = file.with_name(f".{uuid.uuid4().hex[:8]}.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            format.write(program, graph.names, description, temporary, opset)
            run = format.open(temporary)
        except UnsupportedGraphError as error:
            read = read_example(graph)
            require_scorers(state, lambda of: _refusal(of, read, format, temporary))
            raise OODError(f"cannot be exported: the network {error}") from error
        images, deviation = verify(run, state, rule, tolerance)
        temporary.chmod(READABLE)
        flush(temporary)
        temporary.replace(file)
        flush(file.parent)
    except OSError as error:
        raise OODError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(file, file.stat().st_size, tuple(of.name for of in state.scorers), images, deviation)


def _refusal(of: FittedScorer, read: Outputs, format: Format, file: Path) -> str | None:
    """Return why a score alone cannot be written or run, None if it can."""
    try:
        format.write(trace_score(of, read), [of.name], {}, file, None)
        format.open(file)
    except UnsupportedGraphError as error:
        return str(error)
    return None

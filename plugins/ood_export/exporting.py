"""Traces, writes and verifies; a file that stands where it was wanted has been run and compared."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ood_core.detector import Detector
from ood_core.detector.bundle import READABLE
from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import DetectorState, FittedScorer
from ood_core.errors import OODError
from ood_core.store.store import flush, require_writable
from ood_export.description import describe_graph
from ood_export.formats import FORMATS, Format, Unfit
from ood_export.graph import Graph
from ood_export.tracing import alone, require, trace
from ood_export.verification import TOLERANCE, verify


@dataclass(frozen=True)
class Exported:
    """A graph that was written.

    Attributes:
        file: Where it lies.
        size: In bytes.
        scorers: Names of the scores it gives; the first one decides.
        images: How many it was compared with its detector by.
        deviation: Of the score that was furthest off: relative to its size, absolute below 1.
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
        file: Ends in `.onnx`, or in `.pt2` for torch's own format; its folder is made if there is none.
        scorers: A name or several; the first one decides. All of the detector, in its order, unless given.
        tpr: Share of ID images to accept; that of the detector unless given.
        opset: Of ONNX; the exporter's own unless given.
        tolerance: How far scores may be off those of the detector: relative to their size, absolute below 1.
        digest: Of the detector's manifest, for the description in the file.

    Raises:
        OODError: There is no such scorer, or it cannot be traced; a package is missing, the file cannot be written, or
            it does not say what the detector says.
    """
    file = Path(file)
    format = _format(file)
    format.require(opset)
    require_writable(file.parent, "folder")
    state = _limited(detector.state, [scorers] if isinstance(scorers, str) else scorers)
    by = decision_rule(state, tpr=tpr)
    graph = Graph(state, by)
    program, description = trace(graph), describe_graph(state, by, digest)
    temporary = file.with_name(f".{uuid.uuid4().hex[:8]}.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            format.write(program, graph.names, description, temporary, opset)
            runnable = format.opened(temporary)
        except Unfit as error:
            require(state, lambda of: _unfit(of, graph, format, temporary))
            raise OODError(f"cannot be exported: the network {error}") from error
        images, worst = verify(runnable, state, by, tolerance)
        temporary.chmod(READABLE)
        flush(temporary)
        temporary.replace(file)
        flush(file.parent)
    except OSError as error:
        raise OODError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(file, file.stat().st_size, tuple(of.name for of in state.scorers), images, worst)


def _limited(state: DetectorState, names: Sequence[str]) -> DetectorState:
    """Return it with the scorers of these names alone, in their order; with all if none is named."""
    return replace(state, scorers=tuple(state.scorer(name) for name in dict.fromkeys(names)) or state.scorers)


def _unfit(of: FittedScorer, graph: Graph, format: Format, file: Path) -> str | None:
    """Return why a score alone cannot be written or run, None if it can."""
    try:
        format.write(alone(of, graph), [of.name], {}, file, None)
        format.opened(file)
    except Unfit as error:
        return str(error)
    return None


def _format(file: Path) -> Format:
    known = {format.suffix: format for format in FORMATS.values()}
    if file.suffix not in known:
        raise OODError(f"{file}: a graph is a file that ends in {' or '.join(known)}")
    return known[file.suffix]

"""New images beside those a detector was calibrated by: the tests of `drift` on their scores, and a drawing of both."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ood_core.detector.detector import BATCH
from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import ImageRef, iter_batches
from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import DetectorState
from ood_core.errors import OODError, suggest
from ood_core.evaluation.drift_tests import KS, Sequential, kolmogorov_smirnov

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Scores = NDArray[np.float64]

KNOWN, NEW, INK = "#2f6fb3", "#c8551b", "#444444"
"""Colours of the calibration images, of the new ones, and of all else; told apart without colour vision too."""

POINTS = 2000
"""Of a curve at most, so that a drawing of a million images opens as quickly."""

TAIL = 0.002
"""Share of the scores that may lie beyond either end of the axis, so that one far image does not squeeze the others."""


@dataclass
class Stream:
    """The scores of new images in their order, and what could not be scored.

    Attributes:
        scores: Of the images that could be scored.
        unusable: How many could not.
        first_reason: What was wrong with the first of them.
    """

    scores: list[float] = field(default_factory=list)
    unusable: int = 0
    first_reason: str = ""

    def refuse(self, reason: str) -> None:
        """Count an image that could not be scored."""
        self.first_reason = self.first_reason or reason
        self.unusable += 1


@dataclass(frozen=True)
class Found:
    """What was found of N new images.

    Attributes:
        scorer: Whose scores were compared.
        calibration: float64 [M], of the held-out ID images.
        threshold: The score above which an image is OOD.
        scores: float64 [N], in the order of the images.
        ks: The test of the two sets.
        sequential: The test in the order of the images, after the last one.
        evidence: float64 [N], its natural logarithm after each image.
    """

    scorer: str
    calibration: Scores
    threshold: float
    scores: Scores
    ks: KS
    sequential: Sequential
    evidence: Scores


def score(state: DetectorState, images: Iterable[ImageRef], scorer: str | None) -> Stream:
    """Return the scores of images that can be read, by one scorer; the first one without a name.

    Raises:
        OODError: There is no such scorer.
    """
    name, stream = state.scorer(scorer).name, Stream()
    for shown in iter_batches(images, state.preprocessing, BATCH, state.device):
        for reason in shown.errors.values():
            stream.refuse(reason)
        readable = [image for place, image in enumerate(shown.names) if place not in shown.errors]
        values = score_images(state, shown.images, name).scores[name].tolist() if readable else []
        for image, value in zip(readable, values, strict=True):
            if math.isfinite(value):
                stream.scores.append(value)
            else:
                stream.refuse(f"{image}: scorer '{name}' gave {value}")
    return stream


def read(path: Path, scorer: str | None) -> Stream:
    """Return the scores in a table that `ood score` wrote, CSV or JSON Lines, in the order of its rows.

    Args:
        path: The table.
        scorer: Whose column it is; that called `score` without a name, or where no column has it.

    Raises:
        OODError: There is no such file, no such column, or an entry that is no number.
    """
    stream = Stream()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = _json_lines(path, file) if path.suffix in (".jsonl", ".ndjson") else csv.DictReader(file)
            for number, row in enumerate(rows, 1):
                _add(stream, row, scorer, f"{path}, row {number}")
    except (OSError, csv.Error) as error:
        raise OODError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return stream


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise OODError(f"{path}, row {number}: is no JSON object")
        yield row | row.get("scores", {}) if isinstance(row.get("scores"), dict) else row


def _add(stream: Stream, row: Mapping[str, Any], scorer: str | None, where: str) -> None:
    column = scorer if scorer is not None and scorer in row else "score"
    if column not in row:
        raise OODError(f"{where}: has no column 'score'.{suggest('score', map(str, row))}")
    entry = row[column]
    if entry in (None, ""):  # an image that could not be scored
        stream.refuse(str(row.get("error") or f"{where}: has no score"))
        return
    try:
        value = float(entry)
    except (TypeError, ValueError):
        raise OODError(f"{where}: '{column}' is no number: {entry!r}") from None
    if math.isfinite(value):
        stream.scores.append(value)
    else:
        stream.refuse(f"{where}: '{column}' is {value}")


def begin(state: DetectorState, scorer: str | None, alpha: float) -> Sequential:
    """Return the test that has not seen an image yet.

    Raises:
        OODError: There is no such scorer, or alpha is not between 0 and 1.
    """
    return Sequential(state.scorer(scorer).calibration.scores, alpha)


def compare(state: DetectorState, stream: Stream, scorer: str | None, sequential: Sequential) -> Found:
    """Return what the tests find.

    Args:
        state: By whose held-out images.
        stream: All new images.
        scorer: The name of the one that scored them; the first one without.
        sequential: That of `begin`; it is shown the images here.

    Raises:
        OODError: There is no such scorer, or no image could be scored.
    """
    chosen = state.scorer(scorer)
    if not stream.scores:
        reason = f"no image could be scored; the first of {stream.unusable}: {stream.first_reason}"
        raise OODError(reason if stream.unusable else "there are no images to score")
    known, new = chosen.calibration.scores, np.array(stream.scores)
    evidence = sequential.update(new)
    threshold = float(decision_rule(state, chosen.name, per_class=False).thresholds[0])
    return Found(chosen.name, known, threshold, new, kolmogorov_smirnov(known, new), sequential, evidence)


# ------------------------------------------------------------------------------------------------------- the drawing


def draw(found: Found, format: str) -> bytes:
    """Return the drawing: how scores are distributed, and how the evidence of drift came about.

    Args:
        found: What is to be seen.
        format: "svg" or "png".
    """
    import matplotlib  # slow
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=120, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    _distributions(left, found)
    _evidence(right, found)
    written = io.BytesIO()
    unchanging = {"Date": None} if format == "svg" else {}  # equal images, equal bytes
    with matplotlib.rc_context({"svg.hashsalt": "drift", "svg.fonttype": "none"}):
        figure.savefig(written, format=format, metadata=unchanging)
    return written.getvalue()


def _distributions(axes: Axes, found: Found) -> None:
    """Draw the share of images that score up to each value, and the largest gap."""
    ks = found.ks
    for scores, colour, what, dashes in (
        (found.calibration, KNOWN, f"{ks.calibration} held-out ID images", "solid"),
        (found.scores, NEW, f"{ks.images} new images", (0, (5, 1.5))),
    ):
        shares = np.linspace(0, 1, min(len(scores), POINTS) + 1)
        values = np.quantile(scores, shares, method="inverted_cdf")
        axes.step(values, shares, where="post", color=colour, linestyle=dashes, linewidth=1.8, label=what)
    gap = [float(np.mean(scores <= ks.at)) for scores in (found.calibration, found.scores)]
    said = f"largest gap: KS {ks.statistic:.2g}"
    axes.plot([ks.at, ks.at], gap, color=INK, linewidth=1.2, marker="_", markersize=9, label=said)
    axes.axvline(found.threshold, color=INK, linestyle=":", linewidth=1.4, label="threshold: OOD to the right")
    axes.set_xlim(_reach(found))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"score of {found.scorer} (higher means more OOD)", parse_math=False)
    axes.set_ylabel("share of images that score at most this")
    axes.set_title("Scores of the new images and those held out", fontsize="medium")
    axes.legend(fontsize="small", frameon=False, loc="best")


def _reach(found: Found) -> tuple[float, float]:
    """Return the ends of the axis: nearly all scores of either set, the gap and the threshold."""
    ends = [np.quantile(scores, [TAIL, 1 - TAIL]) for scores in (found.calibration, found.scores)]
    values = np.concatenate([*ends, [found.ks.at, found.threshold]])
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _evidence(axes: Axes, found: Found) -> None:
    """Draw the evidence after each image; its common logarithm, as no float could hold some of it."""
    from matplotlib.ticker import MaxNLocator

    tens = found.evidence / math.log(10)
    kept = np.unique(np.linspace(0, len(tens) - 1, min(len(tens), POINTS)).astype(np.int64))
    if found.sequential.alarm_at is not None:
        kept = np.union1d(kept, [found.sequential.alarm_at - 1])
    needed = -math.log10(found.sequential.alpha)
    axes.plot(np.concatenate([[0], kept + 1]), np.concatenate([[0], tens[kept]]), color=NEW, linewidth=1.4)
    said = f"alarm: evidence of {1 / found.sequential.alpha:g}"
    axes.axhline(needed, color=INK, linestyle="--", linewidth=1.2, label=said)
    if (alarm := found.sequential.alarm_at) is not None:
        axes.plot([alarm], [tens[alarm - 1]], "o", color=INK, markersize=6, label=f"reached at image {alarm}")
    axes.set_ylim(min(-1.0, float(tens.min()) - 0.2), max(needed, float(tens.max())) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda ten, _: f"$10^{{{ten:g}}}$")
    axes.set_xlabel("images, in the order they were given")
    axes.set_ylabel("evidence of drift (1 at the beginning)")
    axes.set_title("Sequential test", fontsize="medium")
    axes.legend(fontsize="small", frameon=False, loc="best")

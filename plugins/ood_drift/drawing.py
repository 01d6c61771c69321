"""Drawing of score distributions and of the evidence of drift."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

from ood_drift.comparison import DriftResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CALIBRATION, NEW, INK = "#2f6fb3", "#c8551b", "#444444"
"""Colours of the calibration images, the new ones, and the rest; distinct without colour vision too."""

POINTS = 2000
"""Maximum number of points of a curve, so that a drawing of a million images opens as quickly."""

TAIL = 0.002
"""Share of the scores that may lie beyond either end of the axis, so that one far image does not squeeze the others."""


def draw_drift(found: DriftResult, format: str) -> bytes:
    """Return a drawing of the score distributions and of the evidence of drift, as "svg" or "png"."""
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
    fixed = {"Date": None} if format == "svg" else {}  # equal images, equal bytes
    with matplotlib.rc_context({"svg.hashsalt": "drift", "svg.fonttype": "none"}):
        figure.savefig(written, format=format, metadata=fixed)
    return written.getvalue()


def _distributions(axes: Axes, found: DriftResult) -> None:
    """Draw the share of images that score up to each value, and the largest gap."""
    ks = found.ks
    for scores, colour, what, dashes in (
        (found.calibration, CALIBRATION, f"{ks.calibration} held-out ID images", "solid"),
        (found.scores, NEW, f"{ks.images} new images", (0, (5, 1.5))),
    ):
        shares = np.linspace(0, 1, min(len(scores), POINTS) + 1)
        steps = np.quantile(scores, shares, method="inverted_cdf")
        axes.step(steps, shares, where="post", color=colour, linestyle=dashes, linewidth=1.8, label=what)
    gap = [float(np.mean(scores <= ks.at)) for scores in (found.calibration, found.scores)]
    label = f"largest gap: KS {ks.statistic:.2g}"
    axes.plot([ks.at, ks.at], gap, color=INK, linewidth=1.2, marker="_", markersize=9, label=label)
    axes.axvline(found.threshold, color=INK, linestyle=":", linewidth=1.4, label="threshold: OOD to the right")
    # nearly all scores of either set, the gap and the threshold
    ends = [np.quantile(scores, [TAIL, 1 - TAIL]) for scores in (found.calibration, found.scores)]
    values = np.concatenate([*ends, [ks.at, found.threshold]])
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"score of {found.scorer} (higher means more OOD)", parse_math=False)
    axes.set_ylabel("share of images that score at most this")
    axes.set_title("Scores of the new images and those held out", fontsize="medium")
    axes.legend(fontsize="small", frameon=False, loc="best")


def _evidence(axes: Axes, found: DriftResult) -> None:
    """Draw the common logarithm of the evidence, as the evidence may overflow a float."""
    from matplotlib.ticker import MaxNLocator

    tens = found.log_evidence / math.log(10)
    shown = np.unique(np.linspace(0, len(tens) - 1, min(len(tens), POINTS)).astype(np.int64))
    if (alarm := found.sequential.alarm_at) is not None:
        shown = np.union1d(shown, [alarm - 1])
    needed = -math.log10(found.sequential.alpha)
    axes.plot(np.concatenate([[0], shown + 1]), np.concatenate([[0], tens[shown]]), color=NEW, linewidth=1.4)
    label = f"alarm: evidence of {1 / found.sequential.alpha:g}"
    axes.axhline(needed, color=INK, linestyle="--", linewidth=1.2, label=label)
    if alarm is not None:
        axes.plot([alarm], [tens[alarm - 1]], "o", color=INK, markersize=6, label=f"reached at image {alarm}")
    axes.set_ylim(min(-1.0, float(tens.min()) - 0.2), max(needed, float(tens.max())) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda ten, _: f"$10^{{{ten:g}}}$")
    axes.set_xlabel("images, in the order they were given")
    axes.set_ylabel("evidence of drift (1 at the beginning)")
    axes.set_title("Sequential test", fontsize="medium")
    axes.legend(fontsize="small", frameon=False, loc="best")

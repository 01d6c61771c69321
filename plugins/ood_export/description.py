"""What stands in the file besides the graph, in plain values: how images are shown to it, and what comes out."""

from __future__ import annotations

import math
from typing import Any

from ood_core.detector import manifest
from ood_core.detector.predictions import DecisionRule, decision_rule
from ood_core.detector.state import DetectorState, Preprocessing
from ood_core.recipe.build import describe

FORMAT = 1
"""Grows when an entry changes its meaning."""


def describe_graph(state: DetectorState, by: DecisionRule, digest: str) -> dict[str, Any]:
    """Return the description.

    Args:
        state: With the scorers that the graph has.
        by: How it decides.
        digest: Of the manifest of the detector; "" of one that was not saved.
    """
    origin = state.origin
    return {
        "format": FORMAT,
        "detector": {"name": origin.name, "created": origin.created, "seed": origin.seed, "digest": digest},
        "preprocessing": _preprocessing(state.preprocessing),
        "classes": list(state.classes),
        "scorers": [
            {
                "name": of.name,
                "plugin": describe(of.scorer),
                "threshold": decision_rule(state, of.name, by.tpr, per_class=False).thresholds.item(),
            }
            for of in state.scorers
        ],
        "decides": by.scorer,
        "tpr": by.tpr,
        "per_class": by.per_class,
        "thresholds": by.thresholds.tolist(),
        "calibration": {"images": len(state.scorers[0].calibration), "independent": state.independent},
        "versions": manifest.versions(),
    }


def _preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the steps in their order; what the network subtracts and divides by is inside the graph."""
    size, view = preprocessing.image_size, preprocessing.view
    return {
        "channels": "RGB",
        "resize": math.floor(size / view.crop_fraction),
        "resized_side": "both" if view.squash else "shorter",
        "interpolation": view.interpolation,
        "antialias": True,
        "centre_crop": size,
        "divide_by": 255,
        "layout": "NCHW",
        "dtype": "float32",
    }

"""What a detector is, in a few lines for a person."""

from __future__ import annotations

from collections.abc import Iterator

from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import DetectorState


def lines(state: DetectorState) -> Iterator[str]:
    """Yield the lines: scorers with their thresholds, what these rest on, and what does not hold."""
    calibration = state.scorers[0].calibration
    low, high = calibration.interval(state.tpr)
    for of in state.scorers:
        found = decision_rule(state, of.name).thresholds
        named = f"{found[0]:.6g}" if len(found) == 1 else f"{found.min():.6g} to {found.max():.6g}, by predicted class"
        yield f"{of.name}: OOD above {named}"
    yield (
        f"set by {len(calibration)} held-out ID images to accept {state.tpr:.1%} of ID images or more on average; "
        f"with these images {low:.1%} to {high:.1%} at 95 % confidence"
    )
    if state.id_accuracy is not None:
        yield f"the network classifies {state.id_accuracy:.1%} of these images correctly"
    if not state.independent:
        yield "a scorer was fitted to the calibration images as well: p-values and rates are not guaranteed"

"""The page that scores an image in the browser: one file without external resources."""

from __future__ import annotations

import jinja2

from ood_core.detector.state import DetectorState
from ood_core.escapes import printable_lines

NEAREST = 6
"""Number of nearest in-distribution images to show."""


def render(state: DetectorState) -> str:
    """Return the page for a detector."""
    loader, strict = jinja2.PackageLoader("ood_serve"), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True, finalize=printable_lines
    )
    return environment.get_template("page.html.j2").render(
        state=state,
        nearest=NEAREST if state.examples is not None else 0,
        mapped=state.trained_task is not None,
        calibration=len(state.scorers[0].calibration),
    )

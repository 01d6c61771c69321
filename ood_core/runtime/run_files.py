"""Names in the folder of a run that commands look for before they import anything slow."""

from __future__ import annotations

DOCUMENT = "report.json"
"""The content of the reports; a folder that has it is a run."""

DETECTOR = "detector"
"""Folder of the detector."""

LOCK = "recipe.lock.yaml"
"""Everything that a run was made of."""

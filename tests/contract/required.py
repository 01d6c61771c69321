"""Values for the options that have no default."""

import dataclasses
import typing
from pathlib import Path

from ood_core.interfaces import Scorer
from ood_core.plugins import find

PLUGINS = find()


def required(cls):
    """Return a value for each option of a plugin class that has no default."""
    two_scorers = tuple(PLUGINS.get("scorer", name)() for name in ("energy", "mahalanobis"))
    something = {int: 1, str: "something", Path: Path(__file__), tuple[Scorer, ...]: two_scorers}
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(cls) if field.default is field.default_factory is missing]
    return {field.name: something[hints[field.name]] for field in fields}

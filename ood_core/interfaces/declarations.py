"""Checks of what a plugin class declares, when it is registered."""

from __future__ import annotations

import inspect
from collections.abc import Set
from typing import Any

from ood_core.errors import OODError, suggest
from ood_core.interfaces.plugin import Plugin
from ood_core.interfaces.scoring import NEEDS, Score, Scorer


def check_class(kind: str, cls: Any, base: type[Plugin]) -> None:
    """Raise OODError, which continues "plugin NAME registers", unless an object is a whole class of the kind."""
    if not (isinstance(cls, type) and issubclass(cls, base) and isinstance(getattr(cls, "name", None), str)):
        raise OODError(f"as {kind} what is none: {cls!r} (wanted: a named {base.__name__})")
    what = f"{kind} '{cls.name}'"
    if inspect.isabstract(cls):
        raise OODError(f"{what}, which does not define {', '.join(sorted(cls.__abstractmethods__))}")
    _check_decorated(what, cls, base)
    if issubclass(cls, Scorer):
        _check_scorer(what, cls)


def _check_scorer(what: str, cls: type[Scorer]) -> None:
    if not isinstance(cls.needs, Set):
        raise OODError(f"{what}, whose needs are {cls.needs!r}, not a frozenset of names")
    for need in sorted(map(str, cls.needs - set(NEEDS))):
        raise OODError(f"{what}, which needs '{need}'.{suggest(need, NEEDS)}")
    scores: Any = getattr(cls, "scores", None)
    if scores is None:
        raise OODError(f"{what}, which does not declare 'scores', the class that fit returns")
    if not (isinstance(scores, type) and issubclass(scores, Score)):
        raise OODError(f"{what}, whose 'scores' is {scores!r}, not a class that derives from Score")
    _check_decorated(what, scores, Score)


def _check_decorated(what: str, cls: type, base: type) -> None:
    """Raise OODError for annotated fields of a class, or of one between it and its base, that no dataclass has."""
    for part in (part for part in cls.__mro__ if issubclass(part, base) and "__dataclass_fields__" not in vars(part)):
        annotations = inspect.get_annotations(part)
        if options := [name for name, hint in annotations.items() if "ClassVar" not in str(hint)]:
            raise OODError(
                f"{what}, whose class {part.__name__} has fields ({', '.join(options)}) and is no dataclass; "
                "decorate it with @dataclass(frozen=True, kw_only=True)"
            )

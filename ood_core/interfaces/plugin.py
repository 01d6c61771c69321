"""What all kinds of plugins share, and the value types of their options."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Gt
from torch import Tensor

Split: TypeAlias = Literal["train", "test"]
Views: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]

PositiveInt: TypeAlias = Annotated[int, Gt(0)]
PositiveFloat: TypeAlias = Annotated[float, Gt(0)]
NonNegativeInt: TypeAlias = Annotated[int, Ge(0)]
NonNegativeFloat: TypeAlias = Annotated[float, Ge(0)]


class Plugin(ABC):
    """What all plugin classes share: a name in recipes, and a check before the run."""

    name: ClassVar[str]

    def check(self) -> None:  # noqa: B027 - most plugins have nothing to check
        """Raise OODError for options that cannot work together or on this machine.

        Called by `ood-run --plan`, and before the first stage that is not in the store. It may import what is slow.
        """

"""What networks, scorers and tasks return is checked where it comes in, with one line that names whose fault it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Score, Scorer


def check_fitted(name: str, scorer: Scorer, score: Any) -> Score:
    """Return what a scorer has fitted.

    Raises:
        OODError: It is no object of the class that the scorer declares as `scores`.
    """
    if type(score) is not scorer.scores:  # a subclass could be saved, and not be loaded
        raise OODError(
            f"scorer '{name}' fitted {_kind(score)}, not the {scorer.scores.__name__} that 'scores' declares"
        )
    checked: Score = score
    return checked


def check_scores(name: str, scores: Any, count: int) -> Tensor:
    """Return the scores of some rows on the CPU; whether they are finite is not looked at.

    Raises:
        OODError: They are not float64 [N].
    """
    if not isinstance(scores, Tensor):
        raise OODError(f"scorer '{name}' gave {_kind(scores)}, not a tensor, float64 [{count}]")
    if scores.shape != (count,) or scores.dtype != torch.float64:
        raise OODError(f"scorer '{name}' gave {_shape(scores)}, not float64 [{count}]")
    return scores.detach().cpu()


def check_rows(what: str, rows: Any, count: int, width: int | None = None) -> Tensor:
    """Return what a network gives for some images, or a probe reads; whether it is finite is not looked at.

    Args:
        what: Gives them, and what they are: "the network gives embeddings".
        rows: Should be floats [B, D].
        count: B, how many images there are.
        width: D, where it is known.

    Raises:
        OODError: They are anything else; names the shape.
    """
    wanted = f"[{count}, {'D' if width is None else width}]"
    if not isinstance(rows, Tensor):
        raise OODError(f"{what} as {_kind(rows)}, not as a tensor {wanted}")
    if rows.ndim != 2 or len(rows) != count or (width is not None and rows.shape[1] != width):
        pool = "; pool them to one vector for each image" if rows.ndim > 2 and len(rows) == count else ""
        raise OODError(f"{what} {list(rows.shape)} for {count} images, not {wanted}{pool}")
    if rows.dtype not in (torch.float32, torch.float64):
        dtype = str(rows.dtype).removeprefix("torch.")
        raise OODError(f"{what} in {dtype}, not in float32; is it cast inside the network, or autocast?")
    return rows


def first_not_finite(rows: Tensor) -> int | None:
    """Return the first of the rows [N, ...] that holds a NaN or an infinite value, None if there is none."""
    broken = ~rows.isfinite().flatten(1).all(1) if rows.ndim > 1 else ~rows.isfinite()
    return int(broken.nonzero()[0]) if broken.any() else None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _shape(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"

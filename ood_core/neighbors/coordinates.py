"""Coordinates in which every metric is one matrix product, and how far rounding can have moved that product.

With a centre c, a = q - c and b = p - c, the order of all points p for one query q is that of

    a @ b + bias,   bias = -|b|^2 / 2 for squared distances,   bias = c @ b for inner products,

because the rest depends on q only. (For cosines q and p are divided by their norms first.) Taking the centre away keeps
the vectors short, and with them the error, where all data lie in one corner of the space. The bias travels as three
more columns of the matrices, whose sum is exact to 2^-24 in every format. Scales are powers of two: they cost nothing.

With a', b' the rounded vectors, their product differs from the true one by at most |a'||b - b'| + |a - a'||b|
(Cauchy-Schwarz), plus the rounding of the sums, at most D 2^-24 |a'||b'|, plus that of the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ood_core.errors import OODError

Metric: TypeAlias = Literal["l2", "cosine", "inner"]

BIAS = 3
"""Columns behind the D of the vectors, which hold the bias."""

_CENTRE_ROWS = 4096
_PART_NUMBERS = 2**20  # of points that are converted at a time
_LARGE = 1e16  # beyond it, and below its inverse, squares are lost in float32
_SMALL = 1e-16
_ULP = {torch.bfloat16: 2.0**-24, torch.float32: 2.0**-24, torch.float64: 2.0**-53}  # of sums: bfloat16 sums in float32
_RESULT = {torch.bfloat16: 2.0**-8, torch.float32: 0.0, torch.float64: 0.0}
_SUM64 = 64 * 2.0**-53  # of a sum of squares or products as `evaluate` takes it: by halves, not one after the other
_SAFE = 1.001  # the bounds themselves are computed in float32
_TINY = 1e-30  # what vanishes near zero, where the vectors are scaled to 1


@dataclass(frozen=True)
class Shard:
    """Some of the points in working coordinates.

    Attributes:
        first: Index of the first row among all points.
        rows: [n, D + 3], entries of the vectors at most 1.
        scale: What the vectors were divided by.
        tilt: What the bias was divided by on top of it.
        length: The largest norm among the rounded vectors.
        residual: The largest norm of what rounding took from a vector.
    """

    first: int
    rows: Tensor
    scale: float
    tilt: float
    length: float
    residual: float


@dataclass(frozen=True)
class Side:
    """Queries in the working coordinates of a shard.

    Attributes:
        rows: [N, D + 3].
        unit: float64 [N], what a product must be multiplied with; differences are then those of the inner product, the
            cosine, or half the squared distance, turned round.
        error: float64 [N], how far a product can be from the true one, but for the rounding of the result.
        result: How far rounding can have moved the result, relative to it.
    """

    rows: Tensor
    unit: Tensor
    error: Tensor
    result: float


@dataclass(frozen=True)
class Frame:
    """The coordinates for one set of points.

    Attributes:
        points: [K, D], at least one; may be memory-mapped.
        metric: What near means.
    """

    points: Tensor
    metric: Metric

    @cached_property
    def centre(self) -> Tensor:
        """Return the mean of a few thousand points spread over all; any other point would do."""
        step = math.ceil(len(self.points) / _CENTRE_ROWS)
        centre = self._unit(self.points[::step].double()).mean(0)
        # as the narrowest arithmetic has it, so that all formats subtract the same
        return centre if self.points.dtype == torch.float64 else centre.float().double()

    def shard(self, first: int, last: int, form: torch.dtype) -> Shard:
        """Return the points in [first, last), rounded to a format.

        Raises:
            OODError: A point is not finite.
        """
        points = self.points[first:last]
        scale = self._scale(points)
        rows = torch.empty(len(points), points.shape[1] + BIAS, dtype=form)
        bias = torch.empty(len(points), dtype=torch.float64)
        length = residual = 0.0
        step = max(1, _PART_NUMBERS // max(points.shape[1], 1))
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            vectors = self._centred(points[part], form).div_(scale)
            squares = vectors.square().sum(1)
            bias[part] = -0.5 * scale * squares if self.metric == "l2" else vectors @ self.centre.to(vectors)
            rows[part, :-BIAS] = vectors
            length = max(length, squares.max().sqrt().item())
            residual = max(residual, vectors.sub_(rows[part, :-BIAS]).square_().sum(1).max().sqrt().item())
        tilt = _power_of_two(_extent(bias))
        rest = bias / tilt
        for column in range(-BIAS, 0):
            rows[:, column] = rest
            rest = rest - rows[:, column].double()
        return Shard(first, rows, scale, tilt, _SAFE * length, _SAFE * residual)

    def side(self, queries: Tensor, shard: Shard) -> Side:
        """Return finite queries in the coordinates of a shard, in its format."""
        form = shard.rows.dtype
        vectors = self._centred(queries, form)
        scale = _powers_of_two(vectors.abs().amax(1).double().clamp(min=shard.tilt))
        vectors = (vectors / scale[:, None]).to(vectors)
        rows = torch.empty(len(vectors), vectors.shape[1] + BIAS, dtype=form)
        rows[:, :-BIAS] = vectors
        rows[:, -BIAS:] = (shard.tilt / scale)[:, None]
        rounded = rows[:, :-BIAS].to(vectors)
        lengths, residuals = (part.square().sum(1).sqrt().double() for part in (rounded, vectors - rounded))
        return Side(rows, scale * shard.scale, self._error(shard, scale, lengths, residuals), _RESULT[form])

    @cached_property
    def norms(self) -> Tensor:
        """Return the norms of the points, float64 [K], 1 for zero vectors."""
        return torch.cat([_norms(part.double()) for part in torch.split(self.points, _CENTRE_ROWS)])

    def measured(self, queries: Tensor) -> Tensor:
        """Return queries whose products with the points, over `norms`, are cosines, or just queries; float64."""
        return self._unit(queries.double())

    def plain(self, rows: Tensor) -> Tensor:
        """Return vectors as an index for plain distances, or inner products, should have them, float64 or float32."""
        return rows if self.metric == "inner" else self._centred(rows, torch.float32)

    def _error(self, shard: Shard, scale: Tensor, lengths: Tensor, residuals: Tensor) -> Tensor:
        ulp, columns = _ULP[shard.rows.dtype], shard.rows.shape[1]
        offset = 0.0 if self.metric == "l2" else self.centre.norm().item()
        own, theirs = lengths + residuals, shard.length + shard.residual
        rounding = lengths * shard.residual + residuals * theirs
        sums = 2 * (columns + 16) * ulp * (own * theirs + (shard.tilt + offset * theirs) / scale)
        away, their_away = own + offset / scale, theirs + offset / shard.scale  # norms before the centre was taken away
        moved = 32 * ulp * away * their_away
        if self.metric == "l2":
            exact = _SUM64 * (own * scale + theirs * shard.scale).square() / (scale * shard.scale)
        else:
            exact = _SUM64 * away * their_away
        return _SAFE * (rounding + sums + moved + exact) + _TINY

    def _scale(self, points: Tensor) -> float:
        """Return a power of two that no entry of the vectors exceeds."""
        extent = _extent(points)
        if not math.isfinite(extent):
            raise OODError("nearest neighbours: the points hold NaN or infinite values")
        return 2.0 if self.metric == "cosine" else _power_of_two(extent + _extent(self.centre))

    def _centred(self, rows: Tensor, form: torch.dtype) -> Tensor:
        precise = torch.float64 in (form, rows.dtype, self.points.dtype) or _extent(rows) > _LARGE
        rows = self._unit(rows.to(torch.float64 if precise else torch.float32))
        return rows - self.centre.to(rows)

    def _unit(self, rows: Tensor) -> Tensor:
        return normalize(rows) if self.metric == "cosine" else rows


def normalize(rows: Tensor) -> Tensor:
    """Return rows [N, D] of norm 1; zero stays zero."""
    return rows / _norms(rows)[:, None]


def _norms(rows: Tensor) -> Tensor:
    """Return norms [N], 1 for zero vectors. A row's does not depend on the others."""
    if len(rows) == 1:  # torch splits a single sum among its threads
        return _norms(rows.expand(2, -1))[:1]
    norms = rows.square().sum(1).sqrt()
    if not ((norms > _SMALL) & (norms < _LARGE)).all():  # squares may have vanished or overflowed
        largest = rows.abs().amax(1)
        largest = torch.where(largest > 0, largest, 1)
        scaled = largest * (rows / largest[:, None]).square().sum(1).sqrt()
        norms = torch.where((norms > _SMALL) & (norms < _LARGE), norms, scaled)
    return torch.where(norms > 0, norms, 1)


def _extent(values: Tensor) -> float:
    """Return the largest absolute value; NaN where there is one."""
    if values.numel() == 0:
        return 0.0
    least, most = values.aminmax()
    return math.nan if math.isnan(least) else max(-least.item(), most.item())


def _power_of_two(value: float) -> float:
    """Return a power of two that is at least the value; 1 for 0."""
    if not math.isfinite(value):
        return math.inf
    return math.ldexp(1.0, min(math.frexp(value)[1], 1023)) if value else 1.0


def _powers_of_two(values: Tensor) -> Tensor:
    """Return the same for positive values, float64 [N]."""
    return torch.ldexp(torch.ones_like(values), torch.frexp(values).exponent.clamp(max=1023))

"""The search that scorers keep: exactly, or through an inverted file whose recall was measured."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.neighbors import exact, inverted
from ood_core.neighbors.coordinates import Frame, Metric, Shard
from ood_core.neighbors.engine import Device, choose

Kind: TypeAlias = Literal["flat", "ivf", "ivf-pq"]

_KEPT_NUMBERS = 2**28  # points that are kept in the working format too: half a gigabyte in bfloat16
_LOG = logging.getLogger(__name__)

_NEIGHBOURS = 50  # that recall is measured with

RECALL = 0.99
"""What an inverted file must find of the true neighbours; fewer are a warning."""


@dataclass(frozen=True, eq=False)
class Index:
    """Points to search among; made by `build`, and saved within a fitted score.

    Attributes:
        points: [K, D], as they were given; float32, may be memory-mapped.
        metric: `l2` gives squared distances, `cosine` and `inner` similarities.
        kind: `flat` looks at all points, `ivf` at those in the lists nearest to the query, `ivf-pq` at short codes of
            these.
        device: Where faiss searches; `auto` takes a GPU where there is one.
        recall: Which part of the true neighbours was found for queries on points and between them; 1 for `flat`.
        far_recall: The same for queries that are like no point. What is missed makes a query look farther away than
            it is.
        lists: Lists of the inverted file; 0 for `flat`.
        probes: Lists that a query looks into; 0 for `flat`.
        code: uint8; the inverted file as faiss writes it, empty for `flat`.
    """

    points: Tensor
    metric: Metric
    kind: Kind
    device: Device
    recall: float
    far_recall: float
    lists: int
    probes: int
    code: Tensor

    @classmethod
    def build(
        cls,
        points: Tensor,
        metric: Metric = "l2",
        kind: Kind = "flat",
        lists: int | None = None,
        probes: int | None = None,
        device: Device = "auto",
        seed: int = 0,
    ) -> Index:
        """Return an index of points [K, D].

        Args:
            points: Finite; not copied if they are float32.
            metric: What near means. A zero vector has cosine 0 with everything.
            kind: How to search.
            lists: By default about four times the root of K.
            probes: By default as few as reach the recall `RECALL`, at most an eighth of the lists.
            device: Where to search.
            seed: Draws the points that lists and codes are learned from, and the sample.

        Raises:
            OODError: There are no points, one is not finite, there are fewer than lists, or the device is not there.
        """
        if len(points) == 0:
            raise OODError("nearest neighbours: there are no points to search among")
        choose(device)
        empty = torch.empty(0, dtype=torch.uint8)
        flat = cls(points.float(), metric, "flat", device, 1.0, 1.0, 0, 0, empty)
        flat._check()
        if kind == "flat":
            return flat
        lists = lists or inverted.usual_lists(len(points))
        if lists > len(points):
            raise OODError(f"nearest neighbours: {lists} lists need at least as many points, there are {len(points)}")
        code = inverted.build(flat._frame, kind, lists, seed)
        return replace(flat, kind=kind, lists=lists, code=code)._tuned(probes, seed)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return values, float64 [N, k], and indices, int64 [N, k], nearest first; of equal ones the lower index.

        Args:
            queries: [N, D]; a row that is not finite gets values that are not finite.
            k: Cut to the number of points.
        """
        k = min(k, len(self))
        if self.kind == "flat":
            return self._search_all(queries, k)
        values, indices, missed = inverted.search(
            self._opened, queries, self._frame, k, self.probes, self.kind, self._lock
        )
        if len(missed):  # the lists held fewer than k
            values[missed], indices[missed] = self._search_all(queries[missed], k)
        return values, indices

    def __len__(self) -> int:
        return len(self.points)

    def _search_all(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return exact.search(queries, self._frame, k, choose(self.device), self._kept)

    def _tuned(self, probes: int | None, seed: int) -> Index:
        """Return the same index with its recall, and the fewest probes that reach `RECALL` if nobody chose them."""
        near = inverted.sample_near(self.points, seed)
        most = max(1, self.lists // 8)
        truth = self._search_all(near, min(_NEIGHBOURS, len(self)))[0]
        index = self
        for count in [probes] if probes else sorted({min(2**power, most) for power in range(most.bit_length() + 1)}):
            index = index._with(probes=min(count, self.lists))
            index = index._with(recall=index._recall(near, truth))
            if index.recall >= RECALL:
                break
        far = inverted.sample_far(self.points, seed)
        index = index._with(far_recall=index._recall(far, self._search_all(far, truth.shape[1])[0]))
        index._report(truth.shape[1])
        return index

    def _with(self, **changes: float) -> Index:
        """Return the same file, opened, with other numbers."""
        index = replace(self, **changes)  # type: ignore[arg-type]
        index.__dict__.update({name: self.__dict__[name] for name in ("_frame", "_opened") if name in self.__dict__})
        return index

    def _recall(self, queries: Tensor, truth: Tensor) -> float:
        return inverted.recall(self.search(queries, truth.shape[1])[0], truth, self.metric)

    def _report(self, k: int) -> None:
        found = (
            f"{self.kind}: {self.probes} of {self.lists} lists hold {self.recall:.1%} of the {k} nearest of "
            f"{len(self)} points, for queries far from all of them {self.far_recall:.1%}"
        )
        if self.recall >= RECALL:
            _LOG.info(found)
        else:
            _LOG.warning("%s; kind 'flat' finds all, and where so many lists are needed is often faster", found)

    def _check(self) -> None:
        """Raise OODError for points that are not finite, part by part."""
        for part in torch.split(self.points, 2**16):
            if not part.isfinite().all():
                raise OODError("nearest neighbours: the points hold NaN or infinite values")

    @cached_property
    def _frame(self) -> Frame:
        return Frame(self.points, self.metric)

    @cached_property
    def _kept(self) -> tuple[Shard, ...]:
        """Return the points in the format that the search begins with, where they are few enough to keep."""
        if self.points.numel() > _KEPT_NUMBERS:
            return ()
        return tuple(exact.cut(self._frame, exact.formats(choose(self.device))[0]))

    @cached_property
    def _opened(self) -> Any:
        return inverted.open_index(self.code, choose(self.device))

    @cached_property
    def _lock(self) -> Lock:
        return Lock()


def nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distance to the nearest point, float64 [N], and its index, int64 [N].

    Args:
        queries: [N, D]; a row that is not finite gets a distance that is not finite.
        points: [K, D], finite; the first of equally near ones wins.
    """
    values, indices = exact.search(queries, Frame(points, "l2"), 1, choose("auto"))
    return values[:, 0], indices[:, 0]

"""The index that scorers keep: exact search, or an inverted file whose recall was measured."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.neighbors import exact, ivf
from ood_core.neighbors.faiss_backend import Device, choose_device, faiss, to_device
from ood_core.neighbors.vectors import Metric, Points

Kind: TypeAlias = Literal["flat", "ivf", "ivf-pq"]

_CACHED_NUMBERS = 2**28  # one gigabyte in float32, beside the points themselves
_NEIGHBOURS = 50  # that recall is measured with
_LOG = logging.getLogger(__name__)
RECALL = 0.99  # share of the true neighbours that an inverted file must find; less is a warning


@dataclass(frozen=True, eq=False)
class Index:
    """Points to search among; made by `build`, and saved within a fitted score.

    Attributes:
        points: [K, D], as they were given; float32, may be memory-mapped.
        metric: `l2` gives squared distances, `cosine` and `inner` similarities.
        kind: `flat` looks at all points, `ivf` at those in the lists nearest to the query, `ivf-pq` at their codes.
        device: Where faiss searches; `auto` takes a GPU where there is one.
        recall: Share of the true neighbours found, for queries on points and between them; 1 for `flat`.
        far_recall: The same for queries that are like no point; those look farther away than they are if it is low.
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

        Points of float32 are not copied. A zero vector has cosine 0 with everything. There are by default about four
        times the root of K lists, and as few probes as reach the recall `RECALL`, at most an eighth of the lists. The
        seed draws the points that lists and codes are learned from, and the sample.

        Raises:
            OODError: There are no points, one is not finite, there are fewer than lists, or the device is not there.
        """
        if len(points) == 0:
            raise OODError("nearest neighbours: there are no points to search among")
        choose_device(device)
        empty = torch.empty(0, dtype=torch.uint8)
        flat = cls(points.float(), metric, "flat", device, 1.0, 1.0, 0, 0, empty)
        flat._points.require_finite()
        if kind == "flat":
            return flat
        lists = lists or max(1, min(4 * math.isqrt(len(points)), len(points) // 32))  # none of fewer than a few points
        if lists > len(points):
            raise OODError(f"nearest neighbours: {lists} lists need at least as many points, there are {len(points)}")
        code = ivf.build(flat._points, kind, lists, seed)
        return replace(flat, kind=kind, lists=lists, code=code)._tune(probes, seed)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return values, float64 [N, k], and indices, int64 [N, k], nearest first; of equal ones the lower index.

        k is cut to the number of points. A row of the queries [N, D] that is not finite gets values that are not.
        """
        k = min(k, len(self))
        if self.kind == "flat":
            return self._search_all(queries, k)
        values, indices, missed = ivf.search(self._inverted_file, self._points, queries, k, self.probes, self.kind)
        if missed.any():
            values[missed], indices[missed] = self._search_all(queries[missed], k)
        return values, indices

    def __len__(self) -> int:
        return len(self.points)

    def _search_all(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return exact.search(self._points, queries, k, choose_device(self.device), self._shards)

    def _tune(self, probes: int | None, seed: int) -> Index:
        """Return the same index with its recall, and the fewest probes that reach `RECALL` if none are given."""
        near, far = ivf.sample_near(self.points, seed), ivf.sample_far(self.points, seed)
        k, most = min(_NEIGHBOURS, len(self)), max(1, self.lists // 8)
        truth = self._search_all(near, k)[0]
        index = self
        for count in [probes] if probes else sorted({min(2**power, most) for power in range(most.bit_length() + 1)}):
            index = index._with(probes=min(count, self.lists))
            index = index._with(recall=ivf.recall(index.search(near, k)[0], truth, self.metric))
            if index.recall >= RECALL:
                break
        far_truth = self._search_all(far, k)[0]
        index = index._with(far_recall=ivf.recall(index.search(far, k)[0], far_truth, self.metric))
        found = (
            f"{index.kind}: {index.probes} of {index.lists} lists hold {index.recall:.1%} of the {k} nearest of "
            f"{len(index)} points, for queries far from all of them {index.far_recall:.1%}"
        )
        if index.recall >= RECALL:
            _LOG.info(found)
        else:
            _LOG.warning("%s; kind 'flat' finds all, and where so many lists are needed is often faster", found)
        return index

    def _with(self, **changes: float) -> Index:
        """Return the same index with other numbers; what is prepared stays so."""
        index = replace(self, **changes)  # type: ignore[arg-type]
        index.__dict__.update({name: value for name, value in self.__dict__.items() if name.startswith("_")})
        return index

    @cached_property
    def _points(self) -> Points:
        return Points(self.points, self.metric)

    @cached_property
    def _shards(self) -> tuple[exact.Shard, ...]:
        """The points as faiss searches them, if they are few enough to keep; else every search makes them again."""
        few = self.points.numel() <= _CACHED_NUMBERS
        return tuple(exact.make_shards(self._points, choose_device(self.device))) if few else ()

    @cached_property
    def _inverted_file(self) -> Any:
        return to_device(faiss().deserialize_index(self.code.numpy()), choose_device(self.device))

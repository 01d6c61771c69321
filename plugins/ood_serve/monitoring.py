"""Metrics for Prometheus, drift tests among them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric

from ood_core.detector.predictions import ScoredBatch
from ood_core.detector.state import DetectorState
from ood_core.evaluation.drift_tests import Sequential, Window

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

TOGETHER = 1024
"""Scores tested for drift at once, unless the metrics are read; one by one costs more than a small network."""


DRIFT = {
    "ks": "Kolmogorov-Smirnov distance of the latest scores, 1000 at most, from the calibration scores.",
    "ks_p_value": "Its p-value, for one look.",
    "images": "Images that the sequential test has seen.",
    "log_evidence": "Natural logarithm of its evidence against no drift.",
    "alarm": "1 since its evidence has reached 100, else 0.",
}
"""Gauges of the drift tests."""


class Drift:
    """Drift tests of the deciding scorer's scores, beside its calibration scores [M]; thread-safe."""

    def __init__(self, calibration: NDArray[np.float64]) -> None:
        self._window, self._sequential = Window(calibration), Sequential(calibration)
        self._new: list[float] = []
        self._lock = Lock()

    def observe(self, scores: NDArray[np.float64]) -> None:
        """Add scores [n]; those that are not finite are left out."""
        with self._lock:
            self._new += scores[np.isfinite(scores)].tolist()
            if len(self._new) >= TOGETHER:
                self._update()

    def read(self) -> dict[str, float]:
        """Return the values of the gauges `DRIFT`."""
        with self._lock:
            self._update()
            window, of = copy.deepcopy(self._window), self._sequential
            read = {"images": of.images, "log_evidence": of.log_martingale, "alarm": of.alarm_at is not None}
        ks = window.statistic() if len(window) else None  # slow: not under the lock
        return {"ks": ks.statistic if ks else 0.0, "ks_p_value": ks.p_value if ks else 1.0, **read}

    def _update(self) -> None:
        scores = np.array(self._new, dtype=np.float64)
        self._new.clear()
        self._window.update(scores)
        self._sequential.update(scores)


class Registry(CollectorRegistry):
    """A registry without creation times; prometheus_client can only switch them off for the whole process."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Monitor:
    """Metrics of one service, in a registry of their own."""

    def __init__(self, state: DetectorState) -> None:
        self._decides = state.scorers[0].name
        self.drift = Drift(state.scorers[0].calibration.scores)
        self.registry = of = Registry()
        ProcessCollector(registry=of)
        Info("ood_detector", "The detector that is served.", registry=of).info(
            {"name": state.origin.name, "scorer": self._decides, "created": state.origin.created}
        )
        self.requests = Histogram(
            "ood_request_seconds", "From a request to its answer, by status.", ["status"], buckets=SECONDS, registry=of
        )
        self.inference = Histogram(
            "ood_inference_seconds", "A batch through network and scorers.", buckets=SECONDS, registry=of
        )
        self.batches = Histogram("ood_batch_images", "Images that passed together.", buckets=IMAGES, registry=of)
        self.queue = Gauge("ood_queue_images", "Images that wait for the network.", registry=of)
        self.accepted = Gauge("ood_accepted_images", "Images accepted and not yet answered.", registry=of)
        self.images = Counter("ood_images", "Images answered, by decision: id or ood.", ["decision"], registry=of)
        self.errors = Counter("ood_errors", "What could not be answered, by kind.", ["kind"], registry=of)
        for decision in ("id", "ood"):
            self.images.labels(decision)  # counted from 0, so that the share of OOD images is known from the first
        self._drift = {name: Gauge(f"ood_drift_{name}", text, registry=of) for name, text in DRIFT.items()}

    def record_batch(self, found: ScoredBatch, seconds: float) -> None:
        """Record the scores of a batch and the time that it took."""
        self.inference.observe(seconds)
        self.batches.observe(len(found))
        self.drift.observe(found.scores[self._decides])

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus; takes milliseconds."""
        for name, value in self.drift.read().items():
            self._drift[name].set(value)
        return generate_latest(self.registry)

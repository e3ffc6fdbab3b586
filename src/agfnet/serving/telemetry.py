"""Prometheus metrics: load, times, answers, and drift against the bundle's calibration cases."""

from __future__ import annotations

import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agfnet.prediction.decision import Decision
from agfnet.prediction.drift import Drift
from agfnet.serving.batching import Door
from agfnet.types import Prediction

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LOOKS = (1, 2, 4, 8, 16, 32, 64, 128)
_ROUTES = ("/", "/v1/predict", "/v1/explain", "/v1/feedback", "/v1/model", "/healthz", "/readyz", "/metrics")


class Telemetry:
    """The service's figures.

    Args:
        decision: of the bundle; None where it is not calibrated: no drift then.
        door: whose load is shown.
        failing: whether the audit log cannot be written, or not in time.
    """

    def __init__(self, decision: Decision | None, door: Door, failing: Callable[[], bool]) -> None:
        self.registry = CollectorRegistry()
        self._drift = None if decision is None else Drift(decision.usual)
        self._lock = threading.Lock()
        kept = self.registry
        self._requests = Counter("agfnet_requests", "Requests by path and status.", ["path", "status"], registry=kept)
        self._seconds = Histogram(
            "agfnet_request_seconds", "Time to the answer.", ["path"], buckets=_SECONDS, registry=kept
        )
        self._looks = Histogram("agfnet_batch_looks", "Looks of each pass.", buckets=_LOOKS, registry=kept)
        self._predictions = Counter("agfnet_predictions", "Predictions by class.", ["prediction"], registry=kept)
        self._referred = Counter("agfnet_referred", "Cases handed back, by reason.", ["reason"], registry=kept)
        self._feedback = Counter("agfnet_feedback", "Confirmed diagnoses.", ["agrees"], registry=kept)
        Gauge("agfnet_open_requests", "Accepted and not yet answered.", registry=kept).set_function(lambda: door.inside)
        Gauge("agfnet_queue_places", "Requests that are accepted at most.", registry=kept).set(door.places)
        Gauge(
            "agfnet_audit_failing", "Whether the last entry could not be written, or not in time.", registry=kept
        ).set_function(failing)
        if self._drift is not None:
            self._inputs = Gauge(
                "agfnet_input_drift", "Stability index of the distance to training images.", ["view"], registry=kept
            )
            self._outputs = Gauge(
                "agfnet_output_drift", "Stability index of certainty and of classes.", ["figure"], registry=kept
            )
            self._cases = Gauge("agfnet_drift_cases", "Cases that the indices of answers are over.", registry=kept)
            self._cases_with = Gauge(
                "agfnet_input_drift_cases", "Cases that the index of a view is over.", ["view"], registry=kept
            )

    def request(self, path: str, status: int, seconds: float) -> None:
        """One more request; a path that is none of the service's is not kept."""
        known = path if path in _ROUTES else "other"
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def looks(self, count: int) -> None:
        """One more pass through the network."""
        self._looks.observe(count)

    def answer(self, prediction: Prediction, classes: tuple[str, ...]) -> None:
        """One more answered case."""
        self._predictions.labels(classes[int(prediction.probabilities.argmax())]).inc()
        for reason in prediction.referred or ():
            self._referred.labels(reason.code).inc()
        if self._drift is None or prediction.calibrated is None:
            return
        with self._lock:
            self._drift.add(prediction.calibrated, prediction.distances)

    def feedback(self, *, agrees: bool) -> None:
        """One more confirmed diagnosis."""
        self._feedback.labels("yes" if agrees else "no").inc()

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        if self._drift is not None:
            with self._lock:
                inputs, outputs, cases = self._drift.inputs(), self._drift.outputs(), self._drift.cases
                having = self._drift.cases_with()
            for view, count in having.items():
                self._cases_with.labels(view).set(count)
            for view, index in inputs.items():
                self._inputs.labels(view).set(index)
            for figure, index in outputs.items():
                self._outputs.labels(figure).set(index)
            self._cases.set(cases)
        return generate_latest(self.registry)

"""The service's own metrics, on prometheus_client's default registry.

MLServer exports that registry; with `parallel_workers: 0` it does not export what `mlserver.register` registers.
The series of a model carry the labels model, version and predictor, by which a rollout compares predictors. Two series
belong to the process: tasks of the event loop, and unauthorized requests; only our own server sets them, `mlserver
start` does not. With PROMETHEUS_MULTIPROC_DIR set (several workers), the metrics are kept in files that the supervisor
adds up.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from custom_runtime.active import CONTRACT

# Buckets around the 50 ms objective: the share below a limit is only exact where the limit is a bucket's edge.
REQUEST_EDGES_S = (0.001, 0.002, 0.005, 0.010, 0.020, 0.035, 0.050, 0.075, 0.100, 0.250, 1.000)
FETCH_EDGES_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.010, 0.025, 0.050, 0.100)
BATCH_EDGES_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 1_000, 10_000, 100_000)

ROUTES = ("predict", "v2_rest", "v2_grpc")
OUTCOMES = ("hit", "miss", "stale", "timeout", "error")

_COMMON = ("model", "version", "predictor")


class BatchHistogram(Histogram):
    """A histogram that takes many values at once: what they have in common is added once."""

    def observe_many(self, values: Sequence[float]) -> None:
        """Observe each value: what `observe` does one by one takes three times as long for sixteen."""
        self._sum.inc(sum(values))
        bounds, counts = self._upper_bounds, dict[int, int]()
        for value in values:
            bucket = bisect_left(bounds, value)
            counts[bucket] = counts.get(bucket, 0) + 1
        for bucket, count in counts.items():
            self._buckets[bucket].inc(count)


REQUEST_SECONDS = BatchHistogram(
    "serving_request_seconds", "Time from a request's arrival to its answer.", (*_COMMON, "route", "code"),
    buckets=REQUEST_EDGES_S,
)  # fmt: skip
FETCH_SECONDS = Histogram(
    "serving_feature_fetch_seconds", "Time of one fetch from the feature store.", (*_COMMON, "store"),
    buckets=FETCH_EDGES_S,
)  # fmt: skip
FEATURE_ROWS = Counter(
    "serving_feature_rows", "Rows asked of the feature store, by outcome; stale rows are hits that are too old.",
    (*_COMMON, "outcome"),
)  # fmt: skip
BATCH_ROWS = Histogram("serving_batch_rows", "Rows of one scoring call.", _COMMON, buckets=BATCH_EDGES_ROWS)
SCORE = BatchHistogram(
    "serving_score", "Predicted scores: probabilities, values, or the places of the predicted classes.", _COMMON,
    buckets=CONTRACT.score_edges,
)  # fmt: skip
RECORDS = Counter(
    "serving_records",
    "Prediction records by outcome; dropped: no room in the queue or the spool.",
    (*_COMMON, "outcome"),
)
RECORD_SPOOL = Gauge(
    "serving_record_spool_bytes", "Prediction records that wait on disk for the sink behind HTTP.", _COMMON,
    multiprocess_mode="livesum",
)  # fmt: skip
RECORD_SPOOL_LIMIT = Gauge(
    "serving_record_spool_limit_bytes", "What may wait there; more is dropped.", _COMMON,
    multiprocess_mode="livesum",
)  # fmt: skip
EXPLANATION_SECONDS = Histogram(
    "serving_explanation_seconds", "Time of one explained request, with its wait for the thread.", _COMMON,
    buckets=REQUEST_EDGES_S,
)  # fmt: skip
CHALLENGER_ROWS = Counter(
    "serving_challenger_rows", "Rows for a challenger, by its version and the outcome: scored, failed or skipped.",
    (*_COMMON, "challenger", "outcome"),
)  # fmt: skip
INFLIGHT = Gauge("serving_inflight", "Requests in flight.", _COMMON, multiprocess_mode="livesum")
_TASKS = Gauge("serving_event_loop_tasks", "Unfinished tasks of the event loop.", multiprocess_mode="livesum")
_UNAUTHORIZED = Counter("serving_unauthorized", "Requests without a valid bearer token, by protocol.", ("protocol",))
_REFUSED = Counter(
    "serving_refused", "Requests that reached no model of ours, by protocol and error code.", ("protocol", "code")
)


class ServingMetrics:
    """The series of one loaded model, with their labels resolved once: an observation costs 1-2 us."""

    def __init__(self, *, model: str, version: str, predictor: str, store: str) -> None:
        common = {"model": model, "version": version, "predictor": predictor}
        self._common = common
        self._fetch = FETCH_SECONDS.labels(**common, store=store)
        self._batch = BATCH_ROWS.labels(**common)
        self._score = SCORE.labels(**common)
        self._explanation = EXPLANATION_SECONDS.labels(**common)
        self._inflight = INFLIGHT.labels(**common)
        self._outcomes = {outcome: FEATURE_ROWS.labels(**common, outcome=outcome) for outcome in OUTCOMES}
        self._requests: dict[tuple[str, int], BatchHistogram] = {}
        # Times of answers that are not counted yet: those of one iteration of the event loop are counted together.
        self._answered_s: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._is_counting = False
        for route in ROUTES:
            self._request(route, 200)

    def observe_request(self, route: str, code: int, seconds: float) -> None:
        """Count one answered request; code is its HTTP status, over gRPC the one its error maps to.

        It is counted when the event loop's present iteration ends, at once where no loop runs.
        """
        self._answered_s[route, code].append(seconds)
        if not self._is_counting:
            try:
                asyncio.get_running_loop().call_soon(self._count_answered)
            except RuntimeError:
                self._count_answered()
            else:
                self._is_counting = True

    def observe_fetch(self, seconds: float) -> None:
        """Count one fetch of a batch."""
        self._fetch.observe(seconds)

    def observe_scores(self, scores: Sequence[float]) -> None:
        """Count one scoring call and the scores it returned."""
        self._batch.observe(len(scores))
        self._score.observe_many(scores)

    def observe_explanation(self, seconds: float) -> None:
        """Count one explained request."""
        self._explanation.observe(seconds)

    def count_rows(self, outcome: str, rows: int) -> None:
        """Count rows by outcome: hit, miss, stale, timeout or error."""
        if rows:
            self._outcomes[outcome].inc(rows)

    def count_records(self, outcome: str, rows: int) -> None:
        """Count prediction records by outcome: written, dropped, failed or sampled_out."""
        if rows:
            RECORDS.labels(**self._common, outcome=outcome).inc(rows)

    def set_record_spool(self, waiting_bytes: int, limit_bytes: int) -> None:
        """Set what waits for the sink of records, and how much may."""
        RECORD_SPOOL.labels(**self._common).set(waiting_bytes)
        RECORD_SPOOL_LIMIT.labels(**self._common).set(limit_bytes)

    def count_challenger(self, challenger: str, outcome: str, rows: int) -> None:
        """Count rows that a challenger (its version) scored, failed at or skipped."""
        CHALLENGER_ROWS.labels(**self._common, challenger=challenger, outcome=outcome).inc(rows)

    def set_inflight(self, requests: int) -> None:
        """Set how many requests are in flight now."""
        self._inflight.set(requests)

    def _count_answered(self) -> None:
        self._is_counting = False
        answered, self._answered_s = self._answered_s, defaultdict(list)
        for outcome, seconds in answered.items():
            (self._requests.get(outcome) or self._request(*outcome)).observe_many(seconds)

    def _request(self, route: str, code: int) -> BatchHistogram:
        series = REQUEST_SECONDS.labels(**self._common, route=route, code=str(code))
        self._requests[route, code] = series
        return series


def observe_event_loop() -> None:
    """Set the gauge of tasks. It costs some microseconds per task, so it is not called for each request."""
    _TASKS.set(len(asyncio.all_tasks()))


def count_unauthorized(protocol: str) -> None:
    """Count one request without a valid token; protocol: "rest" or "grpc"."""
    _UNAUTHORIZED.labels(protocol).inc()


def count_refused(protocol: str, code: str) -> None:
    """Count a request that has no model to be counted with; code is one of the error table's."""
    _REFUSED.labels(protocol, code).inc()

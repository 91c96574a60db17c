"""The predictor of one loaded model: queries -> feature rows -> scores -> predictions. No MLServer, HTTP or gRPC.

A request of up to `offload_rows` rows joins the coalescer's next batch on the event loop; a bigger one is predicted in
slices (big_batches.py). `Lookup` fetches a batch's rows from the feature store, and measures and counts the outcome.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from custom_runtime.errors import NotExplainable, Overloaded, StoreUnavailable, TooLarge
from custom_runtime.features.store import FeatureStore, FetchedRows, Keys
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.encoding import Matrix
from custom_runtime.model.explaining import Explainer
from custom_runtime.model.scoring import Scorer
from custom_runtime.prediction.assembly import Assembler
from custom_runtime.prediction.big_batches import BigBatches
from custom_runtime.prediction.coalescer import Coalescer, Submission
from custom_runtime.prediction.explanations import ExplainedPrediction, Explanations
from custom_runtime.prediction.outputs import ONE_COLUMN, observed
from custom_runtime.prediction.query import BatchRecorder, Prediction, Query
from custom_runtime.schema import Value
from custom_runtime.settings import ServingSettings
from custom_runtime.tracing import FETCH, SCORE, SharedTrace, Trace, current_origin, current_trace


class Predictor:
    """Answers queries for one loaded model."""

    def __init__(
        self,
        *,
        scorer: Scorer,
        store: FeatureStore,
        defaults: Mapping[str, Value],
        settings: ServingSettings,
        metrics: ServingMetrics,
        recorder: BatchRecorder | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        explainer: Explainer | NotExplainable | None = None,
    ) -> None:
        self._scorer = scorer
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        # The bound method: one call less for each batch.
        self._fetch = Lookup(store, settings=settings, metrics=metrics, clock=clock, wall_clock=wall_clock).fetch
        self._assembler = Assembler.of(defaults, settings)
        self._deadline_s = settings.deadline_ms / 1000
        self._batch_deadline_s = settings.batch_deadline_ms / 1000
        self._max_inflight = settings.max_inflight
        self._max_queue_s = settings.max_queue_ms / 1000
        self._max_rows = settings.max_rows
        self._offload_rows = min(settings.offload_rows, settings.coalesce_rows)
        self._inflight = 0
        self._has_traces = False  # set by the first traced request
        self._idle = asyncio.Event()
        self._coalescer: Coalescer[Query, Prediction] = Coalescer(
            self._run_batch, max_rows=settings.coalesce_rows, clock=clock, on_left=self._leave
        )
        # A request that gives every feature must not wait behind a store that hangs.
        self._storeless: Coalescer[Query, Prediction] = Coalescer(
            self._run_batch, max_rows=settings.coalesce_rows, clock=clock, on_left=self._leave
        )
        # One thread: a second one would only compete with the first for the pod's core.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="big-batch")
        self._big_batches = BigBatches(
            fetch=self._fetch, assembler=self._assembler, score=self._score, thread=self._thread, recorder=recorder
        )
        self._explanations = Explanations(
            fetch=self._fetch,
            assembler=self._assembler,
            score=self._score,
            explainer=explainer or NotExplainable("explanations are off; SERVING_EXPLANATIONS=1 turns them on"),
            most_requests=settings.max_explanations,
            most_rows=settings.max_explained_rows,
            recorder=recorder,
        )

    @property
    def inflight(self) -> int:
        """Requests in flight now."""
        return self._inflight

    @property
    def offload_rows(self) -> int:
        """Batches with more rows than this are decoded and scored on the worker thread."""
        return self._offload_rows

    @property
    def thread(self) -> ThreadPoolExecutor:
        """The worker thread of big batches."""
        return self._thread

    async def predict(self, query: Query, *, timeout_s: float | None = None) -> Prediction:
        """Score a query within the deadline (or timeout_s, when that is shorter).

        Raises Overloaded at once when too many requests are in flight; TooLarge, UnknownKey, StoreUnavailable
        or DeadlineExceeded.
        """
        if query.size <= self._offload_rows:
            return await self.submit(query, timeout_s=timeout_s)
        coalescer = self._coalescer_of(query)
        limit_s = self._admit(query, coalescer, timeout_s)
        query = query._replace(trace=current_trace(), origin=current_origin(), submitted_s=self._clock())
        self._inflight += 1
        try:
            return await self._big_batches.predict(query, limit_s)
        finally:
            self._leave()

    async def explain(self, query: Query, *, timeout_s: float | None = None) -> ExplainedPrediction:
        """Score a query and explain each row, beside the event loop, within the deadline of a batch.

        Raises NotExplainable, and what `predict` raises; Overloaded at the limit of explanations, too.
        """
        self._explanations.check(query.size)
        self._admit(query, self._coalescer_of(query), None)
        limit_s = self._batch_deadline_s if timeout_s is None else min(timeout_s, self._batch_deadline_s)
        started = self._clock()
        self._inflight += 1
        try:
            query = query._replace(trace=current_trace(), origin=current_origin(), submitted_s=started)
            return await self._explanations.explain(query, limit_s)
        finally:
            self._leave()
            self._metrics.observe_explanation(self._clock() - started)

    def submit(self, query: Query, *, timeout_s: float | None = None) -> Submission[Query, Prediction]:
        """Do the same for at most `offload_rows` rows without a coroutine.

        Raises Overloaded; the submission ends with what `predict` returns or raises. Cancel it when its caller is gone.
        """
        coalescer = self._coalescer_of(query)
        limit_s = self._admit(query, coalescer, timeout_s)
        trace = current_trace()
        if trace is not None:  # the batch that answers it runs elsewhere
            self._has_traces = True
            query = query._replace(trace=trace)
        if self._recorder is not None:
            query = query.to_record(current_origin(), self._clock())
        self._inflight += 1
        return coalescer.submit(query, deadline=self._clock() + limit_s)

    def _coalescer_of(self, query: Query) -> Coalescer[Query, Prediction]:
        return self._coalescer if query.needs_store else self._storeless

    def _admit(self, query: Query, coalescer: Coalescer[Query, Prediction], timeout_s: float | None) -> float:
        """Return the query's time limit in seconds, or raise Overloaded."""
        self.admit()
        self._check_wait(coalescer)
        allowed_s = self._deadline_s if query.size <= self._offload_rows else self._batch_deadline_s
        return allowed_s if timeout_s is None else min(timeout_s, allowed_s)

    def _leave(self) -> None:
        self._inflight -= 1
        if not self._inflight:
            self._idle.set()
            self._metrics.set_inflight(0)

    def admit(self) -> None:
        """Raise Overloaded when the limit of requests in flight is reached. Cheap: called before a body is read."""
        if self._inflight >= self._max_inflight:
            raise Overloaded(f"{self._inflight} requests are in flight, {self._max_inflight} are allowed; retry later")

    def check_wait(self, *, needs_store: bool) -> None:
        """Raise Overloaded when a query would wait too long. Cheap: called before a batch's values are read."""
        self._check_wait(self._coalescer if needs_store else self._storeless)

    def _check_wait(self, coalescer: Coalescer[Query, Prediction]) -> None:
        if coalescer.expected_wait_s() > self._max_queue_s:
            raise Overloaded(f"the wait would be longer than {self._max_queue_s * 1e3:g} ms; retry later")

    def check_rows(self, rows: int) -> None:
        """Raise TooLarge when a batch has more rows than are allowed."""
        if rows > self._max_rows:
            raise TooLarge(f"the batch has {rows} rows; allowed: at most {self._max_rows} (SERVING_MAX_ROWS)")

    async def close(self) -> None:
        """Wait until the requests in flight are finished, then stop the worker thread."""
        self._idle.clear()
        if self._inflight:
            await self._idle.wait()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._explanations.close()

    async def _run_batch(self, queries: list[Query]) -> list[Prediction | Exception]:
        """Predict the queries of one batch with one fetch and one scoring call."""
        trace: Trace | None = None
        if self._has_traces:
            traces = [query.trace for query in queries if query.trace is not None]
            trace = SharedTrace(traces) if traces else None
        wanted: list[Any] = [key for query in queries if query.needs_store for key in query.keys]
        fetched = await self._fetch(wanted, trace) if wanted else None
        rows, sources = self._assembler.assemble(queries, fetched)
        good = [source for source in sources if not isinstance(source, Exception)]
        if not good:
            return [source for source in sources if isinstance(source, Exception)]
        if len(good) < len(sources):
            kept = [
                query.size * [not isinstance(source, Exception)] for query, source in zip(queries, sources, strict=True)
            ]
            rows = rows[[keep for part in kept for keep in part]]
        scores = self._score(rows, trace)
        self._metrics.set_inflight(self._inflight)
        results: list[Prediction | Exception] = []
        start = 0
        for source in sources:
            if isinstance(source, Exception):
                results.append(source)
                continue
            stop = start + len(source)
            results.append(Prediction(scores[start:stop], source))
            start = stop
        if self._recorder is not None:
            self._recorder.offer(queries, rows, results, fetched)
        return results

    def _score(self, rows: Matrix, trace: Trace | None = None) -> list[Any]:
        start_ns = 0 if trace is None else time.time_ns()
        scores: list[Any] = self._scorer.score(rows).tolist()
        if trace is not None:
            trace.record(SCORE, start_ns, {"batch.rows": len(scores)})
        self._metrics.observe_scores(scores if ONE_COLUMN else observed(scores))
        return scores


class Lookup:
    """Fetches from the store, once per batch, and counts in the metrics: hits, misses, stale rows or a failure."""

    def __init__(
        self,
        store: FeatureStore,
        *,
        settings: ServingSettings,
        metrics: ServingMetrics,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_age_s = settings.max_feature_age_s
        self._timeout_s = settings.store_timeout_ms / 1000

    async def fetch(self, keys: Keys, trace: Trace | None = None) -> FetchedRows | StoreUnavailable:
        """Return the rows, or the error as a value: a batch may hold requests that do not need the store."""
        start_ns = 0 if trace is None else time.time_ns()
        started = self._clock()
        try:
            fetched = await self._store.fetch(keys, timeout_s=self._timeout_s)
        except StoreUnavailable as error:
            elapsed_s = self._clock() - started
            outcome = "timeout" if elapsed_s >= self._timeout_s else "error"
            self._metrics.count_rows(outcome, len(keys))
            self._metrics.observe_fetch(elapsed_s)
            self._record(trace, start_ns, len(keys), outcome)
            return error
        self._metrics.observe_fetch(self._clock() - started)
        self._record(trace, start_ns, len(keys), "ok")
        self._count(fetched)
        return fetched

    def _record(self, trace: Trace | None, start_ns: int, rows: int, outcome: str) -> None:
        if trace is not None:
            trace.record(FETCH, start_ns, {"batch.rows": rows, "store": self._store.kind, "outcome": outcome})

    def _count(self, fetched: FetchedRows) -> None:
        hits = int(np.count_nonzero(fetched.updated_at))
        stale = 0
        if self._max_age_s is not None:
            oldest = self._wall_clock() - self._max_age_s
            stale = int(np.count_nonzero((fetched.updated_at > 0) & (fetched.updated_at < oldest)))
        self._metrics.count_rows("stale", stale)
        self._metrics.count_rows("hit", hits - stale)
        self._metrics.count_rows("miss", len(fetched.updated_at) - hits)

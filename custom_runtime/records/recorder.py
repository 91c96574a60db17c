"""The recorder: a bounded queue between the event loop and a thread that scores challengers and writes records.

An answer never waits for it: the event loop appends what a batch says to a deque, in a microsecond for each row, and
drops what there is no room for. The thread wakes every TICK_S, so that it works on many requests at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pyarrow as pa
import structlog

from custom_runtime.errors import StoreUnavailable
from custom_runtime.features.store import FetchedRows
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.encoding import Matrix
from custom_runtime.prediction.challengers import Challengers
from custom_runtime.prediction.query import Prediction, Query
from custom_runtime.records.record import RecordBuilder, SampledRows, ScoredBatch, TakenRows, take_rows
from custom_runtime.repeated_failure import RepeatedFailure

log = structlog.get_logger()

# A chunk of any size costs 0.27 ms beside its rows: at few requests, waking less often is most of what can be saved.
TICK_S = 0.25
# Rows that are built into records at once. Between two of these chunks the thread gives the interpreter lock up.
CHUNK_ROWS = 512
# The longest wait for the last records at the end of the process.
CLOSE_S = 10.0


class Sink(Protocol):
    """Where records go. Called by one thread; it counts what becomes of the records."""

    def write(self, records: pa.RecordBatch) -> None:
        """Take records. Raises OSError or pyarrow.ArrowException: they are lost then."""

    def tick(self) -> None:
        """Do what the time asks for: flush, rotate. Raises as above."""

    def close(self) -> None:
        """Write what is left."""


class Recorder:
    """Records the batches of one predictor. See `BatchRecorder`."""

    def __init__(
        self,
        sink: Sink,
        builder: RecordBuilder,
        metrics: ServingMetrics,
        *,
        max_rows: int,
        challengers: Challengers | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: the predictor's, in which queries say when it took them."""
        self._sink = sink
        self._builder = builder
        self._metrics = metrics
        self._max_rows = max_rows
        self._challengers = challengers
        self._wall_clock = wall_clock
        self._clock = clock
        self._queue: deque[TakenRows] = deque()
        # Each of the two is written by one thread alone, so that neither needs a lock.
        self._offered_rows = 0  # by the event loop
        self._taken_rows = 0  # by the recorder's thread
        self._stopping = threading.Event()
        self._failure = RepeatedFailure()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(
        self,
        queries: Sequence[Query],
        rows: Matrix,
        results: Sequence[Prediction | Exception],
        fetched: FetchedRows | StoreUnavailable | None,
    ) -> None:
        """See BatchRecorder."""
        size = len(rows)
        if self._offered_rows - self._taken_rows + size > self._max_rows:
            self._metrics.count_records("dropped", size)
            return
        batch = ScoredBatch(self._wall_clock(), queries, rows, results, fetched, self._clock())
        try:
            self._queue.append(take_rows(batch))
        except Exception as error:  # of a record, and none of the answer
            self._metrics.count_records("failed", size)
            self._report(error)
        else:
            self._offered_rows += size

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Write what was offered, then end the thread; a sink that does not answer is waited for only so long."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(limit_s)
            if self._thread.is_alive():
                log.warning("records_not_finished", waited_s=limit_s, rows=self._offered_rows - self._taken_rows)

    def work(self) -> None:
        """Record what waits now."""
        for batches in self._chunks():
            size = lost = sum([len(batch.rows) for batch in batches])
            try:
                sampled = self._builder.sample(batches)
                self._metrics.count_records("sampled_out", sampled.left_out)
                lost = size - sampled.left_out
                if lost:
                    self._record(sampled)
            except Exception as error:
                self._metrics.count_records("failed", lost)
                self._report(error)
            finally:
                self._taken_rows += size
            time.sleep(0)
        try:
            self._sink.tick()
        except Exception as error:
            self._report(error)

    def _run(self) -> None:
        while not self._stopping.wait(TICK_S):
            self.work()
        self.work()
        try:
            self._sink.close()
        except Exception as error:
            self._report(error)

    def _chunks(self) -> Iterator[list[TakenRows]]:
        """Yield what waits, and nothing that comes meanwhile: the sink's flush must have its turn."""
        for _ in range(len(self._queue)):
            batches: list[TakenRows] = []
            size = 0
            while self._queue and size < CHUNK_ROWS:
                batches.append(self._queue.popleft())
                size += len(batches[-1].rows)
            if not batches:
                return
            yield batches

    def _record(self, sampled: SampledRows) -> None:
        scores = []
        if self._challengers is not None:
            if self._offered_rows - self._taken_rows > self._max_rows // 2:
                self._challengers.skip(len(sampled.rows))  # they must not cost the champion's records
            else:
                scores = self._challengers.score(sampled.rows)
        self._sink.write(self._builder.build(sampled, scores))

    def _report(self, error: Exception) -> None:
        if count := self._failure.count():
            # Not the error's message: it may quote a value of a record.
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            log.error("records_failed", reason=reason, failures=count, exc_info=error)

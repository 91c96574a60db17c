"""Batches too big for the coalescer: fetched and scored in slices, on a thread, between the small requests.

The slices of all big batches take turns; the batch with the fewest rows left goes first, so that a small one does not
wait for a large one that came before it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from custom_runtime.errors import DeadlineExceeded, StoreUnavailable
from custom_runtime.features.store import FetchedRows, Keys
from custom_runtime.model.encoding import Matrix
from custom_runtime.prediction.assembly import Assembler
from custom_runtime.prediction.query import BatchRecorder, Prediction, Query
from custom_runtime.tracing import Trace

# 256 rows occupy the event loop for about 0.5 ms in SQLite, far below the 50 ms objective, and are one statement there:
# the timeout of a slice's fetch includes no wait for other tasks.
SLICE_ROWS = 256


class BigBatches:
    """Predicts big batches, one slice at a time, with the same fetch, assembly and scoring as small requests."""

    def __init__(
        self,
        *,
        fetch: Callable[[Keys, Trace | None], Awaitable[FetchedRows | StoreUnavailable]],
        assembler: Assembler,
        score: Callable[[Matrix, Trace | None], list[Any]],
        thread: ThreadPoolExecutor,
        recorder: BatchRecorder | None = None,
    ) -> None:
        self._fetch = fetch
        self._assembler = assembler
        self._score = score
        self._thread = thread
        self._recorder = recorder
        self._turns = _Turns()

    async def predict(self, query: Query, limit_s: float) -> Prediction:
        """Score a big batch within limit_s, its own work included. Raises DeadlineExceeded, or what a slice raises.

        A cancelled call is dropped at its current slice.
        """
        scores: list[Any] = []
        sources: list[int] = []
        try:
            async with asyncio.timeout(limit_s):
                for start in range(0, query.size, SLICE_ROWS):
                    async with self._turns.next(query.size - start):
                        part = await self._predict_slice(query, start)
                    scores += part.scores
                    sources += part.sources
                    await asyncio.sleep(0)  # let small requests run
        except TimeoutError:
            raise DeadlineExceeded(
                f"{len(scores)} of {query.size} rows were scored within {limit_s * 1e3:.0f} ms; "
                "retry later, or with fewer rows"
            ) from None
        return Prediction(scores, sources)

    async def _predict_slice(self, query: Query, start: int) -> Prediction:
        stop = min(start + SLICE_ROWS, query.size)
        part = query._replace(
            keys=query.keys[start:stop],
            given={position: values[start:stop] for position, values in query.given.items()},  # type: ignore[index]
            first_row=start,
        )
        fetched = await self._fetch(part.keys, query.trace) if part.needs_store else None
        rows, (source,) = self._assembler.assemble([part], fetched)
        if isinstance(source, Exception):
            raise source
        scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._score, rows, query.trace)
        prediction = Prediction(scores, source)
        if self._recorder is not None:
            self._recorder.offer((part,), rows, (prediction,), fetched)
        return prediction


class _Turns:
    """A lock whose waiters are served by the fewest rows left, then in their order of arrival."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def next(self, rows_left: int) -> _Turn:
        """Return an async context manager that waits for this batch's turn and gives it back."""
        return _Turn(self, rows_left)

    async def acquire(self, rows_left: int) -> None:
        """Wait for the turn."""
        if not self._held:
            self._held = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rows_left, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the turn came just before the cancellation
                self.release()
            raise

    def release(self) -> None:
        """Give the turn to the next waiter that still waits."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._held = False


class _Turn:
    def __init__(self, turns: _Turns, rows_left: int) -> None:
        self._turns = turns
        self._rows_left = rows_left

    async def __aenter__(self) -> None:
        await self._turns.acquire(self._rows_left)

    async def __aexit__(self, *_: object) -> None:
        self._turns.release()

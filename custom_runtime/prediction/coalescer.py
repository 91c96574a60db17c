"""Joins the requests that wait at the same moment into one batch.

While a batch is in flight, new requests wait; when it is done, all waiting requests form the next batch. There is no
timer and so no added delay: a single request starts in the same iteration of the event loop, and the batch size follows
the load. With an embedded store a batch takes one iteration, so a batch is what arrived in one iteration.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from custom_runtime.errors import DeadlineExceeded


class Sized(Protocol):
    """What the coalescer needs of a job: how many rows it adds to a batch."""

    @property
    def size(self) -> int:
        """Rows of this job."""


Job = TypeVar("Job", bound=Sized)
Result = TypeVar("Result")
# A stall says nothing about the load of the next second.
HALF_LIFE_S = 0.25


class _Waiting(NamedTuple, Generic[Job, Result]):
    job: Job
    deadline: float
    future: asyncio.Future[Result]


class Coalescer(Generic[Job, Result]):
    """Joins jobs into batches of at most `max_rows` rows and runs one batch at a time.

    `run` takes the jobs of a batch and returns one result or exception for each, in order. An exception that it raises
    goes to every job of that batch and to no other job. A cancelled job does not affect the others in its batch.
    """

    def __init__(
        self,
        run: Callable[[list[Job]], Awaitable[list[Result | Exception]]],
        *,
        max_rows: int,
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._max_rows = max_rows
        self._clock = clock
        self._queue: deque[_Waiting[Job, Result]] = deque()
        self._worker: asyncio.Task[None] | None = None
        # What the worker logs belongs to no request, and so not to the one that happens to begin it.
        self._context = contextvars.Context()
        self._last_batch_joined = False
        self._waiting_rows = 0
        self._row_s = 0.0  # time per row under load; 0 until a batch left others waiting
        self._learned_at = 0.0

    def submit(self, job: Job, *, deadline: float) -> asyncio.Future[Result]:
        """Queue a job; deadline is a time of `clock`. The future gets its result, or DeadlineExceeded."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append(_Waiting(job, deadline, future))
        self._waiting_rows += job.size
        if self._worker is None:
            self._worker = loop.create_task(self._work(), context=self._context)
        return future

    def expected_wait_s(self) -> float:
        """Return how long a job submitted now would wait for its batch, estimated from the last batches."""
        return self._waiting_rows * self._known_row_s(self._clock()) if self._waiting_rows else 0.0

    async def _work(self) -> None:
        try:
            while self._queue:
                if self._last_batch_joined:
                    # Where the last batch joined several jobs, one more iteration of the event loop brings more, and a
                    # larger batch costs less per row. A single request never waits for this iteration.
                    await asyncio.sleep(0)
                batch, rows = self._next_batch()
                self._last_batch_joined = len(batch) > 1
                leaves_some = bool(self._queue)
                began_s = self._clock()
                if batch:
                    await self._answer(batch)
                # With a store that never awaits, the event loop would be blocked until the queue is empty. Here the
                # responses are sent and new requests are accepted or rejected. This time counts as part of the batch,
                # because the next batch waits for it too.
                await asyncio.sleep(0)
                self._learn(self._clock(), began_s, rows, leaves_some=leaves_some)
        finally:
            self._worker = None

    def _learn(self, now: float, began_s: float, rows: int, *, leaves_some: bool) -> None:
        """Update the time per row. Every batch can lower it; only one that left others waiting can raise it.

        A batch that is not full spreads its fixed cost over few rows: its time per row is an upper bound.
        """
        if not rows:
            return
        row_s = (now - began_s) / rows
        known_s = self._known_row_s(now)
        if leaves_some:
            self._row_s = 0.8 * known_s + 0.2 * row_s if known_s else row_s
        elif known_s and row_s < known_s:
            self._row_s = row_s
        else:
            return
        self._learned_at = now

    def _known_row_s(self, now: float) -> float:
        """Return what was learned, which counts half after each HALF_LIFE_S: what was slow once may be fast by now."""
        if not self._row_s:
            return 0.0
        return self._row_s * float(0.5 ** ((now - self._learned_at) / HALF_LIFE_S))

    def _next_batch(self) -> tuple[list[_Waiting[Job, Result]], int]:
        """Take the jobs of the next batch from the queue; return them and their rows."""
        batch: list[_Waiting[Job, Result]] = []
        now, rows, queue = self._clock(), 0, self._queue
        while queue and (not batch or rows + queue[0].job.size <= self._max_rows):
            waiting = queue.popleft()
            self._waiting_rows -= waiting.job.size
            if waiting.future.done():  # its caller disconnected
                continue
            if waiting.deadline <= now:
                late_ms = (now - waiting.deadline) * 1000
                waiting.future.set_exception(DeadlineExceeded(f"waited until {late_ms:.0f} ms after the deadline"))
                continue
            batch.append(waiting)
            rows += waiting.job.size
        return batch, rows

    async def _answer(self, batch: list[_Waiting[Job, Result]]) -> None:
        results: list[Result | Exception]
        try:
            results = await self._run([waiting.job for waiting in batch])
        except Exception as error:
            results = [error] * len(batch)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)

"""Joins the requests that wait at the same moment into one batch.

While a batch is in flight, new requests wait; when it is done, all waiting requests form the next batch. There is no
timer and so no added delay: a single request starts in the same iteration of the event loop, and the batch size follows
the load. With an embedded store a batch takes one iteration, so a batch is what arrived in one iteration.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from custom_runtime.errors import DeadlineExceeded


class Sized(Protocol):
    """Anything that counts for a number of rows."""

    @property
    def size(self) -> int:
        """Rows."""


Job = TypeVar("Job", bound=Sized)
Result = TypeVar("Result")
# A stall says nothing about the load of the next second.
HALF_LIFE_S = 0.25


class Submission(Generic[Job, Result]):
    """A job in the queue, and what it ends with.

    It is used as a future is, but its one callback is called as soon as the result is there: the event loop would take
    a microsecond and an iteration for it. Cancelling it calls nobody.
    """

    __slots__ = ("_callback", "_error", "_is_cancelled", "_is_done", "_on_cancel", "_result", "deadline", "job", "size")

    def __init__(self, job: Job, deadline: float, on_cancel: Callable[[], None]) -> None:
        self.job = job
        self.size = job.size
        self.deadline = deadline
        self._on_cancel = on_cancel
        self._is_done = self._is_cancelled = False
        self._callback: Callable[[Any], object] | None = None
        self._error: Exception | None = None

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call this with the submission when it ends: once, and instead of an earlier callback."""
        self._callback = callback

    def cancel(self) -> bool:
        """Drop the job, whose caller is gone; False: it has ended already."""
        if self._is_done:
            return False
        self._is_done = self._is_cancelled = True
        self._callback = None
        self._on_cancel()
        return True

    def done(self) -> bool:
        """Whether it has ended, or was cancelled."""
        return self._is_done

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._is_cancelled

    def result(self) -> Result:
        """Return the result, or raise the error that it ended with; CancelledError when it was cancelled."""
        if self._error is not None:
            raise self._error
        if self._is_cancelled:
            raise asyncio.CancelledError
        return self._result

    def end(self, result: Result | Exception) -> None:
        """End it, and call its callback."""
        self._is_done = True
        if isinstance(result, Exception):
            self._error = result
        else:
            self._result: Result = result
        if self._callback is not None:
            self._callback(self)

    def __await__(self) -> Generator[Any, None, Result]:
        """Wait for the result; a cancelled wait cancels it."""
        if not self._is_done:
            ended = asyncio.Event()
            self._callback = lambda _: ended.set()
            try:
                yield from ended.wait().__await__()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()


class Coalescer(Generic[Job, Result]):
    """Joins jobs into batches of at most `max_rows` rows and runs one batch at a time.

    `run` takes the jobs of a batch and returns one result or exception for each, in order. An exception that it raises
    goes to every job of that batch and to no other job. A cancelled job does not affect the others in its batch.
    `on_left` is called once for each job, when it ends or is cancelled.
    """

    def __init__(
        self,
        run: Callable[[list[Job]], Awaitable[list[Result | Exception]]],
        *,
        max_rows: int,
        clock: Callable[[], float],
        on_left: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._on_left = on_left
        self._max_rows = max_rows
        self._clock = clock
        self._queue: deque[Submission[Job, Result]] = deque()
        self._worker: asyncio.Task[None] | None = None
        # What the worker logs belongs to no request, and so not to the one that happens to begin it.
        self._context = contextvars.Context()
        self._last_batch_joined = False
        self._waiting_rows = 0
        self._row_s = 0.0  # time per row under load; 0 until a batch left others waiting
        self._learned_at = 0.0

    def submit(self, job: Job, *, deadline: float) -> Submission[Job, Result]:
        """Queue a job; deadline is a time of `clock`. The submission gets its result, or DeadlineExceeded."""
        submission: Submission[Job, Result] = Submission(job, deadline, self._on_left)
        self._queue.append(submission)
        self._waiting_rows += submission.size
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work(), context=self._context)
        return submission

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

    def _next_batch(self) -> tuple[list[Submission[Job, Result]], int]:
        """Take the jobs of the next batch from the queue; return them and their rows."""
        batch: list[Submission[Job, Result]] = []
        now, rows, queue = self._clock(), 0, self._queue
        while queue and (not batch or rows + queue[0].size <= self._max_rows):
            submission = queue.popleft()
            self._waiting_rows -= submission.size
            if submission.done():  # its caller disconnected
                continue
            if submission.deadline <= now:
                late_ms = (now - submission.deadline) * 1000
                self._end([submission], [DeadlineExceeded(f"waited until {late_ms:.0f} ms after the deadline")])
                continue
            batch.append(submission)
            rows += submission.size
        return batch, rows

    async def _answer(self, batch: list[Submission[Job, Result]]) -> None:
        results: Sequence[Result | Exception]
        try:
            results = await self._run([submission.job for submission in batch])
        except Exception as error:
            results = [error] * len(batch)
        self._end(batch, results)

    def _end(self, batch: list[Submission[Job, Result]], results: Sequence[Result | Exception]) -> None:
        for submission, result in zip(batch, results, strict=True):
            if submission.done():
                continue
            self._on_left()
            try:
                submission.end(result)
            except Exception as error:  # of one caller's callback; the others still get their results
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "an answer could not be given to its caller", "exception": error}
                )

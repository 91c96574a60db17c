"""Batches too big for the coalescer: fetched and scored in slices, on a thread, between the small requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from custom_runtime.errors import DeadlineExceeded, StoreUnavailable
from custom_runtime.features.store import FetchedRows
from custom_runtime.model.encoding import Matrix
from custom_runtime.prediction.assembly import Assembler
from custom_runtime.prediction.query import Prediction, Query

# 256 rows occupy the event loop for about 0.5 ms in SQLite, far below the 50 ms objective, and are one statement there:
# the timeout of a slice's fetch includes no wait for other tasks.
SLICE_ROWS = 256


class BigBatches:
    """Predicts one big batch at a time, with the same fetch, assembly and scoring as small requests."""

    def __init__(
        self,
        *,
        fetch: Callable[[Sequence[int]], Awaitable[FetchedRows | StoreUnavailable]],
        assembler: Assembler,
        score: Callable[[Matrix], list[float]],
        thread: ThreadPoolExecutor,
    ) -> None:
        self._fetch = fetch
        self._assembler = assembler
        self._score = score
        self._thread = thread
        self._turn = asyncio.Semaphore(1)

    async def predict(self, query: Query, limit_s: float) -> Prediction:
        """Score a big batch. Raises DeadlineExceeded when other big batches keep it waiting longer than limit_s.

        The time of its own work is not limited.
        """
        try:
            async with asyncio.timeout(limit_s):
                await self._turn.acquire()
        except TimeoutError:
            raise DeadlineExceeded(f"other big batches took more than {limit_s * 1e3:.0f} ms; retry later") from None
        try:
            loop = asyncio.get_running_loop()
            probabilities: list[float] = []
            sources: list[int] = []
            for start in range(0, query.size, SLICE_ROWS):
                stop = min(start + SLICE_ROWS, query.size)
                part = Query(
                    query.customer_ids[start:stop],
                    {position: values[start:stop] for position, values in query.given.items()},  # type: ignore[index]
                )
                fetched = await self._fetch(part.customer_ids) if part.needs_store else None
                rows, (source,) = self._assembler.assemble([part], fetched)
                if isinstance(source, Exception):
                    raise source
                probabilities += await loop.run_in_executor(self._thread, self._score, rows)
                sources += source
                await asyncio.sleep(0)  # let small requests run
            return Prediction(probabilities, sources)
        finally:
            self._turn.release()

"""Explained predictions: fetched and assembled as any other, then scored and explained on a thread of their own.

An explanation costs some hundred times what a prediction costs (TreeSHAP of 200 trees: 1.2 ms for one row,
0.65 ms a row in sixteens, on one core of a busy machine), so explained requests never join the coalescer's batches. One
thread explains them, a slice at a time; a limit bounds how many wait for it, and the thread runs at a lower priority
than the event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from custom_runtime.errors import DeadlineExceeded, NotExplainable, Overloaded, StoreUnavailable, TooLarge
from custom_runtime.features.store import FetchedRows, Keys
from custom_runtime.model.encoding import Matrix
from custom_runtime.model.explaining import Contributions, Explainer
from custom_runtime.prediction.assembly import Assembler
from custom_runtime.prediction.query import BatchRecorder, Prediction, Query
from custom_runtime.tracing import Trace

# So many rows are explained in one call: other explained requests take their turn after some milliseconds.
SLICE_ROWS = 16
# The scheduler gives a thread of this niceness a tenth of what the event loop gets where both want the same core.
_NICENESS = 10


class ExplainedPrediction(NamedTuple):
    """A prediction, and why: the rows that were scored, float32 [n, WIDTH], and what each feature contributed."""

    scores: list[float]
    sources: list[int]
    rows: Matrix
    contributions: NDArray[np.float64]
    base: float


class Explanations:
    """Explains queries within their own limits. explainer: or the error that says why there is none."""

    def __init__(
        self,
        *,
        fetch: Callable[[Keys, Trace | None], Awaitable[FetchedRows | StoreUnavailable]],
        assembler: Assembler,
        score: Callable[[Matrix, Trace | None], list[float]],
        explainer: Explainer | NotExplainable,
        most_requests: int,
        most_rows: int,
        recorder: BatchRecorder | None = None,
    ) -> None:
        self._fetch = fetch
        self._assembler = assembler
        self._score = score
        self._explainer = explainer
        self._recorder = recorder
        self._most_requests = most_requests
        self._most_rows = most_rows
        self._requests = 0
        # It starts with its first request: a pod that explains nothing has no such thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explanations", initializer=_lower_priority)

    def check(self, rows: int) -> None:
        """Raise NotExplainable, TooLarge or Overloaded where a request of so many rows is not explained."""
        if isinstance(self._explainer, NotExplainable):
            raise NotExplainable(str(self._explainer))
        if rows > self._most_rows:
            raise TooLarge(
                f"{rows} rows are to be explained; allowed: at most {self._most_rows} (SERVING_MAX_EXPLAINED_ROWS)"
            )
        if self._requests >= self._most_requests:
            raise Overloaded(
                f"{self._requests} requests are being explained, {self._most_requests} are allowed "
                "(SERVING_MAX_EXPLANATIONS); retry later"
            )

    async def explain(self, query: Query, limit_s: float) -> ExplainedPrediction:
        """Score and explain within limit_s. Raises what `check` raises, DeadlineExceeded, or what the lookup raises.

        A cancelled call is dropped after its current slice.
        """
        self.check(query.size)
        explained: list[tuple[list[float], list[int], Matrix, Contributions]] = []
        self._requests += 1
        try:
            async with asyncio.timeout(limit_s):
                for start in range(0, query.size, SLICE_ROWS):
                    explained.append(await self._explain_slice(query, start))
        except TimeoutError:
            raise DeadlineExceeded(
                f"{len(explained) * SLICE_ROWS} of {query.size} rows were explained within {limit_s * 1e3:.0f} ms; "
                "retry later, or with fewer rows"
            ) from None
        finally:
            self._requests -= 1
        scores, sources, rows, contributions = zip(*explained, strict=True)
        return ExplainedPrediction(
            [score for part in scores for score in part],
            [source for part in sources for source in part],
            np.concatenate(rows),
            np.concatenate([part.values for part in contributions]),
            contributions[0].base,
        )

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _explain_slice(self, query: Query, start: int) -> tuple[list[float], list[int], Matrix, Contributions]:
        part = query
        if query.size > SLICE_ROWS:
            stop = min(start + SLICE_ROWS, query.size)
            given = {position: values[start:stop] for position, values in query.given.items()}  # type: ignore[index]
            part = query._replace(keys=query.keys[start:stop], given=given, first_row=start)
        fetched = await self._fetch(part.keys, query.trace) if part.needs_store else None
        rows, (source,) = self._assembler.assemble([part], fetched)
        if isinstance(source, Exception):
            raise source
        loop = asyncio.get_running_loop()
        scores, contributions = await loop.run_in_executor(self._thread, self._run, rows, query.trace)
        if self._recorder is not None:
            self._recorder.offer((part,), rows, (Prediction(scores, source),), fetched)
        return scores, source, rows, contributions

    def _run(self, rows: Matrix, trace: Trace | None) -> tuple[list[float], Contributions]:
        if isinstance(self._explainer, NotExplainable):
            raise self._explainer
        return self._score(rows, trace), self._explainer.explain(rows)


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere a thread has no niceness of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)

"""A failure that comes again with every request or chunk: it is logged once in a while, with how often it came."""

from __future__ import annotations

import time
from collections.abc import Callable

LOG_AGAIN_S = 60.0


class RepeatedFailure:
    """Counts a failure, and says when it is to be logged. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: float | None = None
        self._count = 0

    def count(self) -> int:
        """Count one failure. Return how many there were since the last line where one is due, otherwise 0."""
        self._count += 1
        now = self._clock()
        if self._logged_at is not None and now - self._logged_at < LOG_AGAIN_S:
            return 0
        count, self._count, self._logged_at = self._count, 0, now
        return count

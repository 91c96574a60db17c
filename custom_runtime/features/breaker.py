"""A circuit breaker: after repeated failures requests fail at once, and one request per interval probes the store.

Why not a library: circuitbreaker and purgatory admit every request in the half-open state, pybreaker's asyncio support
needs Tornado, and none of them takes a clock. Needed here are one probe per interval and process, and no await.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

# One slow answer is not an outage; three in a row cost three requests their timeout.
THRESHOLD = 3
PROBE_INTERVAL_S = 0.5
# Each process probes at its own times, so that a recovering store does not get all probes at the same moment.
JITTER = 0.2


class Breaker:
    """Closed: every request is admitted. Open: one request per interval is admitted; its success closes the breaker.

    A probe that ends as neither a success nor a failure (its caller disconnected) needs no clean-up: the next interval
    admits another one.
    """

    def __init__(
        self,
        *,
        threshold: int = THRESHOLD,
        interval_s: float = PROBE_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._threshold = threshold
        self._interval_s = interval_s
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._next_probe_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether requests fail at once."""
        return self._failures >= self._threshold

    def admit(self) -> bool:
        """Return whether a request may use the store now; while open, True is returned once per interval."""
        if self._failures < self._threshold:
            return True
        if self._clock() < self._next_probe_s:
            return False
        self._schedule_probe()
        return True

    def succeed(self) -> None:
        """Record that the store answered."""
        self._failures = 0

    def fail(self) -> None:
        """Record that the store was down or slow."""
        self._failures += 1
        if self.is_open:
            self._schedule_probe()

    def _schedule_probe(self) -> None:
        spread = 1.0 - JITTER + 2.0 * JITTER * self._jitter()
        self._next_probe_s = self._clock() + self._interval_s * spread
